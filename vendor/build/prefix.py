"""Use an installed llama.cpp in place of the pinned one: `LLAMA_CFFI_PREFIX=<folder>`.

The folder is what `cmake --install` made: `include/` with the headers, `lib/` with the libraries, and `bin/` or `lib/`
with ggml's modules, if it was built with modules. The files are copied into the package unchanged; overrides do not
apply to them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vendor.build.libraries import Libraries, module_name
from vendor.build.mtmd.library import FILE as MTMD
from vendor.scratch import scratch_folder
from vendor.source import fetch, pin as pins
from vendor.tools import BuildError, require

_HEADERS = [f"{name}.h" for name in ("llama", "ggml", "ggml-alloc", "ggml-backend", "ggml-cpu", "ggml-opt", "gguf")]
_HEADERS += ["ggml-rpc.h", "ggml-vulkan.h"]
_LINKED = ("libllama.so", "libggml.so", "libggml-base.so")


@dataclass(frozen=True)
class Prefix(Libraries):
    """An installed llama.cpp: the libraries that the extension is linked with, and the modules beside them."""

    root: Path
    include: Path
    chosen: tuple[tuple[str, Path], ...]  # name in the package and file; the linked ones first
    count: int  # the number of linked ones

    @classmethod
    def at(cls, root: Path) -> Prefix:
        """Find the files in a folder. Raises BuildError with the list of missing ones."""
        root = root.expanduser().resolve()
        require(["readelf"])
        include = root / "include"
        missing = [f"include/{name}" for name in _HEADERS if not (include / name).is_file()]
        folders = [path for path in _library_folders(root) if path.is_dir()]
        linked: dict[str, Path] = {}
        for name in _LINKED:
            path = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if path is None:
                missing.append(f"lib/{name}")
            else:
                linked |= _with_needs(path, folders)
        if missing:
            raise BuildError(
                f"LLAMA_CFFI_PREFIX={root} is not an installed llama.cpp with shared libraries: missing "
                f"{', '.join(missing)}. Build llama.cpp with -DBUILD_SHARED_LIBS=ON and `cmake --install` it there, "
                "or unset LLAMA_CFFI_PREFIX to use the pinned source."
            )
        files = dict(linked)
        for folder in [*folders, root / "bin"]:
            for path in sorted(folder.glob("libggml-*.so")):
                if module_name(path.name, "") and path.resolve() not in {p.resolve() for p in linked.values()}:
                    files.setdefault(path.name, path)
        mtmd = next((folder / "libmtmd.so" for folder in folders if (folder / "libmtmd.so").is_file()), None)
        if mtmd is not None and (include / "mtmd.h").is_file():
            files[MTMD] = mtmd.resolve()
        return cls(root, include, tuple(files.items()), len(linked))

    def require(self, names: Sequence[str]) -> None:
        """Raise BuildError if one of these backends, or the CPU backend, is missing."""
        missing = [name for name in ("cpu", *names) if name not in self.modules()]
        if missing:
            raise BuildError(
                f"LLAMA_CFFI_PREFIX={self.root} has no {missing[0]} backend (libggml-{missing[0]}*.so in lib or bin): "
                f"build that llama.cpp with -DGGML_{missing[0].upper()}=ON, or do not request this backend"
            )

    @property
    def digest(self) -> str:
        seed = hashlib.sha256()
        for name in _HEADERS:
            seed.update((self.include / name).read_bytes())
        for name in ("mtmd.h", "mtmd-helper.h") if MTMD in dict(self.chosen) else ():
            seed.update((self.include / name).read_bytes())
        for name, path in self.chosen:
            seed.update(name.encode() + b"\0" + path.read_bytes())
        return seed.hexdigest()[:16]

    @property
    def lib(self) -> Path:
        return pins.cache_root() / "prefix" / self.digest / "lib"

    @property
    def headers(self) -> list[Path]:
        """Without mtmd's headers there, those of the pinned llama.cpp: the extension is compiled with them."""
        if MTMD in dict(self.chosen):
            return [self.include]
        return [self.include, fetch.mtmd_dir() / "tools" / "mtmd"]

    @property
    def linked(self) -> list[str]:
        return [name for name, _ in self.chosen[: self.count]]

    @property
    def flags(self) -> tuple[str, ...]:
        return ()

    @property
    def about(self) -> dict[str, object]:
        return {"llama_cpp": _version(self.root), "origin": f"LLAMA_CFFI_PREFIX={self.root}"}

    def make(self) -> None:
        """Copy the libraries, under the names by which they find each other (their SONAMEs)."""
        lib = self.lib
        if not lib.is_dir():
            with scratch_folder(lib.parent) as scratch:
                for name, path in self.chosen:
                    shutil.copy2(path, scratch / name)
                scratch.chmod(0o755)
                try:
                    os.rename(scratch, lib)
                except OSError:
                    if not lib.is_dir():  # otherwise another process was faster
                        raise

    def files(self) -> dict[str, Path]:
        return {name: self.lib / name for name, _ in self.chosen}

    def modules(self) -> dict[str, list[str]]:
        named: dict[str, list[str]] = {}
        for index, (file, _) in enumerate(self.chosen):
            name = module_name(file, "")
            if name is not None:
                named.setdefault(name, []).extend([file] if index >= self.count else [])
        return named


def _library_folders(root: Path) -> Iterator[Path]:
    yield root / "lib"
    yield root / "lib64"
    yield from sorted((root / "lib").glob("*-linux-gnu*"))


def _with_needs(path: Path, folders: Sequence[Path]) -> dict[str, Path]:
    """A library by its SONAME, and the libraries of llama.cpp that it needs."""
    text = subprocess.run(["readelf", "-d", "-W", str(path)], capture_output=True, text=True, check=False).stdout
    soname = re.search(r"\(SONAME\).*\[(.+)\]", text)
    found = {soname[1] if soname else path.name: path.resolve()}
    for needed in re.findall(r"\(NEEDED\).*\[(lib(?:ggml|llama)[^\]]*)\]", text):
        other = next((folder / needed for folder in folders if (folder / needed).is_file()), None)
        if other is not None and needed not in found:
            found |= _with_needs(other, folders)
    return found


def _version(root: Path) -> str:
    for path in root.glob("lib*/**/pkgconfig/llama.pc"):
        version = re.search(r"^Version: *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if version:
            return f"llama.cpp {version[1]} in {root}"
    return f"the llama.cpp in {root}"
