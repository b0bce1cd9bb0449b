"""Operators of `Ggml.Tensor` with the meaning that they have in numpy: `a + b`, `2 * a`, `a @ b`, `-a`, `a ** 2`.

Shapes are broadcast as in numpy: dimensions must be equal or 1. The result lies in the context of the left tensor.
"""

from __future__ import annotations

from llama_cffi._core.ffi import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T", bound="TensorOperators")


class TensorOperators:
    """Base class of `Tensor`. Each operator makes a node of a graph."""

    __slots__ = ()

    __array_ufunc__ = None  # `numpy_array * tensor` is an operation of the tensor, or a TypeError

    if TYPE_CHECKING:

        @property
        def _c(self) -> Any: ...
        @property
        def ne(self) -> tuple[int, int, int, int]: ...
        @property
        def nDims(self) -> int: ...
        @property
        def shape(self) -> tuple[int, ...]: ...
        def _operation(self: T, function: Any, *arguments: Any) -> T: ...

    def __add__(self: T, other: Any) -> T:
        if _is_number(other):
            return _affine(self, 1.0, other)
        if _is_tensor(other):
            return _elementwise(lib.ggml_add, self, other)
        return NotImplemented

    def __radd__(self: T, other: Any) -> T:
        if _is_number(other):
            return _affine(self, 1.0, other)
        return NotImplemented

    def __sub__(self: T, other: Any) -> T:
        if _is_number(other):
            return _affine(self, 1.0, -other)
        if _is_tensor(other):
            return _elementwise(lib.ggml_sub, self, other)
        return NotImplemented

    def __rsub__(self: T, other: Any) -> T:
        if _is_number(other):
            return _affine(self, -1.0, other)
        return NotImplemented

    def __mul__(self: T, other: Any) -> T:
        if _is_number(other):
            return self._operation(lib.ggml_scale, self, float(other))
        if _is_tensor(other):
            return _elementwise(lib.ggml_mul, self, other)
        return NotImplemented

    def __rmul__(self: T, other: Any) -> T:
        if _is_number(other):
            return self._operation(lib.ggml_scale, self, float(other))
        return NotImplemented

    def __truediv__(self: T, other: Any) -> T:
        if _is_number(other):
            other = self._operation(lib.ggml_fill, self, float(other))
        if _is_tensor(other):
            return _elementwise(lib.ggml_div, self, other)
        return NotImplemented

    def __rtruediv__(self: T, other: Any) -> T:
        if not _is_number(other):
            return NotImplemented
        return self._operation(lib.ggml_div, self._operation(lib.ggml_fill, self, float(other)), self)

    def __pow__(self: T, exponent: Any) -> T:
        if not _is_number(exponent):
            return NotImplemented
        if exponent == 2:
            return self._operation(lib.ggml_sqr, self)
        if exponent == 0.5:
            return self._operation(lib.ggml_sqrt, self)
        raise ValueError(f"exponent must be 2 or 0.5, got {exponent}: use ctx.exp(ctx.log(a) * exponent)")

    def __neg__(self: T) -> T:
        return self._operation(lib.ggml_neg, self)

    def __abs__(self: T) -> T:
        return self._operation(lib.ggml_abs, self)

    def __matmul__(self: T, other: Any) -> T:
        if _is_tensor(other):
            return _product(self, other)
        return NotImplemented

    @property
    def T(self: T) -> T:
        """The transposed matrix: a view with the first two axes of ggml swapped."""
        return self._operation(lib.ggml_transpose, self)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (
        hasattr(value, "__float__") and bool(getattr(value, "shape", None) == ())
    )


def _affine(tensor: T, scale: float, bias: Any) -> T:
    return tensor._operation(lib.ggml_scale_bias, tensor, scale, float(bias))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorOperators)


def _elementwise(function: Any, a: T, b: Any) -> T:
    """Call a function that repeats its second argument to the shape of the first."""
    pairs = list(zip(a.ne, b.ne, strict=True))
    if any([m != n and 1 not in (m, n) for m, n in pairs]):
        raise ValueError(f"shapes {a.shape} and {b.shape} cannot be broadcast together: dimensions must be equal or 1")
    whole = tuple(max(pair) for pair in pairs)
    return a._operation(function, a if a.ne == whole else a._operation(lib.ggml_repeat_4d, a, *whole), b)


def _product(a: T, b: Any) -> T:
    """numpy's product of matrices: rows of `a` by columns of `b`. `ggml_mul_mat` takes rows of both."""
    if a._c.nb[0] != lib.ggml_type_size(a._c.type):  # its rows are not contiguous
        a = a._operation(lib.ggml_cont, a)
    k = a.ne[0]
    if b.nDims == 1 and b.ne[0] == k:  # a vector
        product = a._operation(lib.ggml_mul_mat, b, a)
        return a._operation(lib.ggml_reshape_3d, product, *product.ne[1:]) if product.ne[0] == 1 else product
    if b.ne[1] != k:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not fit for @: {k} columns need as many rows")
    if lib.ggml_is_quantized(b._c.type):
        raise ValueError("@ transposes its right side, which a quantized tensor cannot be: use ctx.mulMat(b.T, a)")
    columns = a._operation(lib.ggml_cont, a._operation(lib.ggml_transpose, b))
    return a._operation(lib.ggml_mul_mat, columns, a)
