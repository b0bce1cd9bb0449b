"""The commands of setup.py: build_ext, build_py, egg_info and sdist.

An error that the user can mend ends as one plain line, without a traceback.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cffi
from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py
from setuptools.command.egg_info import egg_info as _egg_info
from setuptools.command.sdist import sdist as _sdist
from setuptools.errors import CompileError

from vendor.build import elf, native, readme, recipe
from vendor.build.libraries import Libraries, library_name
from vendor.progress import Progress
from vendor.source import fetch, pin as pins
from vendor.tools import BuildError, FetchError, jobs

ROOT = Path(__file__).resolve().parents[2]

_MANIFEST = "manifest.json"

_OTHER_HEADERS = """error: the extension does not compile against the headers of LLAMA_CFFI_PREFIX, which belong to
another version of llama.cpp than the declarations in this tree. Run `make generate` with the same LLAMA_CFFI_PREFIX to
read those headers, and build again."""


@functools.cache
def plan() -> Libraries:
    """What to build, decided once in this process; ends it with the reason if that is not possible."""
    with _plain_errors():
        return native.plan()


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (BuildError, FetchError) as error:
        raise SystemExit(f"error: {error}") from None


def _linked() -> str:
    """The libraries that the extension must find loaded, as C initializers: the file and the id of each."""
    ids = {library_name(name): (name, elf.identify(plan().lib / name)) for name in plan().linked}
    return ",".join('{{"{}","{}"}}'.format(*ids[name]) for name in recipe.LINKED)


class build_ext(_build_ext):
    """Puts the native libraries into the package, and takes an extension that was compiled before from the cache."""

    def run(self) -> None:
        if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
            raise SystemExit("error: Python.h is missing: install Python's headers (Debian: apt install python3-dev)")
        with _plain_errors():
            plan().make()
            self._copy_libraries()
        super().run()

    def _copy_libraries(self) -> None:
        target = self._library_dir()
        target.mkdir(parents=True, exist_ok=True)
        files = plan().files()
        for stale in target.iterdir():
            if stale.name not in (*files, _MANIFEST):
                stale.unlink()
        for name, source in files.items():
            copy = target / name
            if copy.exists() and (copy.stat().st_size, copy.stat().st_mtime) == (
                source.stat().st_size,
                source.stat().st_mtime,
            ):
                continue
            scratch = copy.with_name(f".{name}.tmp")
            shutil.copy2(source, scratch)
            os.replace(scratch, copy)  # a running interpreter keeps the old file mapped
        (target / _MANIFEST).write_text(plan().manifest(), encoding="utf-8")
        notices = target.parent / "licenses"
        shutil.rmtree(notices, ignore_errors=True)
        notices.mkdir()
        for name, source in plan().licenses().items():
            shutil.copyfile(source, notices / name)

    def _library_dir(self) -> Path:
        package = ROOT / "llama_cffi" if self.inplace else Path(self.build_lib) / "llama_cffi"
        return package / "lib"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        ext.define_macros = [*ext.define_macros, ("LLAMA_CFFI_LIBRARIES", _linked())]
        cached = pins.cache_root() / "extension" / _extension_digest() / target.name
        if not cached.is_file():
            try:
                with self._several_compilers():
                    super().build_extension(ext)
            except CompileError:
                if os.environ.get("LLAMA_CFFI_PREFIX"):
                    print(_OTHER_HEADERS, file=sys.stderr)
                raise
            cached.parent.mkdir(parents=True, exist_ok=True)
            scratch = cached.with_name(f".{cached.name}.{os.getpid()}")
            shutil.copy2(target, scratch)
            os.replace(scratch, cached)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.tmp")
        shutil.copy(cached, scratch)  # with the time of now: setuptools keeps an extension in the tree that is newer
        os.replace(scratch, target)

    @contextlib.contextmanager
    def _several_compilers(self) -> Iterator[None]:
        """Compile several files at the same time, with progress; setuptools compiles them one after another."""
        compiler: Any = self.compiler
        compile_one, link = compiler._compile, compiler.link_shared_object
        running: list[Future[None]] = []

        def link_all(*words: Any, **more: Any) -> None:
            progress = Progress("compiling llama_cffi._native", len(running))
            for done, future in enumerate(running, 1):
                future.result()
                progress.update(done)
            progress.finish()
            link(*words, **more)

        with ThreadPoolExecutor(jobs()) as pool:
            compiler._compile = lambda *words: running.append(pool.submit(compile_one, *words))
            compiler.link_shared_object = link_all
            try:
                yield
            finally:
                for future in running:
                    future.cancel()
                compiler._compile, compiler.link_shared_object = compile_one, link

    def get_outputs(self) -> list[str]:
        """Also the libraries, so that an uninstall removes them."""
        lib = self._library_dir()
        names = [*sorted(plan().files()), _MANIFEST] if plan().lib.is_dir() else []
        notices = [str(lib.parent / "licenses" / name) for name in plan().licenses()]
        return [*super().get_outputs(), *(str(lib / name) for name in names), *notices]


def _extension_digest() -> str:
    import build_ffi  # at the root, beside setup.py

    # The stable ABI: one file for all versions of Python. `abiflags` tells debug and free-threaded builds apart.
    digest = hashlib.sha256(plan().digest.encode() + _linked().encode())
    for item in (sys.implementation.name, getattr(sys, "abiflags", ""), cffi.__version__):
        digest.update(str(item).encode() + b"\0")
    for path in build_ffi.inputs():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class build_py(_build_py):
    """Starts with an empty folder, so that leftovers of an earlier build do not get into a wheel."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "llama_cffi", ignore_errors=True)
        super().run()


class egg_info(_egg_info):
    """Writes the metadata of wheels and source distributions, with a description whose links work on an index."""

    def run(self) -> None:
        metadata = self.distribution.metadata
        text, urls = metadata.long_description, getattr(metadata, "project_urls", None) or {}
        metadata.long_description = readme.for_index(text or "", urls, metadata.get_version())
        try:
            super().run()
        finally:
            metadata.long_description = text


class sdist(_sdist):
    """Includes the llama.cpp tree, so that a build from the source distribution does not download it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        with _plain_errors():
            fetch.bundle(Path(base_dir))
