"""Parameters of contexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.ffi import ffi, lib
from llama_cffi.context.compute_callbacks import abort_pointers, eval_pointers
from llama_cffi.context.samplers import Configs, SamplersParam

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama_cffi._generated.structs import ContextParamsKeywords

    class _Keywords(ContextParamsKeywords, total=False):
        cbEval: Callable[..., bool | None] | None
        cbEvalData: Any
        abortCb: Callable[..., bool] | None
        abortCbData: Any
        samplers: Configs


class ContextParams(SamplersParam):
    """How to set up a context. `Context.Params(nCtx=2048)` sets fields; the others keep llama.cpp's defaults.

    Maps to `llama_context_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_context_default_params()

    @property
    def cbEval(self) -> Callable[..., bool | None] | None:
        """Shown every tensor of the graph: called as `cbEval(tensor, ask)`, on the thread that calls `decode`.

        First with `ask` True: whether the tensor is wanted. Then, for those wanted, with `ask` False, when its data is
        there: returning False stops the computation. Returning nothing means True. The tensor has `name`, `op`, `type`,
        `shape` and `data`. An exception stops the computation and reaches the caller of `decode`.
        """
        function: Callable[..., bool | None] | None = self._keep.get("cbEval")
        return function

    @cbEval.setter
    def cbEval(self, value: Callable[..., bool | None] | None) -> None:
        self._keep["cbEval"] = _function(value, "cbEval")

    @property
    def cbEvalData(self) -> Any:
        """Any object: where it is not None, `cbEval` gets it as its last argument."""
        return self._keep.get("cbEvalData")

    @cbEvalData.setter
    def cbEvalData(self, value: Any) -> None:
        self._keep["cbEvalData"] = value

    @property
    def abortCb(self) -> Callable[..., bool] | None:
        """Asked for every node of the graph whether to stop: `abortCb()`. Works on the CPU.

        An exception stops the computation and reaches the caller of `decode`. Ctrl-C needs no such function.
        """
        function: Callable[..., bool] | None = self._keep.get("abortCb")
        return function

    @abortCb.setter
    def abortCb(self, value: Callable[..., bool] | None) -> None:
        self._keep["abortCb"] = _function(value, "abortCb")

    @property
    def abortCbData(self) -> Any:
        """Any object: where it is not None, `abortCb` gets it as its argument."""
        return self._keep.get("abortCbData")

    @abortCbData.setter
    def abortCbData(self, value: Any) -> None:
        self._keep["abortCbData"] = value

    def _for_c(self) -> tuple[Any, list[Any]]:
        """The struct for C, and what it points to."""
        struct = ffi.new("struct llama_context_params *")
        struct[0] = self._c[0]
        struct.cb_eval, struct.cb_eval_user_data, kept_eval = eval_pointers(self.cbEval, self.cbEvalData)
        stop = ffi.new("int32_t *")
        function, data, kept_abort = abort_pointers(self.abortCb, self.abortCbData, stop)
        struct.abort_callback, struct.abort_callback_data = function, data
        return struct, [struct, kept_eval, kept_abort, stop]


def _function(value: Any, name: str) -> Any:
    if value is not None and not callable(value):
        raise TypeError(f"{name} is a function or None, not {type(value).__name__}")
    return value
