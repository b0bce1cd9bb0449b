"""ggml: GGUF files, backends and their devices, RPC workers, thread pools, and enumerations such as tensor types."""

from __future__ import annotations

import sys

import llama_cffi._core.ffi  # noqa: F401  # a broken extension is reported by `from llama_cffi import Ggml`

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Module -> the names in it, each with its own name there. A module is loaded when one of its names is first used: to
# load a model takes neither RPC nor thread pools. `__init__.pyi` has the same names for type checkers.
_MODULES: dict[str, dict[str, str]] = {
    "_generated.enums": {
        "BackendDevType": "GgmlBackendDevType",
        "GgufType": "GgufType",
        "LogLevel": "GgmlLogLevel",
        "NumaStrategy": "GgmlNumaStrategy",
        "Op": "GgmlOp",
        "SchedPriority": "GgmlSchedPriority",
        "Status": "GgmlStatus",
        "Type": "GgmlType",
    },
    "ggml.backend": {"Backend": "Backend"},
    "ggml.device": {
        "BackendBufferType": "BackendBufferType",
        "BackendDevice": "BackendDevice",
        "BackendReg": "BackendReg",
    },
    "ggml.facts": {
        "CpuVariant": "CpuVariant",
        "DeviceCaps": "DeviceCaps",
        "DeviceMemory": "DeviceMemory",
    },
    "ggml.gguf.file": {"Gguf": "Gguf"},
    "ggml.gguf.metadata": {"GgufMetadata": "GgufMetadata"},
    "ggml.gguf.tensors": {"GgufTensor": "GgufTensor", "GgufTensors": "GgufTensors"},
    "ggml.rpc": {"Rpc": "Rpc"},
    # ThreadPool is the other spelling of the specification. Prefer `Threadpool`.
    "ggml.threadpool": {"ThreadPool": "Threadpool", "Threadpool": "Threadpool"},
}
_HOMES = {name: (module, there) for module, names in _MODULES.items() for name, there in names.items()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from llama_cffi._core.explain import unknown

        raise unknown(f"module {__name__!r} has no attribute {name!r}", sys.modules[__name__], name)
    home, there = _HOMES[name]
    __import__(f"llama_cffi.{home}")
    value = getattr(sys.modules[f"llama_cffi.{home}"], there)
    if home != "_generated.enums":
        from llama_cffi._core.explain import explain

        value = explain(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
