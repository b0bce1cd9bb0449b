"""The id of a library: its build-id, which its linker put into it, and where it has none a digest of its code.

The package reads the same from libraries that are loaded: `llama_cffi/_shim/abi.cpp`.
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


class _Segment(NamedTuple):
    kind: int
    flags: int
    alignment: int
    data: memoryview


def identify(path: Path) -> str:
    """The id of a shared library. Raises BuildError where the file is none."""
    try:
        segments = list(_segments(path.read_bytes()))
    except (struct.error, ValueError):
        raise BuildError(f"{path} is no shared library of this machine: build llama.cpp for it") from None
    notes = (_build_id(part) for part in segments if part.kind == _NOTE)
    return next(filter(None, notes), "") or f"code-{_digest(segments):016x}"


def _segments(data: bytes) -> Iterator[_Segment]:
    if data[:4] != b"\x7fELF":
        raise ValueError("no ELF")
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
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
