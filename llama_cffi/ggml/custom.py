"""Custom operations: nodes of a graph that a function of Python computes, over numpy arrays. The CPU runs them."""

from __future__ import annotations

import weakref

from llama_cffi._core.callbacks import Callback
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.ggml.arena import Arena
from llama_cffi.ggml.tensor import Tensor, make, require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from llama_cffi._generated.enums import GgmlType

_LARGEST = 1 << 40


class CustomOperations(Arena):
    """The operations of a context that call Python.

    A function gets one array for each source, read-only, in numpy's order and with all dimensions that `shape` has, and
    returns an array of the result's shape, or one number. It is called once for each computation of the node, on the
    thread that computes. What it raises ends the computation and reaches the caller. It may keep the arrays.
    """

    __slots__ = ()

    def mapCustom1(self, a: Tensor, fun: Callable[..., Any]) -> Tensor:
        """Return `fun(a)`, which has the type and shape of `a`.

        Maps to `ggml_map_custom1`.
        """
        return self._map(lib.ggml_map_custom1, "shim_on_custom1", fun, a=a)

    def mapCustom1Inplace(self, a: Tensor, fun: Callable[..., Any]) -> Tensor:
        """Return `mapCustom1`, in the memory of `a`.

        Maps to `ggml_map_custom1_inplace`.
        """
        return self._map(lib.ggml_map_custom1_inplace, "shim_on_custom1", fun, a=a)

    def mapCustom2(self, a: Tensor, b: Tensor, fun: Callable[..., Any]) -> Tensor:
        """Return `fun(a, b)`, which has the type and shape of `a`.

        Maps to `ggml_map_custom2`.
        """
        return self._map(lib.ggml_map_custom2, "shim_on_custom2", fun, a=a, b=b)

    def mapCustom2Inplace(self, a: Tensor, b: Tensor, fun: Callable[..., Any]) -> Tensor:
        """Return `mapCustom2`, in the memory of `a`.

        Maps to `ggml_map_custom2_inplace`.
        """
        return self._map(lib.ggml_map_custom2_inplace, "shim_on_custom2", fun, a=a, b=b)

    def mapCustom3(self, a: Tensor, b: Tensor, c: Tensor, fun: Callable[..., Any]) -> Tensor:
        """Return `fun(a, b, c)`, which has the type and shape of `a`.

        Maps to `ggml_map_custom3`.
        """
        return self._map(lib.ggml_map_custom3, "shim_on_custom3", fun, a=a, b=b, c=c)

    def mapCustom3Inplace(self, a: Tensor, b: Tensor, c: Tensor, fun: Callable[..., Any]) -> Tensor:
        """Return `mapCustom3`, in the memory of `a`.

        Maps to `ggml_map_custom3_inplace`.
        """
        return self._map(lib.ggml_map_custom3_inplace, "shim_on_custom3", fun, a=a, b=b, c=c)

    def custom4d(
        self, type: GgmlType, ne0: int, ne1: int, ne2: int, ne3: int, args: Sequence[Tensor], fun: Callable[..., Any]
    ) -> Tensor:
        """Return `fun(*args)`, of a type and shape of its own, in ggml's order. Up to 9 sources.

        Maps to `ggml_custom_4d`.
        """
        from llama_cffi.ggml.quantization import tensor_type

        sizes = [integer(n, 1, _LARGEST, f"ne{i}") for i, n in enumerate((ne0, ne1, ne2, ne3))]
        array, count = self._sources(args, lib.GGML_MAX_SRC - 1)
        data = self._callback(fun)
        function = ffi.addressof(lib, "shim_on_custom")
        return make(self, lib.ggml_custom_4d, tensor_type(type, "type"), *sizes, array, count, function, 1, data)

    def customInplace(self, a: Tensor, args: Sequence[Tensor], fun: Callable[..., Any]) -> Tensor:
        """Return `fun(a, *args)` in the memory of `a`. Up to 8 sources besides `a`.

        Maps to `ggml_custom_inplace`.
        """
        require_tensor(a, "a")
        array, count = self._sources(args, lib.GGML_MAX_SRC - 2)
        data = self._callback(fun)
        return make(self, lib.ggml_custom_inplace, a, array, count, ffi.addressof(lib, "shim_on_custom"), 1, data)

    def _map(self, function: Any, trampoline: str, fun: Callable[..., Any], **sources: Tensor) -> Tensor:
        tensors = [require_tensor(source, name) for name, source in sources.items()]
        return make(self, function, *tensors, ffi.addressof(lib, trampoline), 1, self._callback(fun))

    def _sources(self, args: Sequence[Tensor], most: int) -> tuple[Any, int]:
        if not isinstance(args, (list, tuple)):
            raise expected("a list of Ggml.Tensor", args, "[] has none", "args")
        if len(args) > most:
            raise ValueError(f"args must have at most {most} tensors, got {len(args)}")
        array = ffi.new("struct ggml_tensor *[]", len(args) + 1)
        for i, tensor in enumerate(args):
            array[i] = require_tensor(tensor, f"args[{i}]")._c
            self._keep(tensor._arena)
        return array, len(args)

    def _callback(self, fun: Callable[..., Any]) -> Any:
        """Return the user data for C. The memory of this context keeps the function."""
        if not callable(fun):
            raise expected("a function", fun, "it takes arrays and returns one", "fun")
        arena = weakref.ref(self)

        def call(pointer: Any) -> None:
            result = _tensor(arena(), pointer)
            arrays = []
            for source in pointer.src:
                if source != ffi.NULL:
                    array = _tensor(arena(), source).numpy()
                    array.flags.writeable = False
                    arrays.append(array)
            value = fun(*arrays)
            if value is None:
                raise TypeError(f"a custom operation must return an array of shape {result.shape}, got None")
            result.set(value)

        callback = Callback(call)
        owned = self._owned
        if owned is None or not owned.keep(callback):
            self._raise_closed()
        return callback.data


class _Borrowed(Tensor):
    """A tensor during a computation, whose context may be freed already. Its arrays are copies."""

    __slots__ = ()

    @property
    def _c(self) -> Any:
        return self._pointer

    def _is_lasting(self) -> bool:
        return False


def _tensor(arena: Arena | None, pointer: Any) -> Tensor:
    if arena is not None and not arena.closed:
        return Tensor(arena, pointer)
    borrowed = _Borrowed.__new__(_Borrowed)
    borrowed._arena, borrowed._pointer = arena, pointer  # type: ignore[assignment]
    return borrowed
