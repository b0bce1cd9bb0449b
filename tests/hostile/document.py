"""GGUF files as something to take apart, falsify and put together again, without the checks that a writer makes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import gguf

ALIGNMENT = 32
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10


@dataclass
class Entry:
    """A metadata entry. An array's `items` is the type of its elements; a string's value is bytes."""

    key: bytes
    type: int
    value: object
    items: int = -1

    def encoded(self) -> bytes:
        head = _text(self.key) + struct.pack("<i", self.type)
        if self.type != ARRAY:
            return head + _scalar(self.type, self.value)
        assert isinstance(self.value, list)
        values = b"".join(_scalar(self.items, value) for value in self.value)
        return head + struct.pack("<iQ", self.items, len(self.value)) + values


@dataclass
class Tensor:
    """A tensor. `shift` falsifies its offset."""

    name: bytes
    dims: list[int]
    type: int
    data: bytes
    shift: int = 0


@dataclass
class Document:
    """A whole file."""

    entries: list[Entry]
    tensors: list[Tensor]
    version: int = 3
    counts: tuple[int, int] = (0, 0)  # how many tensors and entries more the header claims
    marks: list[int] = field(default_factory=list)  # where the parts of the encoded file begin

    def entry(self, key: str) -> Entry:
        return next(entry for entry in self.entries if entry.key == key.encode())

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def copy(self) -> Document:
        return replace(
            self, entries=[replace(e) for e in self.entries], tensors=[replace(t, dims=[*t.dims]) for t in self.tensors]
        )

    def put(self, key: str, type: int, value: object, items: int = -1) -> Document:
        """Set an entry, new or not; return the document."""
        new = Entry(key.encode(), type, value, items)
        for i, entry in enumerate(self.entries):
            if entry.key == new.key:
                self.entries[i] = new
                return self
        self.entries.append(new)
        return self

    def encoded(self) -> bytes:
        """The file's bytes; `marks` tells its parts afterwards."""
        self.marks = [0, 4, 8, 16]
        more_tensors, more_entries = self.counts
        out = bytearray(b"GGUF" + struct.pack("<I", self.version))
        out += struct.pack(
            "<QQ", (len(self.tensors) + more_tensors) % (1 << 64), (len(self.entries) + more_entries) % (1 << 64)
        )
        for entry in self.entries:
            self.marks.append(len(out))
            out += entry.encoded()
        offset = 0
        for tensor in self.tensors:
            self.marks.append(len(out))
            out += _text(tensor.name) + struct.pack("<I", len(tensor.dims))
            out += b"".join(struct.pack("<Q", n % (1 << 64)) for n in tensor.dims)
            out += struct.pack("<iQ", tensor.type, (offset + tensor.shift) % (1 << 64))
            offset += _padded(len(tensor.data))
        self.marks.append(len(out))
        out += bytes(_padded(len(out)) - len(out))
        for tensor in self.tensors:
            self.marks.append(len(out))
            out += tensor.data + bytes(_padded(len(tensor.data)) - len(tensor.data))
        return bytes(out)


def parse(data: bytes) -> Document:
    """Take a well-formed file apart."""
    at = 24
    version, n_tensors, n_entries = struct.unpack_from("<IQQ", data, 4)

    def take(layout: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from("<" + layout, data, at)
        at += struct.calcsize("<" + layout)
        return values

    def text() -> bytes:
        nonlocal at
        (size,) = take("Q")
        at += size
        return data[at - size : at]

    def value(type: int) -> object:
        return text() if type == STRING else take(SCALARS[type])[0]

    entries = []
    for _ in range(n_entries):
        key, (type,) = text(), take("i")
        if type == ARRAY:
            items, n = take("iQ")
            entries.append(Entry(key, type, [value(items) for _ in range(n)], items))
        else:
            entries.append(Entry(key, type, value(type)))
    rows = []
    for _ in range(n_tensors):
        name, (n_dims,) = text(), take("I")
        rows.append((name, [*take(f"{n_dims}Q")], *take("iQ")))
    start = _padded(at)
    tensors = [
        Tensor(name, dims, type, data[start + offset : start + offset + size_of(dims, type)])
        for name, dims, type, offset in rows
    ]
    return Document(entries, tensors, version)


def size_of(dims: list[int], type: int) -> int:
    """How many bytes a tensor has."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type)]
    n = 1
    for dim in dims:
        n *= dim
    return n // block * size


def fields(entries: list[Entry]) -> Iterator[tuple[int, Entry]]:
    """The scalar entries that are numbers, with their places."""
    return ((i, entry) for i, entry in enumerate(entries) if entry.type in SCALARS)


def _scalar(type: int, value: object) -> bytes:
    if type == STRING:
        assert isinstance(value, bytes)
        return _text(value)
    if type not in SCALARS:
        assert isinstance(value, bytes)  # a type that does not exist, and whatever follows
        return value
    return struct.pack("<" + SCALARS[type], value)


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
