"""Metadata and tensor lists of GGUF files, read before a load. ggml's parser reads them: it is hardened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import is_regular
from llama_cffi._core.ownership import own
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Scalar = bool | int | float | str

_READERS: dict[int, Callable[[Any, int], Scalar]] = {
    lib.GGUF_TYPE_UINT8: lib.gguf_get_val_u8,
    lib.GGUF_TYPE_INT8: lib.gguf_get_val_i8,
    lib.GGUF_TYPE_UINT16: lib.gguf_get_val_u16,
    lib.GGUF_TYPE_INT16: lib.gguf_get_val_i16,
    lib.GGUF_TYPE_UINT32: lib.gguf_get_val_u32,
    lib.GGUF_TYPE_INT32: lib.gguf_get_val_i32,
    lib.GGUF_TYPE_FLOAT32: lib.gguf_get_val_f32,
    lib.GGUF_TYPE_BOOL: lib.gguf_get_val_bool,
    lib.GGUF_TYPE_STRING: lambda file, key: _text(lib.gguf_get_val_str(file, key)),
    lib.GGUF_TYPE_UINT64: lib.gguf_get_val_u64,
    lib.GGUF_TYPE_INT64: lib.gguf_get_val_i64,
    lib.GGUF_TYPE_FLOAT64: lib.gguf_get_val_f64,
}
_NUMBERS: dict[int, str] = {
    lib.GGUF_TYPE_UINT8: "uint8_t *",
    lib.GGUF_TYPE_INT8: "int8_t *",
    lib.GGUF_TYPE_UINT16: "uint16_t *",
    lib.GGUF_TYPE_INT16: "int16_t *",
    lib.GGUF_TYPE_UINT32: "uint32_t *",
    lib.GGUF_TYPE_INT32: "int32_t *",
    lib.GGUF_TYPE_FLOAT32: "float *",
    lib.GGUF_TYPE_UINT64: "uint64_t *",
    lib.GGUF_TYPE_INT64: "int64_t *",
    lib.GGUF_TYPE_FLOAT64: "double *",
}


class TensorInfo:
    """A tensor of a file. `type` is a `GgmlType`, `shape` four numbers (the row length first), `size` in bytes."""

    __slots__ = ("name", "shape", "size", "type")

    def __init__(self, name: str, type: int, shape: tuple[int, ...], size: int) -> None:
        self.name, self.type, self.shape, self.size = name, type, shape, size


class ArrayInfo:
    """An array in the metadata of a file: the type of its items, their number, and the first ones."""

    __slots__ = ("first", "length", "type")

    def __init__(self, type: str, length: int, first: list[Scalar]) -> None:
        self.type, self.length, self.first = type, length, first

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {"type": self.type, "length": self.length, "first": self.first}


class GgufFile:
    """The metadata and the list of tensors of an open file. The data of the tensors is not read."""

    def __init__(self, pointer: Any, tensors: Any) -> None:
        self._c = pointer
        self._tensors = tensors  # older versions tell shapes of tensor objects only; NULL for others
        self._places: dict[str, int] = {}  # of the metadata entries: ggml's own search compares one key after another
        for i in range(lib.gguf_get_n_kv(pointer)):
            self._places.setdefault(_text(lib.gguf_get_key(pointer, i)), i)

    @property
    def version(self) -> int:
        """The version of the GGUF format."""
        return lib.gguf_get_version(self._c)

    def keys(self) -> list[str]:
        """The keys of all metadata entries."""
        return list(self._places)

    def scalar(self, key: str) -> Scalar | None:
        """A metadata value; None if it is missing or an array."""
        i = self._places.get(key, -1)
        read = _READERS.get(lib.gguf_get_kv_type(self._c, i)) if i >= 0 else None
        return None if read is None else read(self._c, i)

    def numbers(self, key: str) -> list[int | float] | None:
        """An array of numbers, or a number as an array of one; None if it is missing, empty or of another type."""
        i = self._places.get(key, -1)
        if i < 0:
            return None
        if lib.gguf_get_kv_type(self._c, i) != lib.GGUF_TYPE_ARRAY:
            value = self.scalar(key)
            return None if isinstance(value, (str, bool)) or value is None else [value]
        pointer_type = _NUMBERS.get(lib.gguf_get_arr_type(self._c, i))
        n = lib.gguf_get_arr_n(self._c, i)
        if pointer_type is None or not n:
            return None
        return list(ffi.unpack(ffi.cast(pointer_type, lib.gguf_get_arr_data(self._c, i)), n))

    def array(self, key: str, limit: int) -> ArrayInfo | None:
        """An array with its first `limit` items; None if it is missing or not an array."""
        i = self._places.get(key, -1)
        if i < 0 or lib.gguf_get_kv_type(self._c, i) != lib.GGUF_TYPE_ARRAY:
            return None
        kind, n = lib.gguf_get_arr_type(self._c, i), lib.gguf_get_arr_n(self._c, i)
        shown = min(n, limit)
        first: list[Scalar] = []
        if kind == lib.GGUF_TYPE_STRING:
            first = [_text(lib.gguf_get_arr_str(self._c, i, j)) for j in range(shown)]
        elif shown and kind in (*_NUMBERS, lib.GGUF_TYPE_BOOL):
            data = ffi.cast(_NUMBERS.get(kind, "int8_t *"), lib.gguf_get_arr_data(self._c, i))
            first = [bool(item) if kind == lib.GGUF_TYPE_BOOL else item for item in ffi.unpack(data, shown)]
        return ArrayInfo(enums.GgufType(kind).name.lower(), n, first)

    def texts(self, key: str, limit: int) -> Iterator[bytes]:
        """The first `limit` bytes of each item of an array of strings; nothing if it is not such an array."""
        i = self._places.get(key, -1)
        if i < 0 or lib.gguf_get_kv_type(self._c, i) != lib.GGUF_TYPE_ARRAY:
            return
        if lib.gguf_get_arr_type(self._c, i) != lib.GGUF_TYPE_STRING:
            return
        for j in range(lib.gguf_get_arr_n(self._c, i)):
            yield ffi.string(lib.gguf_get_arr_str(self._c, i, j), limit)

    def tensors(self) -> Iterator[TensorInfo]:
        """The tensors, in the order of the file."""
        for i in range(lib.gguf_get_n_tensors(self._c)):
            yield TensorInfo(
                _text(lib.gguf_get_tensor_name(self._c, i)),
                lib.gguf_get_tensor_type(self._c, i),
                tuple(self._lengths(i)[0:4]),
                lib.gguf_get_tensor_size(self._c, i),
            )

    @property
    def data_offset(self) -> int:
        """Where the data of the tensors begins: the size of the header."""
        return int(lib.gguf_get_data_offset(self._c))

    def file_size(self) -> int:
        """The size in bytes that the whole file must have."""
        alignment = lib.gguf_get_alignment(self._c)
        sizes = [lib.gguf_get_tensor_size(self._c, i) for i in range(lib.gguf_get_n_tensors(self._c))]
        return self.data_offset + sum(-size // alignment * -alignment for size in sizes)

    def _lengths(self, i: int) -> Any:
        """The four dimensions of a tensor, as a C array."""
        if self._tensors == ffi.NULL:
            return lib.gguf_get_tensor_ne(self._c, i)
        return lib.ggml_get_tensor(self._tensors, lib.gguf_get_tensor_name(self._c, i)).ne


@contextmanager
def open_gguf(path: bytes) -> Iterator[GgufFile | None]:
    """Open a file and read its metadata. Yields None if ggml cannot read it: llama.cpp reports why at the load."""
    if not is_regular(path):  # the next file of a split model, which only its first file names
        yield None
        return
    params = ffi.new("struct gguf_init_params *", {"no_alloc": True})
    tensors = ffi.new("struct ggml_context **")
    if not has("gguf_get_tensor_ne"):
        params.ctx = tensors
    owned = own(lib.gguf_free, lib.gguf_init_from_file, path, params[0])
    shapes = own(lib.ggml_free, tensors.__getitem__, 0)
    if owned.pointer is None:
        yield None
        return
    try:
        yield GgufFile(owned.pointer, tensors[0])
    finally:
        owned.finish()
        shapes.finish()


def require_complete(path: str, target: str) -> None:
    """Raise OSError for a file that llama.cpp has not written to its end; `target` is its name in the message."""
    from llama_cffi._core.atomic_write import require_size, write_error

    with open_gguf(os.fsencode(path)) as file:
        if file is None:
            raise write_error(path, target, "its metadata were not written completely")
        require_size(path, target, file.file_size())


def _text(pointer: Any) -> str:
    return bytes(ffi.string(pointer)).decode("utf-8", "replace")
