"""llama.cpp for Python: the object-oriented API of the specification, over the whole C API (`llama_cffi.lib`)."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi import ggml as Ggml
    from llama_cffi._context_outputs import PerfContextData
    from llama_cffi._context_tuning import EvalTensor
    from llama_cffi._custom_sampler import SamplerI
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
    from llama_cffi._generation_steps import Alternative, GenerationStep, StopReason, Usage, defaultSampler
    from llama_cffi._model_params import TensorBuftOverride
    from llama_cffi._sampler_chain import PerfSamplerData
    from llama_cffi.adapter import Adapter
    from llama_cffi.batch import Batch
    from llama_cffi.batch_ext import BatchExt
    from llama_cffi.chat import ChatMessage, chatApplyTemplate, chatBuiltinTemplates
    from llama_cffi.chat_session import ChatAnswer, ChatSession
    from llama_cffi.chat_template import ChatTemplate
    from llama_cffi.constraint import Constraint
    from llama_cffi.context import Context
    from llama_cffi.embedding import Embedder, Reranker
    from llama_cffi.engine import Engine, EngineLoad, Request, RequestUsage
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
    from llama_cffi.generation import Generation, GenerationSteps
    from llama_cffi.log import logGet, logSet
    from llama_cffi.memory import Memory
    from llama_cffi.model import Model
    from llama_cffi.sampler import Sampler
    from llama_cffi.sampler_config import SamplerSeqConfig
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
    from llama_cffi.text import detokenize, tokenize
    from llama_cffi.token_data import TokenData
    from llama_cffi.token_data_array import TokenDataArray
    from llama_cffi.tokens import DEFAULT_SEED, TOKEN_NULL, Pos, ProgressCallback, SeqId, Token
    from llama_cffi.tool_calls import ParsedAnswer, ToolCall, ToolFormat, parseToolCalls
    from llama_cffi.vocab import Vocab

__version__ = "0.1.0"

# `python -m llama_cffi doctor` finds out by itself what is wrong with an extension that cannot be imported.
if TYPE_CHECKING or getattr(sys, "argv", [""])[:1] != ["-m"]:
    from llama_cffi._ffi import ffi, lib

# The facade's modules are loaded when one of their names is first used: a program pays for what it needs.
_MODULES: dict[str, tuple[str, ...]] = {
    "ggml": ("Ggml",),
    "_context_outputs": ("PerfContextData",),
    "_context_tuning": ("EvalTensor",),
    "_custom_sampler": ("SamplerI",),
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
    "_generation_steps": ("Alternative", "GenerationStep", "StopReason", "Usage", "defaultSampler"),
    "_model_params": ("TensorBuftOverride",),
    "_sampler_chain": ("PerfSamplerData",),
    "adapter": ("Adapter",),
    "batch": ("Batch",),
    "batch_ext": ("BatchExt",),
    "chat": ("ChatMessage", "chatApplyTemplate", "chatBuiltinTemplates"),
    "chat_session": ("ChatAnswer", "ChatSession"),
    "chat_template": ("ChatTemplate",),
    "constraint": ("Constraint",),
    "context": ("Context",),
    "embedding": ("Embedder", "Reranker"),
    "engine": ("Engine", "EngineLoad", "Request", "RequestUsage"),
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
    "generation": ("Generation", "GenerationSteps"),
    "log": ("logGet", "logSet"),
    "memory": ("Memory",),
    "model": ("Model",),
    "sampler": ("Sampler",),
    "sampler_config": ("SamplerSeqConfig",),
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
    "text": ("detokenize", "tokenize"),
    "token_data": ("TokenData",),
    "token_data_array": ("TokenDataArray",),
    "tokens": ("DEFAULT_SEED", "Pos", "ProgressCallback", "SeqId", "TOKEN_NULL", "Token"),
    "tool_calls": ("ParsedAnswer", "ToolCall", "ToolFormat", "parseToolCalls"),
    "vocab": ("Vocab",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = "_ffi" if name in ("ffi", "lib") else _HOMES.get(name)
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
