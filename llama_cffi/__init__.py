"""llama.cpp for Python: the object-oriented API of the specification, over the whole C API (`llama_cffi.lib`)."""

from __future__ import annotations

from llama_cffi import ggml as Ggml
from llama_cffi._custom_sampler import SamplerI
from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import (
    AttentionType,
    FlashAttnType,
    LoadMode,
    PoolingType,
    RopeScalingType,
    SplitMode,
    VocabType,
)
from llama_cffi._sampler_chain import PerfSamplerData
from llama_cffi.batch import Batch
from llama_cffi.context import Context
from llama_cffi.errors import (
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
    UnavailableError,
)
from llama_cffi.memory import Memory
from llama_cffi.model import Model
from llama_cffi.sampler import Sampler
from llama_cffi.sampler_config import SamplerSeqConfig
from llama_cffi.system import (
    backendFree,
    backendInit,
    maxDevices,
    maxParallelSequences,
    numaInit,
    printSystemInfo,
    supportsGpuOffload,
    supportsMlock,
    supportsMmap,
    supportsRpc,
    timeUs,
)
from llama_cffi.token_data import TokenData
from llama_cffi.token_data_array import TokenDataArray
from llama_cffi.tokens import DEFAULT_SEED, TOKEN_NULL, Pos, ProgressCallback, SeqId, Token
from llama_cffi.vocab import Vocab, detokenize, tokenize

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SEED",
    "TOKEN_NULL",
    "AttentionType",
    "Batch",
    "BusyError",
    "ClosedError",
    "Context",
    "ContextError",
    "ContextFullError",
    "DecodeError",
    "FlashAttnType",
    "Ggml",
    "GrammarError",
    "LlamaError",
    "LoadMode",
    "Memory",
    "Model",
    "ModelLoadError",
    "NativeAssertionError",
    "NativeError",
    "NativeMemoryError",
    "PerfSamplerData",
    "PoolingType",
    "Pos",
    "ProgressCallback",
    "RopeScalingType",
    "Sampler",
    "SamplerI",
    "SamplerSeqConfig",
    "SeqId",
    "SplitMode",
    "Token",
    "TokenData",
    "TokenDataArray",
    "UnavailableError",
    "Vocab",
    "VocabType",
    "backendFree",
    "backendInit",
    "detokenize",
    "ffi",
    "lib",
    "maxDevices",
    "maxParallelSequences",
    "numaInit",
    "printSystemInfo",
    "supportsGpuOffload",
    "supportsMlock",
    "supportsMmap",
    "supportsRpc",
    "timeUs",
    "tokenize",
]
