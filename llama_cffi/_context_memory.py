"""Whether the machine has the memory that a context would fill. Linux lends it at once, and ends the process later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi import _limits
from llama_cffi._ffi import lib
from llama_cffi.errors import NativeMemoryError
from llama_cffi.model import Model

if TYPE_CHECKING:
    from llama_cffi._context_params import ContextParams

_CELL = 44  # bytes that llama.cpp keeps for a token besides its keys and values: position, shift, sequences

# Kinds of models whose cache is another one, or none, than the numbers of their metadata say.
_OTHERS = ("bert", "embedding", "wavtokenizer", "dream", "llada", "rnd1", "deepseek4", "minimax-m3")


def check_memory(model: Model, params: ContextParams) -> None:
    """Refuse a cache that surely does not fit. llama.cpp fills it with zeros when it makes the context."""
    tokens = params.nCtx or model.nCtxTrain
    needed = tokens * (_CELL + _least_row(model, params)) if _has_cache(model) else 0
    if needed < 1 << 28:  # a quarter of a gigabyte: not worth asking
        return
    available = _limits.available_memory()
    if available is not None and needed > available:
        raise NativeMemoryError(
            f"a context of {tokens} tokens fills at least {needed >> 20} MiB, and the machine can give "
            f"{available >> 20} MiB: lower Context.Params.nCtx, or choose a smaller typeK and typeV",
            operation="llama_init_from_model",
        )


def _has_cache(model: Model) -> bool:
    arch = model.metaValStr("general.architecture") or ""
    if any(name in arch for name in _OTHERS) or model.isRecurrent or model.isHybrid or model.isDiffusion:
        return False
    return not model.hasEncoder and model.metaValStr(f"{arch}.attention.causal") != "false"


def _least_row(model: Model, params: ContextParams) -> int:
    """The bytes of one token's keys and values in all layers, where these are alike, whole and on the CPU; else 0."""
    arch = model.metaValStr("general.architecture") or ""
    elsewhere = lib.llama_supports_gpu_offload() and params.offloadKqv and model._params.nGpuLayers != 0
    windowed = model.nSwa > 0 and not params.swaFull
    if elsewhere or windowed or not model.nHead or model.metaValStr(f"{arch}.attention.kv_lora_rank") is not None:
        return 0

    def number(key: str, default: int) -> int:
        return int(model.metaValStr(f"{arch}.{key}") or default)

    heads = number("attention.head_count_kv", 0)  # 0 where each layer has a number of its own
    layers = model.nLayer - model.nLayerNextn - number("attention.shared_kv_layers", 0)
    width = model.nEmbd // model.nHead
    keys, values = (heads * number(f"attention.{name}_length", width) for name in ("key", "value"))
    return max(layers, 0) * (lib.ggml_row_size(params.typeK, keys) + lib.ggml_row_size(params.typeV, values))
