"""The callback `cbEval`, which inspects tensors of the graph during a computation."""

from __future__ import annotations

from collections.abc import Callable

from llama_cffi._core import callbacks
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi._generated.enums import GgmlOp, GgmlType


class EvalTensor:
    """A tensor of the computation graph, for `cbEval`. It is valid only during the callback."""

    __slots__ = ("_pointer",)

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    @property
    def _c(self) -> Any:
        if self._pointer is None:
            raise ValueError("the tensor is valid only during the callback: copy what you need there")
        return self._pointer

    @property
    def name(self) -> str:
        """The name of the tensor in the graph, such as `Kcur-0`."""
        return bytes(ffi.string(self._c.name)).decode("utf-8", "replace")

    @property
    def op(self) -> GgmlOp:
        """The operation that computes the tensor."""
        return enums.GgmlOp(self._c.op)

    @property
    def type(self) -> GgmlType:
        """The type of the elements."""
        return enums.GgmlType(self._c.type)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension, the slowest first, as in numpy."""
        sizes = list(self._c.ne)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        return tuple(reversed(sizes))

    @property
    def data(self) -> memoryview[Any]:
        """A copy of the data, also from a device: typed and shaped for F32 and I32, else plain bytes."""
        tensor = self._c
        import math

        size = lib.ggml_nbytes(tensor)
        buffer = ffi.new("char[]", size)
        lib.ggml_backend_tensor_get(tensor, buffer, 0, size)
        view = memoryview(ffi.buffer(buffer)).cast("B")
        if size != 4 * math.prod(self.shape):  # other types, or not contiguous
            return view
        if self.type == enums.GgmlType.F32:
            return view.cast("f", self.shape)
        return view.cast("i", self.shape) if self.type == enums.GgmlType.I32 else view

    def __repr__(self) -> str:
        return f"<EvalTensor {self.name} {self.op.name} {self.type.name} {self.shape}>"


def eval_pointers(function: Callable[..., bool | None] | None, user_data: Any) -> tuple[Any, Any, object]:
    """Return a C function, its data, and an object to keep alive, for a `cbEval`."""
    if function is None:
        return ffi.NULL, ffi.NULL, None

    def call(pointer: Any, ask: bool) -> bool:
        tensor = EvalTensor(pointer)
        try:
            answer = function(tensor, ask) if user_data is None else function(tensor, ask, user_data)
            return answer is None or bool(answer)  # None means True
        finally:
            tensor._pointer = None

    callback = callbacks.Callback(call)
    return ffi.addressof(lib, "shim_on_eval"), callback.data, callback
