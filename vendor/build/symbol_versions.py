"""The versions of the symbols that a shared library requires: read them, and remove some from the file.

A symbol without a version is looked up by its name: the dynamic linker takes the default version that it finds, or the
oldest one. Only 64-bit little-endian ELF files.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vendor.tools import BuildError, require

_DYNAMIC, _VERSION_NEEDS, _VERSIONS = 6, 0x6FFFFFFE, 0x6FFFFFFF
_VERNEEDNUM = 0x6FFFFFFF
_ANY_VERSION = 1

# A line of readelf: the section's number, the name, and the version, whose index may follow.
_ROW = re.compile(
    r"^ *\d+: [0-9a-f]+ .*(?:GLOBAL|WEAK|UNIQUE) .* (UND|ABS|COM|\d+) (\S+?)(?:@@?(\S+))?(?: \(\d+\))?$", re.MULTILINE
)


class Symbol(NamedTuple):
    name: str
    version: str  # empty: none
    undefined: bool


def symbols(path: Path) -> list[Symbol]:
    """The dynamic symbols of a shared library. Raises BuildError."""
    require(["readelf"])
    command = ["readelf", "--dyn-syms", "--wide", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    rows = [match.groups() for match in _ROW.finditer(result.stdout)]
    if result.returncode != 0 or not rows:
        raise BuildError(f"readelf cannot read the symbols of {path}: {result.stderr.strip()}")
    return [Symbol(name, version or "", section == "UND") for section, name, version in rows]


class _Section(NamedTuple):
    header: int  # its place in the file
    kind: int
    offset: int
    size: int
    link: int


def forget(path: Path, versions: set[str]) -> None:
    """Remove these versions from what a library requires: symbols that had one of them have none. Raises BuildError."""
    data = bytearray(path.read_bytes())
    if data[:6] != b"\x7fELF\x02\x01":
        raise BuildError(f"{path} is not a 64-bit little-endian ELF file")
    sections = list(_sections(data))
    by_kind = {section.kind: section for section in sections}
    needs, table, dynamic = (by_kind[kind] for kind in (_VERSION_NEEDS, _VERSIONS, _DYNAMIC))
    removed, count = _unlink(data, needs.offset, sections[needs.link].offset, versions)
    for place in range(table.offset, table.offset + table.size, 2):
        (index,) = struct.unpack_from("<H", data, place)
        if index & 0x7FFF in removed:
            struct.pack_into("<H", data, place, _ANY_VERSION)
    struct.pack_into("<I", data, needs.header + 44, count)
    for place in range(dynamic.offset, dynamic.offset + dynamic.size, 16):
        if struct.unpack_from("<Q", data, place) == (_VERNEEDNUM,):
            struct.pack_into("<Q", data, place + 8, count)
    path.write_bytes(data)


def _sections(data: bytearray) -> Iterator[_Section]:
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    for place in range(start, start + size * count, size):
        _, kind, _, _, offset, length, link = struct.unpack_from("<IIQQQQI", data, place)
        yield _Section(place, kind, offset, length, link)


def _unlink(data: bytearray, needs: int, strings: int, versions: set[str]) -> tuple[set[int], int]:
    """Take versions out of the lists of .gnu.version_r: a list of libraries, and a list of versions for each.

    Returns the indices of these versions, and the number of libraries that are left.
    """
    removed: set[int] = set()
    places: list[int] = []  # of the libraries' entries
    left: list[tuple[int, list[int]]] = []  # a library's name, and the places of its versions
    library, following = needs, -1
    while following:
        _, count, file, first, following = struct.unpack_from("<HHIII", data, library)
        kept: list[int] = []
        place = library + first
        for _ in range(count):
            _, _, index, name, step = struct.unpack_from("<IHHII", data, place)
            if _text(data, strings + name) in versions:
                removed.add(index)
            else:
                kept.append(place)
            place += step
        places.append(library)
        if kept:
            left.append((file, kept))
        library += following
    for place, after, (file, kept) in zip(places, [*places[1 : len(left)], 0], left, strict=False):
        struct.pack_into("<HHIII", data, place, 1, len(kept), file, kept[0] - place, after - place if after else 0)
        for version, next_version in zip(kept, [*kept[1:], 0], strict=True):
            struct.pack_into("<I", data, version + 12, next_version - version if next_version else 0)
    return removed, len(left)


def _text(data: bytearray, place: int) -> str:
    return data[place : data.index(b"\0", place)].decode("ascii")
