"""ABI checks: the extension, the generated Python files and the loaded libraries must come from one build.

`ffi.py` compares a few numbers at import, and asks this module for the reason only if they differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice

from llama_cffi._core import manifest as _manifest
from llama_cffi._generated.pin import ABI, PIN
from llama_cffi.errors import UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_ROWS = 3  # differences in one message
_REBUILD = "run `make build` in the source tree, or reinstall the package"


class Library:
    """A library that the extension was linked with (by its id), and the one that its calls reach."""

    __slots__ = ("file", "linked", "loaded", "path")

    def __init__(self, file: str, linked: str, loaded: str, path: str) -> None:
        self.file, self.linked, self.loaded, self.path = file, linked, loaded, path


def why_not(ffi: Any, lib: Any) -> str:
    """Return what differs and the next step as one message; empty if everything fits."""
    compiled = ffi.string(lib.LLAMA_CFFI_PIN).decode()
    if compiled != PIN:
        return (
            f"the extension was compiled for {compiled}, but the Python files are for {PIN}"
            f"{_listed(differences(ffi, lib))}: {_REBUILD}"
        )
    if lib.shim_abi() != ABI:
        rows = _listed(differences(ffi, lib)) or ", in the type of a field or of a function"
        return (
            f"the extension (ABI {lib.shim_abi():016x}) does not fit the Python files (ABI {ABI:016x}), both for "
            f"{PIN}{rows}: {_REBUILD}"
        )
    return "; ".join(_other(library) for library in libraries(ffi, lib) if library.loaded != library.linked)


def libraries(ffi: Any, lib: Any) -> list[Library]:
    """Return the libraries that the extension was linked with, each with the one that is loaded."""
    buffer = ffi.new("char[]", lib.shim_libraries(ffi.NULL, 0) + 1)
    lib.shim_libraries(buffer, len(buffer))
    text = ffi.string(buffer).decode("utf-8", "surrogateescape")
    return [Library(*line.split("\t", 3)) for line in text.splitlines()]


def require_files(ffi: Any, lib: Any, paths: Iterable[str]) -> None:
    """Raise UnavailableError if a file is not the one that was built with this package.

    A file that cannot be loaded at all passes: the load that follows reports why.
    """
    known = _manifest.read().ids
    buffer = ffi.new("char[256]")
    for path in paths:
        if not lib.shim_library_id(os.fsencode(path), buffer, len(buffer)):
            continue
        found, listed = ffi.string(buffer).decode(), known.get(os.path.basename(path))
        if found != listed:
            raise UnavailableError(
                f"{path} is not the file that was built for {PIN}: its id is {found}, but "
                f"{os.path.join(_manifest.FOLDER, 'manifest.json')} lists {listed or 'none'}: {_rebuild()}"
            )


def differences(ffi: Any, lib: Any) -> Iterator[str]:
    """Yield the sizes, offsets, constants and functions that differ between the extension and the Python files."""
    from llama_cffi._generated.layout import CONSTANTS, ENUMERATORS, FUNCTIONS, RECORDS  # large, and only needed here

    for record, (size, offsets) in RECORDS.items():
        try:
            found = ffi.sizeof(record)
            if found != size:
                yield f"{record}: {found} bytes in the extension, {size} in the Python files"
            for field, offset in offsets.items():
                found = ffi.offsetof(record, field)
                if found != offset:
                    name = f"{record.rpartition(' ')[2]}.{field}"
                    yield f"{name}: offset {found} in the extension, {offset} in the Python files"
        except (ffi.error, KeyError) as error:
            yield f"{record}: {error} in the extension"
    for name, value in {**CONSTANTS, **ENUMERATORS}.items():
        there = getattr(lib, name, None)
        there = ffi.string(there).decode() if isinstance(there, ffi.CData) else there
        if there != value:
            yield f"{name}: {there} in the extension, {value} in the Python files"
    for name in FUNCTIONS:
        if not hasattr(lib, name):
            yield f"{name}: not in the extension"


def _listed(rows: Iterator[str]) -> str:
    first = list(islice(rows, _MAX_ROWS + 1))
    more = "; and more" if len(first) > _MAX_ROWS else ""
    return f" ({'; '.join(first[:_MAX_ROWS])}{more})" if first else ""


def _other(library: Library) -> str:
    where = library.path or "the program itself"
    return (
        f"the extension was compiled for {PIN} and linked with {library.file} of id {library.linked}, but its calls go "
        f"to {where} of id {library.loaded}{_cure(library)}"
    )


def _cure(library: Library) -> str:
    if library.path and os.path.dirname(os.path.realpath(library.path)) == _manifest.FOLDER:
        try:
            manifest = _manifest.read()
        except UnavailableError:
            return f": {_REBUILD}"
        return f" (the package's libraries should be of {manifest.llama_cpp}): {_rebuild()}"
    if os.environ.get("LD_PRELOAD"):
        return f": start Python without LD_PRELOAD={os.environ['LD_PRELOAD']}"
    return (
        ", another llama.cpp that this process loaded before: run `from llama_cffi import lib` first, or use another "
        "process"
    )


def _rebuild() -> str:
    """The next step for wrong files of the package; it depends on where they came from."""
    origin = _manifest.read().origin
    if origin.startswith("LLAMA_CFFI_PREFIX="):
        return f"build the package again against that llama.cpp: {origin} pip install --force-reinstall --no-deps ."
    return _REBUILD
