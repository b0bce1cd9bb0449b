"""The names of ggml, for type checkers: the same as `_HOMES` in `__init__.py`, which a test compares."""

from llama_cffi._generated.enums import (
    GgmlBackendDevType as BackendDevType,
    GgmlLogLevel as LogLevel,
    GgmlNumaStrategy as NumaStrategy,
    GgmlOp as Op,
    GgmlSchedPriority as SchedPriority,
    GgmlStatus as Status,
    GgmlType as Type,
    GgufType as GgufType,
)
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendBufferType, BackendDevice, BackendReg
from llama_cffi.ggml.facts import CpuVariant, DeviceCaps, DeviceMemory
from llama_cffi.ggml.gguf.file import Gguf
from llama_cffi.ggml.gguf.metadata import GgufMetadata
from llama_cffi.ggml.gguf.tensors import GgufTensor, GgufTensors
from llama_cffi.ggml.rpc import Rpc
from llama_cffi.ggml.threadpool import Threadpool

ThreadPool = Threadpool

__all__ = [
    "Backend",
    "BackendBufferType",
    "BackendDevType",
    "BackendDevice",
    "BackendReg",
    "CpuVariant",
    "DeviceCaps",
    "DeviceMemory",
    "Gguf",
    "GgufMetadata",
    "GgufTensor",
    "GgufTensors",
    "GgufType",
    "LogLevel",
    "NumaStrategy",
    "Op",
    "Rpc",
    "SchedPriority",
    "Status",
    "ThreadPool",
    "Threadpool",
    "Type",
]
