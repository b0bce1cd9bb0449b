"""The parameters of llama-cpp-python's `Llama`, as those of `Model.load` and `Context.initFromModel`."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import integer
from llama_cffi._generated.enums import (
    AttentionType,
    FlashAttnType,
    GgmlNumaStrategy,
    GgmlType,
    PoolingType,
    RopeScalingType,
    SplitMode,
)
from llama_cffi.compat.speculative import LlamaPromptLookupDecoding
from llama_cffi.compat.tokenizer import LlamaTokenizer
from llama_cffi.compat.unsupported import unsupported
from llama_cffi.context.context import Context
from llama_cffi.model.model import Model

# Their default -> the same parameter of ours, but for those that need more than a copy.
_MODEL = {"n_gpu_layers": "nGpuLayers", "main_gpu": "mainGpu", "vocab_only": "vocabOnly"}
_CONTEXT = {
    "rope_freq_base": "ropeFreqBase",
    "rope_freq_scale": "ropeFreqScale",
    "yarn_ext_factor": "yarnExtFactor",
    "yarn_attn_factor": "yarnAttnFactor",
    "yarn_beta_fast": "yarnBetaFast",
    "yarn_beta_slow": "yarnBetaSlow",
    "yarn_orig_ctx": "yarnOrigCtx",
    "offload_kqv": "offloadKqv",
    "no_perf": "noPerf",
    "op_offload": "opOffload",
    "swa_full": "swaFull",
    "type_k": "typeK",
    "type_v": "typeV",
    "n_threads": "nThreads",
    "n_threads_batch": "nThreadsBatch",
}

# Keywords of old releases, which programs still pass: the values that mean nothing today.
_OLD: dict[str, tuple[Any, ...]] = {"n_parts": (-1,), "f16_kv": (True, False), "low_vram": (False,)}
_OLD_HINTS = {
    "n_parts": "Model.load finds the parts of a split model, Model.loadSplits takes their names",
    "f16_kv": "pass True, or False for a KV cache in 32 bits (typeK and typeV of Context.Params)",
    "device": "use n_gpu_layers and main_gpu, or devices of Model.Params",
    "low_vram": "pass offload_kqv=False (offloadKqv of Context.Params)",
    "mul_mat_q": "llama.cpp chooses the kernel itself",
    "n_gqa": "llama.cpp reads it from the file, and kv_overrides replaces it",
    "rms_norm_eps": "llama.cpp reads it from the file, and kv_overrides replaces it",
}


def check_supported(options: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Raise UnavailableError for parameters that have no counterpart, TypeError for unknown ones."""
    if options["draft_model"] is not None and not isinstance(options["draft_model"], LlamaPromptLookupDecoding):
        raise unsupported("draft_model", "pass LlamaPromptLookupDecoding(); Generation has speculation=DraftModel(...)")
    if options["tokenizer"] is not None and not isinstance(options["tokenizer"], LlamaTokenizer):
        raise unsupported("tokenizer", "leave it out: the tokenizer of the model's file is used, as tokenize() does")
    if options["lora_base"] is not None:
        raise unsupported(
            "lora_base", "llama.cpp applies adapters to the model itself: Adapter.loraInit, setAdapterLora"
        )
    for name, value in others.items():
        if name in _OLD_HINTS:
            if value is None or value in _OLD.get(name, ()):
                continue
            raise unsupported(f"{name}={value!r}", _OLD_HINTS[name])
        raise TypeError(f"Llama() got an unexpected keyword argument {name!r}: see Model.Params and Context.Params")


def model_params(options: Mapping[str, Any]) -> Model.Params:
    """Return the parameters for `Model.load`."""
    params = Model.Params(splitMode=SplitMode(options["split_mode"]))
    for theirs, ours in _MODEL.items():
        setattr(params, ours, options[theirs])
    params.tensorSplit, params.kvOverrides = options["tensor_split"], options["kv_overrides"]
    if not options["use_mmap"]:
        params.useMmap = False
    if options["use_mlock"]:
        params.useMlock = True
    return params


def context_params(options: Mapping[str, Any], model: Model) -> Context.Params:
    """Return the parameters for `Context.initFromModel`; None as a value means our default."""
    n_ctx = options["n_ctx"] or model.nCtxTrain
    n_batch = min(n_ctx, options["n_batch"])
    params = Context.Params(nCtx=n_ctx, nBatch=n_batch, nUbatch=min(n_batch, options["n_ubatch"]))
    for theirs, ours in _CONTEXT.items():
        if options[theirs] is not None:
            setattr(params, ours, options[theirs])
    if options.get("f16_kv") is False:
        for theirs, ours in (("type_k", "typeK"), ("type_v", "typeV")):
            if options[theirs] is None:
                setattr(params, ours, GgmlType.F32)
    scaling = options["rope_scaling_type"]
    params.ropeScalingType = RopeScalingType.UNSPECIFIED if scaling is None else RopeScalingType(scaling)
    params.attentionType = AttentionType(options["attention_type"])
    params.flashAttnType = FlashAttnType.ENABLED if options["flash_attn"] else FlashAttnType.DISABLED
    return params


def pooling(options: Mapping[str, Any]) -> PoolingType:
    """Return the pooling that was asked for."""
    return PoolingType(options["pooling_type"])


def numa(value: bool | int) -> GgmlNumaStrategy | None:
    """Return the NUMA strategy, or None if it is not to be set. True means to distribute."""
    if value is True:
        return GgmlNumaStrategy.DISTRIBUTE
    return GgmlNumaStrategy(value) if value else None


def seed_number(seed: int) -> int:
    """Return a seed; -1 is llama.cpp's DEFAULT_SEED, a different one each time."""
    return DEFAULT_SEED if seed == -1 else integer(seed, 0, 0xFFFFFFFF, "seed", "-1 takes a different seed each time")


def snake_case(options: Mapping[str, Any], params: Context.Params, embedding: bool) -> SimpleNamespace:
    """Return the context's parameters under the names of C, which programs read (`context_params.n_ctx`)."""
    names = {ours: theirs for theirs, ours in _CONTEXT.items()}
    names |= {"nCtx": "n_ctx", "nBatch": "n_batch", "nUbatch": "n_ubatch", "flashAttnType": "flash_attn_type"}
    found = {theirs: getattr(params, ours) for ours, theirs in names.items()}
    return SimpleNamespace(**found, embeddings=embedding, pooling_type=options["pooling_type"])
