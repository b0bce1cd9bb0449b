"""Whether the machine has the memory that a context would fill. Linux lends it at once, and ends the process later; and
a device that is the CPU in disguise, or shares its memory, lends it in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import lib
from llama_cffi._host import resources
from llama_cffi.errors import NativeMemoryError
from llama_cffi.model.model import Model
from llama_cffi.model.placement import layers_on_devices, spread_over

if TYPE_CHECKING:
    from llama_cffi.context.params import ContextParams

_CELL = 44  # bytes that llama.cpp keeps for a token besides its keys and values: position, shift, sequences
_ENTRY = 21  # bytes that it fills for an entry of a ubatch: token, position, sequences, output

# Kinds of models whose cache is another one, or none, than the numbers of their metadata say.
_OTHERS = ("bert", "embedding", "wavtokenizer", "dream", "llada", "rnd1", "deepseek4", "minimax-m3")


def check_memory(model: Model, params: ContextParams) -> None:
    """Refuse a cache that surely does not fit. llama.cpp fills it with zeros when it makes the context."""
    tokens = params.nCtx or model.nCtxTrain
    ubatch = min(params.nUbatch, params.nBatch)
    needed, on_devices = ubatch * _ENTRY, 0
    if _has_cache(model):
        here, there = _least_rows(model, params)
        needed = min(ubatch, tokens) * _ENTRY + tokens * (_CELL + here)
        on_devices = tokens * there
    for size, given, whose in (
        (needed, resources.available_memory, "the machine"),
        (on_devices, lambda: _memory_of_devices(model), "the devices"),
    ):
        if size < 1 << 28:  # a quarter of a gigabyte: not worth asking
            continue
        available = given()
        if available is not None and size > available:
            raise NativeMemoryError(
                f"a context of {tokens} tokens and nUbatch {ubatch} fills at least {size >> 20} MiB, and {whose} can "
                f"give {available >> 20} MiB: lower Context.Params.nCtx or nUbatch, or choose a smaller typeK and "
                "typeV",
                operation="llama_init_from_model",
            )


def _memory_of_devices(model: Model) -> int | None:
    """What the devices can give at most. Some use the machine's memory, and say less than they take of it."""
    available = resources.available_memory()
    if available is None:
        return None
    return max(available, sum(device.memory.total for device in spread_over(model._params)))


def _has_cache(model: Model) -> bool:
    arch = model.metaValStr("general.architecture") or ""
    if any(name in arch for name in _OTHERS) or model.isRecurrent or _is_hybrid(model, arch) or model.isDiffusion:
        return False
    return not model.hasEncoder and model.metaValStr(f"{arch}.attention.causal") != "false"


def _is_hybrid(model: Model, arch: str) -> bool:
    """Whether the model has recurrent layers beside those with attention."""
    if has("llama_model_is_hybrid"):
        return model.isHybrid
    return any(model.metaValStr(f"{arch}.{key}") for key in ("ssm.conv_kernel", "shortconv.l_cache"))


def _least_rows(model: Model, params: ContextParams) -> tuple[int, int]:
    """The bytes of one token's keys and values on the CPU and on devices, where layers are alike and whole; else 0."""
    arch = model.metaValStr("general.architecture") or ""
    windowed = model.nSwa > 0 and not params.swaFull
    if windowed or not model.nHead or model.metaValStr(f"{arch}.attention.kv_lora_rank") is not None:
        return 0, 0

    def number(key: str, default: int) -> int:
        return int(model.metaValStr(f"{arch}.{key}") or default)

    heads = number("attention.head_count_kv", 0)  # 0 where each layer has a number of its own
    nextn = model.nLayerNextn if has("llama_model_n_layer_nextn") else number("nextn_predict_layers", 0)
    layers = max(model.nLayer - nextn - number("attention.shared_kv_layers", 0), 0)
    width = model.nEmbd // model.nHead
    keys, values = (heads * number(f"attention.{name}_length", width) for name in ("key", "value"))
    row = lib.ggml_row_size(params.typeK, keys) + lib.ggml_row_size(params.typeV, values)
    offloaded = layers_on_devices(model._params, layers) if params.offloadKqv else 0
    return (layers - offloaded) * row, offloaded * row
