"""Functions of the user's that llama.cpp calls while it computes: `cbEval` sees tensors, an abort callback stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llama_cffi._core import callbacks
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.enums import GgmlOp, GgmlType


def abort_pointers(function: Callable[..., bool] | None, user_data: Any, stop: Any) -> tuple[Any, Any, object]:
    """C function, C data and what to keep alive. Computations stop while `*stop`, an `int32_t`, is not zero; without a
    function of the user's also for Ctrl-C.
    """
    if function is None:
        return ffi.addressof(lib, "shim_abort"), stop, None
    if not callable(function):
        raise TypeError(f"a callback is a function, not {type(function).__name__}")

    def ask() -> bool:
        return bool(stop[0]) or bool(function() if user_data is None else function(user_data))

    callback = callbacks.Callback(ask)
    return ffi.addressof(lib, "shim_on_abort"), callback.data, callback


class EvalTensor:
    """A tensor of the graph, as `cbEval` sees it: during the call only."""

    __slots__ = ("_pointer",)

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    @property
    def _c(self) -> Any:
        if self._pointer is None:
            raise ValueError("the tensor is there during the callback only: copy what you need")
        return self._pointer

    @property
    def name(self) -> str:
        """Its name in the graph, such as `Kcur-0`."""
        return bytes(ffi.string(self._c.name)).decode("utf-8", "replace")

    @property
    def op(self) -> GgmlOp:
        """The operation that computes it."""
        return GgmlOp(self._c.op)

    @property
    def type(self) -> GgmlType:
        """The type of its elements."""
        return GgmlType(self._c.type)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size in each dimension, the slowest first, as numpy has it."""
        sizes = list(self._c.ne)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        return tuple(reversed(sizes))

    @property
    def data(self) -> memoryview[Any]:
        """Its bytes, copied from the device it is on: typed and shaped for F32 and I32, else plain bytes."""
        tensor = self._c
        size = lib.ggml_nbytes(tensor)
        buffer = ffi.new("char[]", size)
        lib.ggml_backend_tensor_get(tensor, buffer, 0, size)
        view = memoryview(ffi.buffer(buffer)).cast("B")
        if size != 4 * math.prod(self.shape):  # other types, and tensors that are not contiguous
            return view
        if self.type == GgmlType.F32:
            return view.cast("f", self.shape)
        return view.cast("i", self.shape) if self.type == GgmlType.I32 else view

    def __repr__(self) -> str:
        return f"<EvalTensor {self.name} {self.op.name} {self.type.name} {self.shape}>"


def eval_pointers(function: Callable[..., bool | None] | None, user_data: Any) -> tuple[Any, Any, object]:
    """C function, C data and what to keep alive, for a `cbEval`."""
    if function is None:
        return ffi.NULL, ffi.NULL, None

    def call(pointer: Any, ask: bool) -> bool:
        tensor = EvalTensor(pointer)
        try:
            answer = function(tensor, ask) if user_data is None else function(tensor, ask, user_data)
            return answer is None or bool(answer)  # a function that returns nothing wants all, and to go on
        finally:
            tensor._pointer = None

    callback = callbacks.Callback(call)
    return ffi.addressof(lib, "shim_on_eval"), callback.data, callback
