"""ggml: backends and their devices, RPC workers, thread pools, and enumerations such as tensor types."""

from __future__ import annotations

from llama_cffi._generated.enums import (
    GgmlBackendDevType as BackendDevType,
    GgmlLogLevel as LogLevel,
    GgmlNumaStrategy as NumaStrategy,
    GgmlOp as Op,
    GgmlSchedPriority as SchedPriority,
    GgmlStatus as Status,
    GgmlType as Type,
)
from llama_cffi.ggml._cpu_variants import CpuVariant
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendBufferType, BackendDevice, BackendReg, DeviceCaps, DeviceMemory
from llama_cffi.ggml.rpc import Rpc
from llama_cffi.ggml.threadpool import Threadpool

ThreadPool = Threadpool
"""The other spelling of the specification. Prefer `Threadpool`."""

__all__ = [
    "Backend",
    "BackendBufferType",
    "BackendDevType",
    "BackendDevice",
    "BackendReg",
    "CpuVariant",
    "DeviceCaps",
    "DeviceMemory",
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
