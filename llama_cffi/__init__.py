"""llama.cpp for Python: the object-oriented API of the specification, over the whole C API (`llama_cffi.lib`)."""

from __future__ import annotations

from llama_cffi import ggml as Ggml
from llama_cffi._context_outputs import PerfContextData
from llama_cffi._context_tuning import EvalTensor
from llama_cffi._custom_sampler import SamplerI
from llama_cffi._ffi import ffi, lib
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
from llama_cffi._model_params import TensorBuftOverride
from llama_cffi._sampler_chain import PerfSamplerData
from llama_cffi.adapter import Adapter
from llama_cffi.batch import Batch
from llama_cffi.batch_ext import BatchExt
from llama_cffi.chat import ChatMessage, chatApplyTemplate, chatBuiltinTemplates
from llama_cffi.context import Context
from llama_cffi.errors import (
    AdapterError,
    BusyError,
    ClosedError,
    ContextError,
    ContextFullError,
    DecodeError,
    GrammarError,
    LlamaError,
    ModelLoadError,
    NativeAssertionError,
    NativeError,
    NativeMemoryError,
    StateError,
    UnavailableError,
)
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
from llama_cffi.vocab import Vocab

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SEED",
    "TOKEN_NULL",
    "Adapter",
    "AdapterError",
    "AttentionType",
    "Batch",
    "BatchExt",
    "BusyError",
    "ChatMessage",
    "ClosedError",
    "Context",
    "ContextError",
    "ContextFullError",
    "DecodeError",
    "EvalTensor",
    "FlashAttnType",
    "Ftype",
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
    "PerfContextData",
    "PerfSamplerData",
    "PoolingType",
    "Pos",
    "ProcessType",
    "ProgressCallback",
    "RopeScalingType",
    "RopeType",
    "Sampler",
    "SamplerI",
    "SamplerSeqConfig",
    "SeqId",
    "SplitMode",
    "StateError",
    "TensorBuftOverride",
    "Token",
    "TokenAttr",
    "TokenData",
    "TokenDataArray",
    "UnavailableError",
    "Vocab",
    "VocabType",
    "backendFree",
    "backendInit",
    "chatApplyTemplate",
    "chatBuiltinTemplates",
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
