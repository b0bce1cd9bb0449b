"""Between numpy arrays and the types of ggml: conversion, quantization and dequantization."""

from __future__ import annotations

import numpy as np

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from llama_cffi._generated.enums import GgmlType

    Array = npt.NDArray[Any]

# Types that numpy has too.
DTYPES: dict[int, Any] = {
    lib.GGML_TYPE_F32: np.dtype(np.float32),
    lib.GGML_TYPE_F16: np.dtype(np.float16),
    lib.GGML_TYPE_F64: np.dtype(np.float64),
    lib.GGML_TYPE_I8: np.dtype(np.int8),
    lib.GGML_TYPE_I16: np.dtype(np.int16),
    lib.GGML_TYPE_I32: np.dtype(np.int32),
    lib.GGML_TYPE_I64: np.dtype(np.int64),
}
_TYPES = {dtype: number for number, dtype in DTYPES.items()}
_INTEGERS = (lib.GGML_TYPE_I8, lib.GGML_TYPE_I16, lib.GGML_TYPE_I32, lib.GGML_TYPE_I64)


def as_array(value: Any, name: str = "array") -> Array:
    """Return numbers as an array: from the buffer protocol, a sequence, or a number."""
    if isinstance(value, (str, bytes, bytearray)) or value is None:
        raise expected("an array or a sequence of numbers", value, name=name)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must contain numbers, got elements of {array.dtype}: convert it with astype")
    return array


def type_of(array: Array) -> GgmlType:
    """Return the type for an array: its own; F32 for 64-bit floats, I32 for bools and small unsigned integers."""
    dtype = array.dtype.newbyteorder("=")
    if dtype == np.float64:
        return enums.GgmlType.F32
    if dtype.kind in "bu" and dtype.itemsize <= 2:
        return enums.GgmlType.I32
    if dtype not in _TYPES:
        raise TypeError(f"array has elements of {array.dtype}, which ggml lacks: pass type=, or convert it with astype")
    return enums.GgmlType(_TYPES[dtype])


def encode(array: Array, kind: GgmlType, imatrix: Any = None) -> Array:
    """Return the data of an array as a contiguous array of bytes in a type of ggml. Rows are the last axis."""
    if kind in DTYPES:
        return _plain(array, kind)
    rows = np.ascontiguousarray(array, dtype=np.float32)
    width = rows.shape[-1] if rows.ndim else 1
    block = lib.ggml_blck_size(kind)
    if width % block:
        raise ValueError(f"{kind.name} has blocks of {block} elements, and a row has {width}: use another type")
    if kind == enums.GgmlType.BF16:
        out = np.empty(rows.size, np.uint16)
        lib.ggml_fp32_to_bf16_row(
            _floats(rows), ffi.from_buffer("ggml_bf16_t[]", out, require_writable=True), rows.size
        )
        return out.view(np.uint8)
    return _quantized(rows, width, kind, imatrix)


def _plain(array: Array, kind: GgmlType) -> Array:
    dtype = DTYPES[kind]
    if kind in _INTEGERS and array.dtype.kind in "iu" and array.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if int(array.min()) < low or int(array.max()) > high:
            raise ValueError(f"array must be between {low} and {high} for {kind.name}: use a larger type")
    elif kind in _INTEGERS and array.dtype.kind == "f":
        raise TypeError(f"array has elements of {array.dtype}, and {kind.name} is an integer: convert it with astype")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)


def _quantized(rows: Array, width: int, kind: GgmlType, imatrix: Any) -> Array:
    if lib.ggml_get_type_traits(kind).to_float == ffi.NULL:
        raise ValueError(f"{kind.name} is for ggml's own use: choose another type")
    if not np.isfinite(rows).all():
        raise ValueError(f"array has elements that are infinite or NaN, which {kind.name} cannot hold")
    weights: Any = ffi.NULL
    if imatrix is not None:
        weights = np.ascontiguousarray(as_array(imatrix, "imatrix"), dtype=np.float32)
        if weights.shape != (width,) or not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(f"imatrix must have {width} elements, one for each column, finite and not negative")
        weights = _floats(weights)
    elif lib.ggml_quantize_requires_imatrix(kind):
        weights = _floats(np.ones(width, np.float32))
    count = rows.size // width
    out = np.empty(count * lib.ggml_row_size(kind, width), np.uint8)
    lib.ggml_quantize_chunk(kind, _floats(rows), ffi.from_buffer(out, require_writable=True), 0, count, width, weights)
    return out


def decode(data: Any, kind: GgmlType, count: int, out: Any) -> None:
    """Write `count` elements of a type that numpy lacks to a C array of floats."""
    convert = lib.ggml_get_type_traits(kind).to_float
    if convert == ffi.NULL:
        raise ValueError(f"{kind.name} is for ggml's own use, and cannot be converted: read tensor.data instead")
    convert(data, out, count)


def _floats(array: Array) -> Any:
    return ffi.from_buffer("float[]", array)
