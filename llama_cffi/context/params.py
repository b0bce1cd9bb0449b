"""Parameters of a context."""

from __future__ import annotations

from collections.abc import Callable

from llama_cffi._core.callbacks import abort_pointers
from llama_cffi._core.checks import boolean, function_or_none
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.structs import IntField, Struct
from llama_cffi._host.resources import usable_cpus
from llama_cffi.context.compute_callbacks import eval_pointers
from llama_cffi.context.samplers import Configs, SamplersParam

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Unpack

    from llama_cffi._generated.structs import ContextParamsKeywords

    class _Keywords(ContextParamsKeywords, total=False):
        cbEval: Callable[..., bool | None] | None
        cbEvalData: Any
        abortCb: Callable[..., bool] | None
        abortCbData: Any
        adaptThreads: bool
        samplers: Configs


class _ThreadsField(IntField):
    """A number of threads. Setting it turns `adaptThreads` off."""

    def __set__(self, instance: Struct, value: int) -> None:
        super().__set__(instance, value)
        instance._keep.setdefault("adaptThreads", False)


class ContextParams(SamplersParam):
    """Parameters of a context. `Context.Params(nCtx=2048)` sets fields; the others keep llama.cpp's defaults,
    but for the number of threads.

    Maps to `llama_context_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_context_default_params()
        self._c.n_threads = self._c.n_threads_batch = usable_cpus()

    nThreads = _ThreadsField("n_threads", 32, True)
    """Number of threads for a batch of one token; see `nThreadsBatch`."""
    nThreadsBatch = _ThreadsField("n_threads_batch", 32, True)
    """Number of threads for larger batches. The default of both is the number of CPUs that this process can use: with
    the limits of its affinity and its control groups, and physical cores rather than hyper-threads.
    """

    @property
    def adaptThreads(self) -> bool:
        """Use fewer threads while other programs need the CPUs, and all of them again later.

        The threads of a computation wait for each other some hundred times a token. If another program runs on the CPU
        of one of them, all others wait as well: the computation nearly stops. By default True, and False once you set
        `nThreads` or `nThreadsBatch`: an explicit number is used as it is.
        """
        adapts: bool = self._keep.get("adaptThreads", True)
        return adapts

    @adaptThreads.setter
    def adaptThreads(self, value: bool) -> None:
        self._keep["adaptThreads"] = boolean(value, "adaptThreads")

    @property
    def cbEval(self) -> Callable[..., bool | None] | None:
        """Callback for tensors of the computation graph: `cbEval(tensor, ask)`, on the thread that calls `decode`.

        It is called for each tensor with `ask` True, and returns True to see its data. Then it is called with `ask`
        False, once the data is computed, and returns False to stop the computation. None means True. The tensor has
        `name`, `op`, `type`, `shape` and `data`. An exception stops the computation and reaches the caller of `decode`.
        """
        function: Callable[..., bool | None] | None = self._keep.get("cbEval")
        return function

    @cbEval.setter
    def cbEval(self, value: Callable[..., bool | None] | None) -> None:
        self._keep["cbEval"] = function_or_none(value, "cbEval")

    @property
    def cbEvalData(self) -> Any:
        """Any object: unless it is None, `cbEval` gets it as the last argument."""
        return self._keep.get("cbEvalData")

    @cbEvalData.setter
    def cbEvalData(self, value: Any) -> None:
        self._keep["cbEvalData"] = value

    @property
    def abortCb(self) -> Callable[..., bool] | None:
        """Abort callback: `abortCb()` is called for each node of the graph, and returns True to stop. CPU only.

        An exception stops the computation and reaches the caller of `decode`. Ctrl-C works without it.
        """
        function: Callable[..., bool] | None = self._keep.get("abortCb")
        return function

    @abortCb.setter
    def abortCb(self, value: Callable[..., bool] | None) -> None:
        self._keep["abortCb"] = function_or_none(value, "abortCb")

    @property
    def abortCbData(self) -> Any:
        """Any object: unless it is None, `abortCb` gets it as its argument."""
        return self._keep.get("abortCbData")

    @abortCbData.setter
    def abortCbData(self, value: Any) -> None:
        self._keep["abortCbData"] = value

    def _for_c(self) -> tuple[Any, list[Any]]:
        """Return the struct for C, and what it points to; the last of those is `_stop`, an `int32_t *`."""
        struct = ffi.new("struct llama_context_params *")
        struct[0] = self._c[0]
        struct.cb_eval, struct.cb_eval_user_data, kept_eval = eval_pointers(self.cbEval, self.cbEvalData)
        stop = ffi.new("int32_t *")
        function, data, kept_abort = abort_pointers(self.abortCb, self.abortCbData, stop)
        struct.abort_callback, struct.abort_callback_data = function, data
        return struct, [struct, kept_eval, kept_abort, stop]
