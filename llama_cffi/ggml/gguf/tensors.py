"""`Ggml.GgufTensor` and `Ggml.GgufTensors`: the tensors of a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi._core.ffi import lib
from llama_cffi._generated.enums import GgmlType
from llama_cffi.ggml.gguf.sources import BufferData, FileData, NumberData
from llama_cffi.ggml.gguf.values import ENCODING
from llama_cffi.ggml.quantization import (
    DTYPES,
    dequantize,
    require_imatrix,
    row_size,
    tensor_bytes,
    tensor_type,
    writable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy.typing as npt

    from llama_cffi.ggml.gguf.sources import TensorData

MAX_DIMENSIONS = 4
_OF_DTYPE = {dtype: kind for kind, dtype in DTYPES.items()}


class GgufTensor:
    """A tensor of a `Ggml.Gguf`. Its data is read when it is used."""

    __slots__ = ("_data", "name", "ne", "type")

    name: str
    """The name."""
    type: GgmlType
    """The type of its numbers, or of its blocks: a `Ggml.Type`."""
    ne: tuple[int, ...]
    """The lengths in ggml's order: the length of a row first."""

    def __init__(self, name: str, type: GgmlType, ne: tuple[int, ...], data: TensorData) -> None:
        """Internal: `Gguf.tensors` has them."""
        self.name, self.type, self.ne, self._data = name, type, ne, data

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths in numpy's order: the length of a row last."""
        return self.ne[::-1]

    @property
    def size(self) -> int:
        """The size of the data in bytes."""
        return self._data.size

    @property
    def offset(self) -> int | None:
        """Where the data begins in its file; None for a tensor that was not read from one."""
        return self._data.offset if isinstance(self._data, FileData) else None

    @property
    def data(self) -> memoryview:
        """The data as it is stored, read-only. That of a file is mapped: do not truncate the file while you use it."""
        return self._data.view()

    def numpy(self, dequantize: bool = False) -> npt.NDArray[Any]:
        """Return the numbers as a numpy array of `shape`.

        Types that numpy has (F32, F16, F64, I8 to I64) are a read-only view: of the mapped file, which must not be
        truncated while the view lives. All others are the rows of blocks as bytes, or with `dequantize` a new array of
        float32, which is read without a mapping; F16 becomes float32 then too. Raises UnavailableError for Q8_1 and
        Q8_K, which ggml cannot dequantize, ClosedError if the file was closed.
        """
        import numpy as np

        dtype = DTYPES.get(self.type)
        if boolean(dequantize, "dequantize") and (dtype is None or dtype == "float16"):
            unit = int(lib.ggml_type_size(self.type))
            count = int(np.prod(self.ne, dtype=np.int64))
            return _dequantize(self.type, self._data.chunks(unit), count, self.name).reshape(self.shape)
        if dtype is not None:
            return np.frombuffer(self._data.view(), dtype).reshape(self.shape)
        row = row_size(self.type, self.ne[0] if self.ne else 1, self.name)
        return np.frombuffer(self._data.view(), np.uint8).reshape(*self.shape[:-1], row)

    def __repr__(self) -> str:
        return f"<GgufTensor {self.name}: {self.type.name} {'x'.join(map(str, self.shape))}>"


_dequantize = dequantize  # `numpy` has a parameter of this name


class GgufTensors(MutableMapping[str, GgufTensor]):
    """The tensors of a `Ggml.Gguf`: name to `GgufTensor`, in the order of the file.

    `tensors[name] = array` adds a tensor or replaces one; `set` takes a type too.
    """

    __slots__ = ("_changed", "_tensors")

    def __init__(self, tensors: dict[str, GgufTensor], changed: Callable[[], object]) -> None:
        """Internal: `Gguf.tensors` is one."""
        self._tensors, self._changed = tensors, changed

    def __getitem__(self, name: str) -> GgufTensor:
        if not isinstance(name, str):
            raise expected("a str", name, name="name")
        return self._tensors[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self[name]  # raises KeyError
        self._changed()
        del self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def set(
        self,
        name: str,
        value: Any,
        type: GgmlType | None = None,
        imatrix: npt.ArrayLike | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Add a tensor, or replace the one of this name at its place.

        `value` is an array of numbers: anything with the buffer protocol, or a list. It gets the type of its numbers,
        or is converted to `type`, a float or quantized one, when it is written: it is kept until then, not copied.
        `imatrix` is the importance of each column, which IQ1_S, IQ2_XXS and IQ2_XS need.

        With `shape` (numpy's order) and `type`, `value` is the stored data itself, blocks as bytes. A `GgufTensor`,
        of another file too, keeps its type and is copied when it is written.

        Raises TypeError or ValueError for what ggml cannot store. Numbers that are not finite, or are beyond 65504
        for another type than F32, BF16 and MXFP4, raise ValueError when they are quantized: by `Gguf.write`, or by
        reading the tensor.
        """
        made = _make(_checked_name(name), value, type, imatrix, shape)
        self._changed()
        self._tensors[name] = made

    def add(
        self,
        name: str,
        value: Any,
        type: GgmlType | None = None,
        imatrix: npt.ArrayLike | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Add a tensor, as `set` does. Raises ValueError if there is one of this name."""
        if name in self:
            raise ValueError(f"there is a tensor {name!r} already: set replaces it")
        self.set(name, value, type, imatrix, shape)

    def remove(self, name: str) -> None:
        """Remove a tensor. Raises KeyError if there is none of this name."""
        del self[name]

    def __repr__(self) -> str:
        return f"<GgufTensors: {len(self)}>"


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise expected("a str", name, name="name")
    data = name.encode(*ENCODING)
    if not 1 <= len(data) < lib.GGML_MAX_NAME:
        raise ValueError(f"name must have between 1 and {lib.GGML_MAX_NAME - 1} bytes of UTF-8, got {len(data)}")
    if b"\0" in data:
        raise ValueError("name must not contain a NUL character: ggml would end it there")
    return name


def _make(name: str, value: Any, type: GgmlType | None, imatrix: Any, shape: Sequence[int] | None) -> GgufTensor:
    kind = None if type is None else tensor_type(type, "type")
    if shape is not None:
        return _stored(name, value, kind, shape)
    if isinstance(value, GgufTensor):
        if kind in (None, value.type):
            return GgufTensor(name, value.type, value.ne, value._data)
        value = value.numpy(dequantize=True)
    array = _array(name, value)
    _check_lengths(array.shape)
    own = _OF_DTYPE.get(array.dtype.name)
    if kind is None:
        if own is None:
            raise TypeError(
                f"{name} must be an array of floats or signed integers, got {array.dtype}: pass type, or another array"
            )
        kind = own
    if kind == own and imatrix is None:
        import numpy as np

        data = np.ascontiguousarray(array)
        return GgufTensor(name, kind, array.shape[::-1], BufferData(data.reshape(-1).view(np.uint8).data))
    writable(kind, "type")
    weights = require_imatrix(kind, imatrix, array.shape, name)
    return GgufTensor(name, kind, array.shape[::-1], NumberData(kind, array, weights, name))


def _array(name: str, value: Any) -> npt.NDArray[Any]:
    """Return numbers as a numpy array in the byte order of this machine."""
    import numpy as np

    if isinstance(value, (str, bytes)):
        raise expected("an array of numbers", value, "pass shape and type for stored data", name)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, BufferError, NotImplementedError):
        raise expected("an array of numbers", value, name=name) from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be an array of numbers, got {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_lengths(shape: Sequence[int]) -> None:
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise ValueError(f"a tensor must have between 1 and {MAX_DIMENSIONS} dimensions, got {len(shape)}")


def _stored(name: str, value: Any, kind: GgmlType | None, shape: Sequence[int]) -> GgufTensor:
    if kind is None:
        raise TypeError(f"{name}: with shape, pass the type of the stored data too")
    lengths = tuple(integer(length, 0, (1 << 63) - 1, "shape") for length in shape)
    _check_lengths(lengths)
    size = tensor_bytes(kind, lengths[::-1], name)
    try:
        data = memoryview(value).cast("B")
    except TypeError:
        raise expected("a contiguous buffer of the stored data", value, name=name) from None
    if len(data) != size:
        raise ValueError(f"{name} must have {size} bytes for the type {kind.name} and this shape, got {len(data)}")
    return GgufTensor(name, kind, lengths[::-1], BufferData(data))
