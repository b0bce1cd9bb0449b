"""Read ELF files: the id of a shared library (its build-id, or a digest of its code), and the names of its symbols.

The package reads the same ids from libraries that are loaded: `llama_cffi/_shim/abi.cpp`.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vendor.tools import BuildError

_LOAD, _NOTE = 1, 4
_EXECUTE, _READ = 1, 4
_BUILD_ID = 3
_SYMBOL_TABLE = 2


class _Segment(NamedTuple):
    kind: int
    flags: int
    alignment: int
    data: memoryview


class _Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int


def identify(path: Path) -> str:
    """The id of a shared library. Raises BuildError if the file is not one."""
    try:
        segments = list(_segments(path.read_bytes()))
    except (struct.error, ValueError):
        raise _not_elf(path) from None
    notes = (_build_id(part) for part in segments if part.kind == _NOTE)
    return next(filter(None, notes), "") or f"code-{_digest(segments):016x}"


def symbols(path: Path) -> set[str]:
    """The names in a library's symbol table, local ones too; none if it was stripped.

    Raises BuildError if the file is not a shared library.
    """
    found: set[str] = set()
    try:
        data = path.read_bytes()
        sections = list(_sections(data))
        for table in sections:
            if table.kind == _SYMBOL_TABLE:
                names = sections[table.link].offset
                entries = memoryview(data)[table.offset : table.offset + table.size]
                layout = "IBBHQQ" if _is_wide(data) else "IIIBBH"
                for start, *_ in struct.iter_unpack(_order(data) + layout, entries):
                    found.add(data[names + start : data.index(b"\0", names + start)].decode("ascii", "replace"))
    except (struct.error, ValueError, IndexError):
        raise _not_elf(path) from None
    return found


def _not_elf(path: Path) -> BuildError:
    return BuildError(f"{path} is not a shared library of this machine: build llama.cpp for it")


def _order(data: bytes) -> str:
    return "<" if data[5] == 1 else ">"


def _is_wide(data: bytes) -> bool:
    """True for a 64-bit file. Raises ValueError if it is not an ELF file."""
    if data[:4] != b"\x7fELF":
        raise ValueError("not an ELF file")
    return data[4] == 2


def _sections(data: bytes) -> Iterator[_Section]:
    wide, order = _is_wide(data), _order(data)
    (start,) = struct.unpack_from(order + ("Q" if wide else "I"), data, 40 if wide else 32)
    size, count = struct.unpack_from(f"{order}HH", data, 58 if wide else 46)
    for place in range(start, start + size * count, size):
        layout = "IIQQQQI" if wide else "IIIIIII"
        _, kind, _, _, offset, length, link = struct.unpack_from(order + layout, data, place)
        yield _Section(kind, offset, length, link)


def _segments(data: bytes) -> Iterator[_Segment]:
    wide, order = _is_wide(data), _order(data)
    start, size, count = (
        *struct.unpack_from(order + ("Q" if wide else "I"), data, 32 if wide else 28),
        *struct.unpack_from(order + "HH", data, 54 if wide else 42),
    )
    view = memoryview(data)
    for place in range(start, start + size * count, size):
        if wide:
            kind, flags, offset, _, _, length, _, alignment = struct.unpack_from(f"{order}IIQQQQQQ", data, place)
        else:
            kind, offset, _, _, length, _, flags, alignment = struct.unpack_from(f"{order}IIIIIIII", data, place)
        yield _Segment(kind, flags, alignment, view[offset : offset + length])


def _build_id(notes: _Segment) -> str:
    alignment = 8 if notes.alignment == 8 else 4
    place = 0
    while place + 12 <= len(notes.data):
        name, size, kind = struct.unpack_from("=III", notes.data, place)
        description = place + _padded(12 + name, alignment)
        if kind == _BUILD_ID and bytes(notes.data[place + 12 : place + 12 + name]) == b"GNU\0":
            return notes.data[description : description + size].hex()
        place += _padded(_padded(12 + name, alignment) + size, alignment)
    return ""


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _digest(segments: list[_Segment]) -> int:
    """FNV-1a over the code, eight bytes at a time."""
    state = 0xCBF29CE484222325
    for part in segments:
        if part.kind == _LOAD and part.flags == _READ | _EXECUTE:
            for word in array("Q", bytes(part.data) + bytes(-len(part.data) % 8)):
                state = (state ^ word) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state
