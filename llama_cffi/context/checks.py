"""Checks of context parameters for which llama.cpp would abort: sizes, types, and more memory than there is.

Linux overcommits: allocation succeeds, and the OOM killer ends the process later. So do devices backed by system RAM.
"""

from __future__ import annotations

from llama_cffi._core.checks import out_of_range
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import lib
from llama_cffi._generated import enums
from llama_cffi._host import resources
from llama_cffi._host.resources import check_threads
from llama_cffi.context.params import ContextParams
from llama_cffi.errors import NativeMemoryError
from llama_cffi.model.model import Model
from llama_cffi.model.placement import layers_on_devices, spread_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CELL_BYTES = 44  # of a cell of the KV cache, besides keys and values: position, shift, sequences
_ENTRY_BYTES = 21  # of an entry of a ubatch: token, position, sequences, output

# Architectures whose metadata does not tell the size of their KV cache, or that have none.
_NON_STANDARD_CACHE_ARCHS = ("bert", "embedding", "wavtokenizer", "dream", "llada", "rnd1", "deepseek4", "minimax-m3")


def check_params(model: Model, params: ContextParams) -> None:
    """Raise ValueError or NativeMemoryError for parameters with which llama.cpp would abort or crash."""
    if model._params.vocabOnly or model._params.noAlloc:
        raise ValueError("a model loaded with vocabOnly or noAlloc has no weights to run: load it whole")
    for name, value, low, high in _limits_of(params):
        if not low <= value <= high:
            raise out_of_range(f"Context.Params.{name}", value, low, high)
    check_threads("nThreads", params.nThreads)
    check_threads("nThreadsBatch", params.nThreadsBatch)
    if params.nCtx and params.nCtx < params.nSeqMax:
        raise ValueError(f"nCtx must be at least nSeqMax {params.nSeqMax}, one token per sequence, got {params.nCtx}")
    if params.nOutputsMax and params.nOutputsMax < params.nSeqMax:
        raise ValueError(
            f"nOutputsMax must be at least nSeqMax {params.nSeqMax}, one per sequence, got {params.nOutputsMax}: "
            "0 means nBatch"
        )
    if params.nSeqMax > 1 and model.hasEncoder and model.hasDecoder:
        raise ValueError(
            f"nSeqMax must be 1 for an encoder-decoder model, got {params.nSeqMax}: use a context for each sequence"
        )
    # Those that llama.cpp's attention kernels support; others abort the process sooner or later.
    cache_types = (
        enums.GgmlType.F32,
        enums.GgmlType.F16,
        enums.GgmlType.BF16,
        enums.GgmlType.Q8_0,
        enums.GgmlType.Q4_0,
        enums.GgmlType.Q4_1,
        enums.GgmlType.IQ4_NL,
        enums.GgmlType.Q5_0,
        enums.GgmlType.Q5_1,
    )
    for name, kind in (("typeK", params.typeK), ("typeV", params.typeV)):
        if kind not in cache_types:
            choices = ", ".join(choice.name for choice in cache_types)
            raise ValueError(f"Context.Params.{name} must be one of {choices}, got {kind.name}")
    if params.embeddings and _pooling(model, params) == enums.PoolingType.MEAN:
        n_batch = min(params.nBatch, params.nCtx or model.nCtxTrain) if _is_causal(model, params) else params.nBatch
        n_outputs = params.nOutputsMax or n_batch
        check_pooled(min(params.nUbatch, n_batch), params.nSeqMax, n_batch if model.hasEncoder else n_outputs)
    check_memory(model, params)


def _limits_of(params: ContextParams) -> tuple[tuple[str, int, int, int], ...]:
    """Return sizes as (name, value, smallest, largest)."""
    most = (1 << 31) - 256  # llama.cpp rounds up to 256, and positions have 31 bits
    return (
        ("nSeqMax", params.nSeqMax, 1, lib.llama_max_parallel_sequences()),
        ("nCtx", params.nCtx, 0, most),
        ("nBatch", params.nBatch, max(1, params.nSeqMax), most),
        ("nUbatch", params.nUbatch, 1, most),
        ("nThreads", params.nThreads, 1, lib.GGML_MAX_N_THREADS),
        ("nThreadsBatch", params.nThreadsBatch, 1, lib.GGML_MAX_N_THREADS),
    )


def _pooling(model: Model, params: ContextParams) -> int:
    if params.poolingType != enums.PoolingType.UNSPECIFIED:
        return params.poolingType
    return int(_of_model(model, "pooling_type") or enums.PoolingType.NONE)


def _is_causal(model: Model, params: ContextParams) -> bool:
    if params.attentionType != enums.AttentionType.UNSPECIFIED:
        return params.attentionType == enums.AttentionType.CAUSAL
    return _of_model(model, "attention.causal") != "false"


def has_causal_attention(pointer: Any, model: Model, params: ContextParams) -> bool:
    """Return True if the attention of a new context is causal."""
    if has("llama_get_causal_attn"):
        return lib.llama_get_causal_attn(pointer)
    return _is_causal(model, params)


def _of_model(model: Model, key: str) -> str | None:
    """Return the value of a metadata key of the model's architecture."""
    return model.metaValStr(f"{model.metaValStr('general.architecture')}.{key}")


def check_pooled(n_ubatch: int, n_seq_max: int, n_outputs_max: int) -> None:
    """Raise ValueError for sizes with which llama.cpp cannot build the graph of mean pooling."""
    rest = n_ubatch % n_seq_max
    if rest:
        raise ValueError(
            f"with mean pooling, nUbatch must be a multiple of nSeqMax {n_seq_max}, got {n_ubatch}: set "
            f"Context.Params.nUbatch to {n_ubatch - rest or n_seq_max}"
        )
    if n_outputs_max < n_ubatch:
        raise ValueError(
            f"with mean pooling, nOutputsMax must be at least nUbatch {n_ubatch}, got {n_outputs_max}: "
            "leave Context.Params.nOutputsMax at 0"
        )


def check_memory(model: Model, params: ContextParams) -> None:
    """Raise NativeMemoryError for a KV cache that surely does not fit: llama.cpp fills it with zeros at once."""
    tokens = params.nCtx or model.nCtxTrain
    ubatch = min(params.nUbatch, params.nBatch)
    needed, on_devices = ubatch * _ENTRY_BYTES, 0
    if _has_cache(model):
        here, there = _min_row_bytes(model, params)
        needed = min(ubatch, tokens) * _ENTRY_BYTES + tokens * (_CELL_BYTES + here)
        on_devices = tokens * there
    for size, measure, where in (
        (needed, resources.available_memory, "the machine"),
        (on_devices, lambda: _memory_of_devices(model), "the devices"),
    ):
        if size < 1 << 28:  # 256 MiB: not worth measuring
            continue
        available = measure()
        if available is not None and size > available:
            raise NativeMemoryError(
                f"a context of {tokens} tokens and nUbatch {ubatch} needs at least {size >> 20} MiB, but {where} can "
                f"provide {available >> 20} MiB: lower Context.Params.nCtx or nUbatch, or choose a smaller typeK and "
                "typeV",
                operation="llama_init_from_model",
            )


def _memory_of_devices(model: Model) -> int | None:
    """Return the most that devices can provide. Some use system memory, and report less than they can take of it."""
    available = resources.available_memory()
    if available is None:
        return None
    return max(available, sum(device.memory.total for device in spread_over(model._params)))


def _has_cache(model: Model) -> bool:
    """Return True if the model has a KV cache whose size its metadata tells."""
    arch = model.metaValStr("general.architecture") or ""
    if (
        any([name in arch for name in _NON_STANDARD_CACHE_ARCHS])
        or model.isRecurrent
        or _is_hybrid(model, arch)
        or model.isDiffusion
    ):
        return False
    return not model.hasEncoder and model.metaValStr(f"{arch}.attention.causal") != "false"


def _is_hybrid(model: Model, arch: str) -> bool:
    """Return True if the model has recurrent layers beside those with attention."""
    if has("llama_model_is_hybrid"):
        return model.isHybrid
    return any([model.metaValStr(f"{arch}.{key}") for key in ("ssm.conv_kernel", "shortconv.l_cache")])


def _min_row_bytes(model: Model, params: ContextParams) -> tuple[int, int]:
    """Return the bytes of one token's keys and values on the CPU and on devices; 0 if layers differ in size."""
    arch = model.metaValStr("general.architecture") or ""
    windowed = model.nSwa > 0 and not params.swaFull
    if windowed or not model.nHead or model.metaValStr(f"{arch}.attention.kv_lora_rank") is not None:
        return 0, 0

    def number(key: str, default: int) -> int:
        return int(model.metaValStr(f"{arch}.{key}") or default)

    heads = number("attention.head_count_kv", 0)  # 0 if layers differ
    nextn = model.nLayerNextn if has("llama_model_n_layer_nextn") else number("nextn_predict_layers", 0)
    layers = max(model.nLayer - nextn - number("attention.shared_kv_layers", 0), 0)
    width = model.nEmbd // model.nHead
    keys, values = (heads * number(f"attention.{name}_length", width) for name in ("key", "value"))
    row = lib.ggml_row_size(params.typeK, keys) + lib.ggml_row_size(params.typeV, values)
    offloaded = layers_on_devices(model._params, layers) if params.offloadKqv else 0
    return (layers - offloaded) * row, offloaded * row
