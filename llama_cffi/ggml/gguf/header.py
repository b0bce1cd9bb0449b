"""The header of a GGUF file: where each value of the metadata and each tensor is, and how they are written.

ggml decides whether a file is valid (`ggml/gguf_native.py`). This says where things are: ggml's API has neither the
bytes of a text with a NUL in it nor the number of dimensions of a tensor, and cannot remove a tensor.
"""

from __future__ import annotations

import struct

from llama_cffi._generated.enums import GgufType
from llama_cffi.ggml.gguf.values import ENCODING, SIZES, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20  # for writing: a falsified alignment must not fill the disk with padding


class Header:
    """What a header says. `tensors` are (name, lengths, type, offset in the data section)."""

    __slots__ = ("metadata", "tensors", "version")

    def __init__(
        self, version: int, metadata: dict[str, Value], tensors: list[tuple[str, tuple[int, ...], int, int]]
    ) -> None:
        self.version, self.metadata, self.tensors = version, metadata, tensors


def parse(data: bytes) -> Header:
    """Read a header that ggml has accepted. Raises ValueError if it is another one: the file has changed since."""
    try:
        reader = _Reader(data)
        magic, version, n_tensors, n_keys = reader.unpack("=4sIQQ")
        if magic != MAGIC:
            raise ValueError("it does not begin with GGUF")
        metadata = dict(reader.entry() for _ in range(n_keys))
        tensors = [reader.tensor() for _ in range(n_tensors)]
    except (struct.error, KeyError, IndexError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return Header(version, metadata, tensors)


class _Reader:
    """Reads one thing after the other. Whatever ends behind the data raises struct.error."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def unpack(self, code: str) -> tuple[Any, ...]:
        found = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return found

    def take(self, size: int) -> memoryview:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise struct.error(f"{size} bytes are missing at {start}")
        return self._data[start : self._at]

    def text(self) -> str:
        return str(self.take(self.unpack("=Q")[0]), *ENCODING)

    def entry(self) -> tuple[str, Value]:
        key = self.text()
        kind = GgufType(self.unpack("=i")[0])
        if kind != GgufType.ARRAY:
            size = self.unpack("=Q")[0] if kind == GgufType.STRING else SIZES[kind]
            return key, Value(kind, self.take(size))
        number, count = self.unpack("=iQ")
        item = GgufType(number)
        size = self._texts(count) if item == GgufType.STRING else count * SIZES[item]
        return key, Value(kind, self.take(size), item, count)

    def _texts(self, count: int) -> int:
        """The size of texts with their lengths."""
        length, data, at = struct.Struct("=Q").unpack_from, self._data, self._at
        for _ in range(count):
            at += 8 + length(data, at)[0]
        return at - self._at

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        (n_dims,) = self.unpack("=I")
        lengths = self.unpack(f"={n_dims}Q")
        kind, offset = self.unpack("=iQ")
        return name, lengths, kind, offset


def padding(size: int, alignment: int) -> int:
    """The number of bytes up to the next multiple of `alignment`."""
    return -size % alignment


def alignment_of(metadata: dict[str, Value]) -> int:
    """The alignment of the tensors of a file with this metadata."""
    value = metadata.get(ALIGNMENT_KEY)
    return DEFAULT_ALIGNMENT if value is None else int(value.python())


def encode(
    version: int, metadata: dict[str, Value], tensors: Iterable[tuple[str, tuple[int, ...], int, int]], alignment: int
) -> Iterator[bytes | memoryview]:
    """Yield the parts of a header. `tensors` are (name, lengths, type, size in bytes), in the order of the data."""
    rows = list(tensors)
    written = struct.pack("=4sIQQ", MAGIC, version, len(rows), len(metadata))
    yield written
    total = len(written)
    for key, value in metadata.items():
        head = _text(key) + value.head()
        yield head
        yield value.data
        total += len(head) + len(value.data)
    offset = 0
    for name, lengths, kind, size in rows:
        row = _text(name) + struct.pack(f"=I{len(lengths)}QiQ", len(lengths), *lengths, kind, offset)
        yield row
        total += len(row)
        offset += size + padding(size, alignment)
    if rows:
        yield bytes(padding(total, alignment))


def _text(value: str) -> bytes:
    data = value.encode(*ENCODING)
    return struct.pack("=Q", len(data)) + data
