"""Quantizing numbers and reading quantized ones, by ggml's own code, for all of its types."""

from __future__ import annotations

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.enums import GgmlType
from llama_cffi.errors import UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import numpy as np
    import numpy.typing as npt

# Types that numpy has too.
_DTYPES = {
    "F32": "float32",
    "F64": "float64",
    "F16": "float16",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}
DTYPES = {GgmlType[name]: dtype for name, dtype in _DTYPES.items() if name in GgmlType.__members__}
# Scales are of type F16 in most types: larger numbers would become others, which ggml notices in some of them only.
_MAX = 65504.0
_WIDE = {GgmlType[name] for name in ("F32", "BF16", "MXFP4") if name in GgmlType.__members__}
_ALIGNMENT = 8  # of memory that ggml reads blocks from


def writable(value: GgmlType, name: str) -> GgmlType:
    """Return a type that ggml can quantize to. Raises ValueError for any other."""
    kind = tensor_type(value, name)
    # At I8 to I64 and F64 ggml ends the process, on one of its own threads; the others it cannot write.
    if kind.name in ("Q8_1", "Q8_K", "F64") or (kind.name[0] == "I" and kind.name[1] != "Q"):
        raise ValueError(f"{name} must be a type that ggml can quantize to, got {kind.name}")
    return kind


def tensor_type(value: GgmlType, name: str) -> GgmlType:
    """Return a type of elements. Raises ValueError for anything else: COUNT is the end of the enumeration."""
    try:
        found = GgmlType(value)
    except ValueError:
        found = GgmlType.COUNT
    if found == GgmlType.COUNT:
        raise ValueError(f"{name} must be a Ggml.Type such as Ggml.Type.F32, got {value!r}")
    return found


def row_size(kind: GgmlType, length: int, name: str) -> int:
    """Return the bytes of a row. Raises ValueError if the length is not a multiple of the block size."""
    block = lib.ggml_blck_size(kind)
    if not block or length % block:
        raise ValueError(f"{name} must have rows of a multiple of {block} for the type {kind.name}, got {length}")
    return length // block * int(lib.ggml_type_size(kind))


def tensor_bytes(kind: GgmlType, ne: tuple[int, ...], name: str) -> int:
    """Return the size of a tensor's data. `ne` is in ggml's order; without any length it is a single number."""
    size = row_size(kind, ne[0] if ne else 1, name)
    for length in ne[1:]:
        size *= length
    return size


def dequantize(
    kind: GgmlType, chunks: Iterable[bytes | bytearray | memoryview], count: int, name: str
) -> npt.NDArray[np.float32]:
    """Return blocks of a type as a numpy array of `count` floats. Each chunk holds whole blocks.

    Raises UnavailableError for types that ggml only computes with.
    """
    import numpy as np

    traits = lib.ggml_get_type_traits(kind)
    if not traits.to_float:
        raise UnavailableError(f"{name} is of type {kind.name}, which ggml cannot dequantize: read tensor.data")
    out = np.empty(count, np.float32)
    to_float, address, done = traits.to_float, out.ctypes.data, 0
    for chunk in chunks:
        n = len(chunk) // traits.type_size * traits.blck_size
        with ffi.from_buffer(chunk) as blocks:
            pointer = ffi.cast("char *", blocks)
            if int(ffi.cast("uintptr_t", pointer)) % _ALIGNMENT:
                pointer = ffi.new("char[]", bytes(chunk))
            to_float(pointer, ffi.cast("float *", address + 4 * done), n)
        done += n
    return out


def require_imatrix(kind: GgmlType, imatrix: Any, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32] | None:
    """Return an importance matrix, a row for each matrix of the tensor; None without one.

    `shape` is numpy's. Raises ValueError if the type needs a matrix and there is none, or if its size is wrong.
    """
    import numpy as np

    if imatrix is None:
        if lib.ggml_quantize_requires_imatrix(kind):
            raise ValueError(f"{name}: the type {kind.name} needs an importance matrix: pass imatrix")
        return None
    try:
        weights = np.ascontiguousarray(imatrix, np.float32).reshape(-1)
    except (TypeError, ValueError):
        raise expected("an array of numbers", imatrix, name="imatrix") from None
    n_matrices = int(np.prod(shape[:-2], dtype=np.int64))
    if len(weights) not in (shape[-1], n_matrices * shape[-1]):
        raise ValueError(
            f"imatrix of {name} must have {shape[-1]} numbers, one for each column"
            f"{f', or {n_matrices * shape[-1]}' if n_matrices > 1 else ''}, got {len(weights)}"
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"imatrix of {name} must contain finite numbers of at least 0")
    return np.resize(weights, (n_matrices, shape[-1]))


def quantize(
    kind: GgmlType, rows: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None, name: str
) -> bytearray:
    """Return rows of floats as blocks of a type. All rows belong to one matrix, whose importance is `weights`.

    Raises ValueError for numbers that are not finite, or beyond 65504, which scales of blocks cannot hold.
    """
    import numpy as np

    rows = np.ascontiguousarray(rows, np.float32)
    limit = _MAX if kind not in _WIDE else float(np.finfo(np.float32).max)
    largest = np.abs(rows).max(initial=0)
    if not largest <= limit:  # nan too
        raise ValueError(f"{name} must contain numbers between {-limit:g} and {limit:g} for {kind.name}, got {largest}")
    n_rows, length = rows.shape
    blocks = bytearray(n_rows * row_size(kind, length, name))
    if not blocks:
        return blocks
    with ffi.from_buffer(rows) as source, ffi.from_buffer(blocks) as target:
        importance = ffi.NULL if weights is None else ffi.cast("float *", weights.ctypes.data)
        lib.ggml_quantize_chunk(kind, ffi.cast("float *", source), target, 0, n_rows, length, importance)
        valid = lib.ggml_validate_row_data(kind, target, len(blocks))
    if not valid:
        raise ValueError(f"{name} has numbers that are too large for the type {kind.name}")
    return blocks
