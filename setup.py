"""Builds llama.cpp's libraries, then the extension over them. The metadata is in pyproject.toml."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import cffi
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py
from setuptools.command.sdist import sdist as _sdist
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from vendor.build import elf, native, recipe  # noqa: E402
from vendor.build.libraries import Libraries, library_name  # noqa: E402
from vendor.source import fetch, pin as pins  # noqa: E402
from vendor.tools import BuildError  # noqa: E402


def _plan() -> Libraries:
    """What to build, or an end with the reason and the cure, without a traceback."""
    try:
        return native.plan()
    except (BuildError, fetch.FetchError) as error:
        raise SystemExit(f"error: {error}") from None


_MANIFEST = "manifest.json"

PLAN = _plan()  # before cffi executes build_ffi.py, so that what is missing is said once and plainly


_ANOTHER_VERSION = """error: the extension does not fit the headers of LLAMA_CFFI_PREFIX: they are of another llama.cpp
than the declarations in this tree. `make generate` with the same LLAMA_CFFI_PREFIX reads the headers anew; then build
again."""


def _linked() -> str:
    """What the extension is to find loaded, as C: the file and the id of each library that its calls go to."""
    ids = {library_name(name): (name, elf.identify(PLAN.lib / name)) for name in PLAN.linked}
    return ",".join('{{"{}","{}"}}'.format(*ids[name]) for name in recipe.LINKED)


class build_ext(_build_ext):
    """Puts the native libraries inside the package, and never compiles the same extension twice."""

    def run(self) -> None:
        if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
            raise SystemExit("error: Python.h is missing: install Python's headers (Debian: apt install python3-dev)")
        try:
            PLAN.make()
        except BuildError as error:
            raise SystemExit(f"error: {error}") from None
        self._copy_libraries()
        super().run()

    def _copy_libraries(self) -> None:
        target = self._library_dir()
        target.mkdir(parents=True, exist_ok=True)
        wanted = PLAN.files()
        for stale in target.iterdir():
            if stale.name not in (*wanted, _MANIFEST):
                stale.unlink()
        for name, source in wanted.items():
            copy = target / name
            if copy.exists() and (copy.stat().st_size, copy.stat().st_mtime) == (
                source.stat().st_size,
                source.stat().st_mtime,
            ):
                continue
            scratch = copy.with_name(f".{name}.tmp")
            shutil.copy2(source, scratch)
            os.replace(scratch, copy)  # a running interpreter keeps the old file mapped
        (target / _MANIFEST).write_text(PLAN.manifest(), encoding="utf-8")
        notices = target.parent / "licenses"
        shutil.rmtree(notices, ignore_errors=True)
        notices.mkdir()
        for name, source in PLAN.licenses().items():
            shutil.copyfile(source, notices / name)

    def _library_dir(self) -> Path:
        package = ROOT / "llama_cffi" if self.inplace else Path(self.build_lib) / "llama_cffi"
        return package / "lib"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        ext.define_macros = [*ext.define_macros, ("LLAMA_CFFI_LIBRARIES", _linked())]
        cached = pins.cache_root() / "extension" / self._extension_digest() / target.name
        if not cached.is_file():
            print("compiling llama_cffi._native (about 30 seconds)", file=sys.stderr, flush=True)
            try:
                super().build_extension(ext)
            except CompileError:
                if os.environ.get("LLAMA_CFFI_PREFIX"):
                    print(_ANOTHER_VERSION, file=sys.stderr)
                raise
            cached.parent.mkdir(parents=True, exist_ok=True)
            scratch = cached.with_name(f".{cached.name}.{os.getpid()}")
            shutil.copy2(target, scratch)
            os.replace(scratch, cached)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.tmp")
        shutil.copy2(cached, scratch)
        os.replace(scratch, target)

    def _extension_digest(self) -> str:
        import build_ffi

        digest = hashlib.sha256(PLAN.digest.encode() + _linked().encode())
        for item in (sys.implementation.cache_tag, sysconfig.get_config_var("EXT_SUFFIX"), cffi.__version__):
            digest.update(str(item).encode() + b"\0")
        for path in build_ffi.INPUTS:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def get_outputs(self) -> list[str]:
        """Also the libraries, so that an uninstall removes them."""
        lib = self._library_dir()
        names = [*sorted(PLAN.files()), _MANIFEST] if PLAN.lib.is_dir() else []
        notices = [str(lib.parent / "licenses" / name) for name in PLAN.licenses()]
        return [*super().get_outputs(), *(str(lib / name) for name in names), *notices]


class build_py(_build_py):
    """Starts from nothing: what an earlier build left in build/ must not get into a wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "llama_cffi", ignore_errors=True)
        super().run()


class sdist(_sdist):
    """Carries the llama.cpp tree that it is built from, so that a build needs no network for it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(fetch.source_dir(), Path(base_dir) / fetch.BUNDLED.relative_to(ROOT), dirs_exist_ok=True)


setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": build_ext, "build_py": build_py, "sdist": sdist},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
