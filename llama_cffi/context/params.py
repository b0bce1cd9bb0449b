"""Parameters of contexts, and what of them llama.cpp would not survive."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.enums import AttentionType, GgmlType, PoolingType
from llama_cffi._host.resources import check_threads
from llama_cffi.context.checks import check_memory
from llama_cffi.context.samplers import Configs, SamplersParam
from llama_cffi.context.tuning import abort_pointers, check_pooled, eval_pointers
from llama_cffi.model.model import Model

# What llama.cpp's attention kernels can read a cache in; any other type ends the process sooner or later.
_CACHE_TYPES = (
    GgmlType.F32,
    GgmlType.F16,
    GgmlType.BF16,
    GgmlType.Q8_0,
    GgmlType.Q4_0,
    GgmlType.Q4_1,
    GgmlType.IQ4_NL,
    GgmlType.Q5_0,
    GgmlType.Q5_1,
)


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


def check_params(model: Model, params: ContextParams) -> None:
    """Refuse what llama.cpp would answer with an abort or a crash."""
    if model._params.vocabOnly or model._params.noAlloc:
        raise ValueError("a model loaded with vocabOnly or noAlloc has no weights to run: load it whole")
    for name, value, low, high in _limits_of(params):
        if not low <= value <= high:
            raise ValueError(f"Context.Params.{name} goes from {low} to {high} here, and {value} does not fit")
    check_threads("nThreads", params.nThreads)
    check_threads("nThreadsBatch", params.nThreadsBatch)
    if params.nCtx and params.nCtx < params.nSeqMax:
        raise ValueError(f"nCtx {params.nCtx} is less than a token for each of {params.nSeqMax} sequences: raise nCtx")
    if params.nOutputsMax and params.nOutputsMax < params.nSeqMax:
        raise ValueError(
            f"nOutputsMax is {params.nOutputsMax}, less than one for each of {params.nSeqMax} sequences: raise it, or "
            "leave it at 0 for as many as nBatch"
        )
    if params.nSeqMax > 1 and model.hasEncoder and model.hasDecoder:
        raise ValueError(
            f"an encoder-decoder model serves one sequence, and nSeqMax is {params.nSeqMax}: use a context for each"
        )
    for name, kind in (("typeK", params.typeK), ("typeV", params.typeV)):
        if kind not in _CACHE_TYPES:
            choices = ", ".join(choice.name for choice in _CACHE_TYPES)
            raise ValueError(f"Context.Params.{name} is one of {choices}, not {kind.name}")
    if params.embeddings and _pooling(model, params) == PoolingType.MEAN:
        n_batch = min(params.nBatch, params.nCtx or model.nCtxTrain) if _is_causal(model, params) else params.nBatch
        n_outputs = params.nOutputsMax or n_batch
        check_pooled(min(params.nUbatch, n_batch), params.nSeqMax, n_batch if model.hasEncoder else n_outputs)
    check_memory(model, params)


def _limits_of(params: ContextParams) -> tuple[tuple[str, int, int, int], ...]:
    """Names, values, lowest and highest values of sizes."""
    most = (1 << 31) - 256  # llama.cpp rounds up, and counts positions in 31 bits
    return (
        ("nSeqMax", params.nSeqMax, 1, lib.llama_max_parallel_sequences()),
        ("nCtx", params.nCtx, 0, most),
        ("nBatch", params.nBatch, max(1, params.nSeqMax), most),
        ("nUbatch", params.nUbatch, 1, most),
        ("nThreads", params.nThreads, 1, lib.GGML_MAX_N_THREADS),
        ("nThreadsBatch", params.nThreadsBatch, 1, lib.GGML_MAX_N_THREADS),
    )


def _pooling(model: Model, params: ContextParams) -> int:
    if params.poolingType != PoolingType.UNSPECIFIED:
        return params.poolingType
    return int(_of_model(model, "pooling_type") or PoolingType.NONE)


def _is_causal(model: Model, params: ContextParams) -> bool:
    if params.attentionType != AttentionType.UNSPECIFIED:
        return params.attentionType == AttentionType.CAUSAL
    return _of_model(model, "attention.causal") != "false"


def sees_only_before(pointer: Any, model: Model, params: ContextParams) -> bool:
    """Whether a new context's attention is causal."""
    if has("llama_get_causal_attn"):
        return lib.llama_get_causal_attn(pointer)
    return _is_causal(model, params)


def _of_model(model: Model, key: str) -> str | None:
    return model.metaValStr(f"{model.metaValStr('general.architecture')}.{key}")
