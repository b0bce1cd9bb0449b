"""Where the data of a tensor comes from: a file, a buffer, or numbers that are quantized while they are written.

Files are read by calls and not through a mapping, which ends the process if somebody truncates the file. Only a view
maps it.
"""

from __future__ import annotations

import os

from llama_cffi._core.files import open_regular
from llama_cffi._core.ownership import own
from llama_cffi.errors import ClosedError
from llama_cffi.ggml.quantization import quantize, row_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    import numpy as np
    import numpy.typing as npt

    from llama_cffi._generated.enums import GgmlType

    class TensorData(Protocol):
        """The bytes of a tensor, as a file stores them."""

        size: int

        def chunks(self, unit: int) -> Iterator[bytes | bytearray | memoryview]:
            """Yield the bytes in parts of a multiple of `unit` bytes. A part is valid until the next one."""
            ...

        def view(self) -> memoryview:
            """Return all bytes, without a copy where that is possible."""
            ...


CHUNK = 1 << 20  # bytes: a part stays in the CPU's cache while it is dequantized


class FileSource:
    """A file that is open for reading."""

    def __init__(self, path: str) -> None:
        with open_regular(path) as file:
            self._owned = own(os.close, os.dup, file.fileno())
        self.path = path
        self.size = os.fstat(self._owned.pointer).st_size
        self._mapping: memoryview | None = None

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer from the file. Raises OSError if the file ends before, ClosedError if it was closed."""
        done = 0
        pin = self._pinned()
        with pin as file:
            while done < len(buffer):
                count = os.preadv(file, [buffer[done:]], offset + done)
                if not count:
                    raise self._shorter(os.fstat(file).st_size)
                done += count

    def read(self, size: int) -> bytes:
        """Return the first bytes of the file."""
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), 0)
        return bytes(buffer)

    def mapped(self) -> memoryview:
        """Return the file as memory that cannot be written to. It lives as long as a view of it."""
        if self._mapping is None:
            import mmap

            with self._pinned() as file:
                try:
                    self._mapping = memoryview(mmap.mmap(file, self.size, access=mmap.ACCESS_READ))
                except ValueError:
                    raise self._shorter(os.fstat(file).st_size) from None
        return self._mapping

    def _pinned(self) -> Any:
        pin = self._owned.pin()
        if pin is None:
            raise ClosedError(f"the GGUF file {self.path} is closed: open it again")
        return pin

    def _shorter(self, size: int) -> OSError:
        return OSError(f"{self.path} has become shorter since it was opened: {size} of {self.size} bytes are left")

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._owned.pointer is None

    def close(self) -> None:
        """Close the file. Views of its mapping stay valid."""
        self._owned.finish()
        self._mapping = None


class FileData:
    """A part of a file."""

    __slots__ = ("offset", "size", "source")

    def __init__(self, source: FileSource, offset: int, size: int) -> None:
        self.source, self.offset, self.size = source, offset, size

    def chunks(self, unit: int) -> Iterator[bytes | bytearray | memoryview]:
        step = max(unit, CHUNK // unit * unit)
        buffer = memoryview(bytearray(min(step, self.size)))
        for start in range(0, self.size, step):
            part = buffer[: min(step, self.size - start)]
            self.source.read_into(part, self.offset + start)
            yield part

    def view(self) -> memoryview:
        if self.source.closed:
            self.source._pinned()  # raises
        return self.source.mapped()[self.offset : self.offset + self.size] if self.size else memoryview(b"")


class BufferData:
    """A buffer, which is kept and not copied."""

    __slots__ = ("_buffer", "size")

    def __init__(self, buffer: memoryview) -> None:
        self._buffer, self.size = buffer.toreadonly(), len(buffer)

    def chunks(self, unit: int) -> Iterator[bytes | bytearray | memoryview]:
        step = max(unit, CHUNK // unit * unit)
        for start in range(0, self.size, step):
            yield self._buffer[start : start + step]

    def view(self) -> memoryview:
        return self._buffer


class NumberData:
    """Numbers, which are converted to a type of ggml whenever they are read. The array is kept and not copied."""

    __slots__ = ("_array", "_kind", "_name", "_row", "_weights", "size")

    def __init__(self, kind: GgmlType, array: npt.NDArray[Any], weights: npt.NDArray[np.float32] | None, name: str):
        self._kind, self._array, self._weights, self._name = kind, array, weights, name
        self._row = row_size(kind, array.shape[-1], name)
        self.size = array.size // max(array.shape[-1], 1) * self._row

    def chunks(self, unit: int) -> Iterator[bytes | bytearray | memoryview]:
        array = self._array
        if not array.size:
            return
        matrices = array.reshape(-1, *array.shape[-2:]) if array.ndim > 1 else array.reshape(1, 1, -1)
        n_rows = max(1, CHUNK // (4 * array.shape[-1]))
        for i, matrix in enumerate(matrices):
            weights = None if self._weights is None else self._weights[i]
            for start in range(0, len(matrix), n_rows):
                yield quantize(self._kind, matrix[start : start + n_rows], weights, self._name)

    def view(self) -> memoryview:
        return memoryview(b"".join(self.chunks(1)))
