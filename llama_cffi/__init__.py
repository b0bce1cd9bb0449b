"""llama.cpp for Python: the object-oriented API of the specification, over the whole C API (`llama_cffi.lib`)."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi import ggml as Ggml
    from llama_cffi._core.base_types import DEFAULT_SEED, TOKEN_NULL, Pos, ProgressCallback, SeqId, Token
    from llama_cffi._generated.enums import (
        AttentionType,
        FlashAttnType,
        Ftype,
        LazyMode,
        LoadMode,
        ModelMetaKey,
        PoolingType,
        ProcessType,
        RopeScalingType,
        RopeType,
        SplitMode,
        TokenAttr,
        VocabType,
    )
    from llama_cffi.chat.apply_template import ChatMessage, chatApplyTemplate, chatBuiltinTemplates
    from llama_cffi.chat.session import ChatAnswer, ChatSession
    from llama_cffi.chat.template import ChatTemplate
    from llama_cffi.chat.tool_calls import ParsedAnswer, ToolCall, ToolFormat, parseToolCalls
    from llama_cffi.constrain.constraint import Constraint
    from llama_cffi.context.batch import Batch
    from llama_cffi.context.batch_ext import BatchExt
    from llama_cffi.context.context import Context
    from llama_cffi.context.memory import Memory
    from llama_cffi.context.outputs import PerfContextData
    from llama_cffi.context.samplers import SamplerSeqConfig
    from llama_cffi.context.tuning import EvalTensor
    from llama_cffi.embedding.embedding import Embedder, Reranker
    from llama_cffi.engine.engine import Engine, EngineLoad, Request, RequestUsage
    from llama_cffi.errors import (
        AdapterError,
        BusyError,
        ClosedError,
        ContextError,
        ContextFullError,
        DecodeError,
        ForkError,
        GrammarError,
        LlamaError,
        ModelLoadError,
        NativeAssertionError,
        NativeError,
        NativeMemoryError,
        RpcError,
        StateError,
        UnavailableError,
    )
    from llama_cffi.generation.generation import Generation, GenerationSteps
    from llama_cffi.generation.steps import Alternative, GenerationStep, StopReason, Usage, defaultSampler
    from llama_cffi.log import logGet, logSet
    from llama_cffi.model.adapter import Adapter
    from llama_cffi.model.model import Model
    from llama_cffi.model.params import TensorBuftOverride
    from llama_cffi.sampling.chain import PerfSamplerData
    from llama_cffi.sampling.custom import SamplerI
    from llama_cffi.sampling.sampler import Sampler
    from llama_cffi.sampling.token_data import TokenData
    from llama_cffi.sampling.token_data_array import TokenDataArray
    from llama_cffi.system import (
        backendFree,
        backendInit,
        flashAttnTypeName,
        ftypeName,
        loadModeFromStr,
        loadModeName,
        maxDevices,
        maxParallelSequences,
        maxTensorBuftOverrides,
        numaInit,
        printSystemInfo,
        splitPath,
        splitPrefix,
        supportsGpuOffload,
        supportsMlock,
        supportsMmap,
        supportsRpc,
        timeUs,
        version,
    )
    from llama_cffi.vocab.tokenize import detokenize, tokenize
    from llama_cffi.vocab.vocab import Vocab

__version__ = "0.1.0"

# `python -m llama_cffi doctor` finds out by itself what is wrong with an extension that cannot be imported.
if TYPE_CHECKING or getattr(sys, "argv", [""])[:1] != ["-m"]:
    from llama_cffi._core.ffi import ffi, lib

# The facade's modules are loaded when one of their names is first used: a program pays for what it needs.
_MODULES: dict[str, tuple[str, ...]] = {
    "ggml": ("Ggml",),
    "context.outputs": ("PerfContextData",),
    "context.tuning": ("EvalTensor",),
    "sampling.custom": ("SamplerI",),
    "_generated.enums": (
        "AttentionType",
        "FlashAttnType",
        "Ftype",
        "LazyMode",
        "LoadMode",
        "ModelMetaKey",
        "PoolingType",
        "ProcessType",
        "RopeScalingType",
        "RopeType",
        "SplitMode",
        "TokenAttr",
        "VocabType",
    ),
    "generation.steps": ("Alternative", "GenerationStep", "StopReason", "Usage", "defaultSampler"),
    "model.params": ("TensorBuftOverride",),
    "sampling.chain": ("PerfSamplerData",),
    "model.adapter": ("Adapter",),
    "context.batch": ("Batch",),
    "context.batch_ext": ("BatchExt",),
    "chat.apply_template": ("ChatMessage", "chatApplyTemplate", "chatBuiltinTemplates"),
    "chat.session": ("ChatAnswer", "ChatSession"),
    "chat.template": ("ChatTemplate",),
    "constrain.constraint": ("Constraint",),
    "context.context": ("Context",),
    "embedding.embedding": ("Embedder", "Reranker"),
    "engine.engine": ("Engine", "EngineLoad", "Request", "RequestUsage"),
    "errors": (
        "AdapterError",
        "BusyError",
        "ClosedError",
        "ContextError",
        "ContextFullError",
        "DecodeError",
        "ForkError",
        "GrammarError",
        "LlamaError",
        "ModelLoadError",
        "NativeAssertionError",
        "NativeError",
        "NativeMemoryError",
        "RpcError",
        "StateError",
        "UnavailableError",
    ),
    "generation.generation": ("Generation", "GenerationSteps"),
    "log": ("logGet", "logSet"),
    "context.memory": ("Memory",),
    "model.model": ("Model",),
    "sampling.sampler": ("Sampler",),
    "context.samplers": ("SamplerSeqConfig",),
    "system": (
        "backendFree",
        "backendInit",
        "flashAttnTypeName",
        "ftypeName",
        "loadModeFromStr",
        "loadModeName",
        "maxDevices",
        "maxParallelSequences",
        "maxTensorBuftOverrides",
        "numaInit",
        "printSystemInfo",
        "splitPath",
        "splitPrefix",
        "supportsGpuOffload",
        "supportsMlock",
        "supportsMmap",
        "supportsRpc",
        "timeUs",
        "version",
    ),
    "vocab.tokenize": ("detokenize", "tokenize"),
    "sampling.token_data": ("TokenData",),
    "sampling.token_data_array": ("TokenDataArray",),
    "_core.base_types": ("DEFAULT_SEED", "Pos", "ProgressCallback", "SeqId", "TOKEN_NULL", "Token"),
    "chat.tool_calls": ("ParsedAnswer", "ToolCall", "ToolFormat", "parseToolCalls"),
    "vocab.vocab": ("Vocab",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = "_core.ffi" if name in ("ffi", "lib") else _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{home}")
    value = module if name == "Ggml" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "DEFAULT_SEED",
    "TOKEN_NULL",
    "Adapter",
    "AdapterError",
    "Alternative",
    "AttentionType",
    "Batch",
    "BatchExt",
    "BusyError",
    "ChatAnswer",
    "ChatMessage",
    "ChatSession",
    "ChatTemplate",
    "ClosedError",
    "Constraint",
    "Context",
    "ContextError",
    "ContextFullError",
    "DecodeError",
    "Embedder",
    "Engine",
    "EngineLoad",
    "EvalTensor",
    "FlashAttnType",
    "ForkError",
    "Ftype",
    "Generation",
    "GenerationStep",
    "GenerationSteps",
    "Ggml",
    "GrammarError",
    "LazyMode",
    "LlamaError",
    "LoadMode",
    "Memory",
    "Model",
    "ModelLoadError",
    "ModelMetaKey",
    "NativeAssertionError",
    "NativeError",
    "NativeMemoryError",
    "ParsedAnswer",
    "PerfContextData",
    "PerfSamplerData",
    "PoolingType",
    "Pos",
    "ProcessType",
    "ProgressCallback",
    "Request",
    "RequestUsage",
    "Reranker",
    "RopeScalingType",
    "RopeType",
    "RpcError",
    "Sampler",
    "SamplerI",
    "SamplerSeqConfig",
    "SeqId",
    "SplitMode",
    "StateError",
    "StopReason",
    "TensorBuftOverride",
    "Token",
    "TokenAttr",
    "TokenData",
    "TokenDataArray",
    "ToolCall",
    "ToolFormat",
    "UnavailableError",
    "Usage",
    "Vocab",
    "VocabType",
    "backendFree",
    "backendInit",
    "chatApplyTemplate",
    "chatBuiltinTemplates",
    "defaultSampler",
    "detokenize",
    "ffi",
    "flashAttnTypeName",
    "ftypeName",
    "lib",
    "loadModeFromStr",
    "loadModeName",
    "logGet",
    "logSet",
    "maxDevices",
    "maxParallelSequences",
    "maxTensorBuftOverrides",
    "numaInit",
    "parseToolCalls",
    "printSystemInfo",
    "splitPath",
    "splitPrefix",
    "supportsGpuOffload",
    "supportsMlock",
    "supportsMmap",
    "supportsRpc",
    "timeUs",
    "tokenize",
    "version",
]
