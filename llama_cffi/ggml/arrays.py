"""Reading and writing the elements of a tensor as numpy arrays: views, copies, and conversion of other types."""

from __future__ import annotations

import numpy as np

from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums
from llama_cffi.ggml.convert import DTYPES, as_array, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from llama_cffi._generated.enums import GgmlType
    from llama_cffi.ggml.convert import Array

    class Tensor(Protocol):
        """What is used of a tensor."""

        @property
        def _c(self) -> Any: ...
        @property
        def type(self) -> GgmlType: ...
        @property
        def ne(self) -> tuple[int, int, int, int]: ...
        @property
        def nb(self) -> tuple[int, int, int, int]: ...
        @property
        def nDims(self) -> int: ...
        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def isContiguous(self) -> bool: ...
        def _data(self) -> Any: ...
        def _memory(self) -> Any: ...
        def _is_lasting(self) -> bool: ...
        def backendGet(self) -> bytes | None: ...
        def backendSet(self, data: Any) -> None: ...


def read(tensor: Tensor) -> Array:
    """Return the elements: a view of lasting memory for types that numpy has, else a copy."""
    if tensor._is_lasting():
        memory = tensor._memory()
    else:
        memory = tensor.backendGet()
        assert memory is not None
    if tensor.type in DTYPES:
        return _strided(tensor, memory)
    return _converted(tensor, memory)


def _strided(tensor: Tensor, memory: Any) -> Array:
    n = tensor.nDims
    array: Array = np.ndarray(tensor.shape, DTYPES[tensor.type], memory, 0, tuple(reversed(tensor.nb[:n])))
    return array


def _converted(tensor: Tensor, memory: Any) -> Array:
    """Return a copy in float32, converted row by row: rows of a quantized tensor are contiguous."""
    kind, ne, nb = tensor.type, tensor.ne, tensor.nb
    out = np.empty(tuple(reversed(ne)), np.float32)
    data = ffi.from_buffer("char[]", memory)
    target = ffi.from_buffer("float[]", out, require_writable=True)
    if tensor.isContiguous:
        decode(data, kind, out.size, target)
    elif kind == enums.GgmlType.BF16:
        raw = np.ndarray(tuple(reversed(ne)), np.uint16, memory, 0, tuple(reversed(nb)))
        np.left_shift(raw, 16, out=out.view(np.uint32), dtype=np.uint32)
    elif lib.ggml_is_contiguous_rows(tensor._c):
        for row, (i3, i2, i1) in enumerate(np.ndindex(ne[3], ne[2], ne[1])):
            decode(data + (i3 * nb[3] + i2 * nb[2] + i1 * nb[1]), kind, ne[0], target + row * ne[0])
    else:
        raise ValueError(
            f"the rows of this {kind.name} tensor are not contiguous: read the tensor that it is a view of"
        )
    return out.reshape(tensor.shape)


def write(tensor: Tensor, value: Any) -> None:
    """Write all elements, converted to the type of the tensor."""
    tensor._data()
    array = as_array(value, "array")
    if array.ndim == 0:
        array = np.broadcast_to(array, tensor.shape)
    shape = array.shape
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    if shape != tensor.shape:
        raise ValueError(f"array must have the shape of the tensor, {tensor.shape}, got {array.shape}: use reshape")
    if tensor.type in DTYPES and tensor._is_lasting():
        _strided(tensor, tensor._memory())[...] = _checked(array, tensor)
    elif tensor.isContiguous:
        tensor.backendSet(encode(array, tensor.type))
    else:
        raise ValueError("the tensor is not contiguous: write to the tensor that it is a view of")


def _checked(array: Array, tensor: Tensor) -> Array:
    typed: Array = encode(array, tensor.type).view(DTYPES[tensor.type])
    return typed.reshape(tensor.shape)
