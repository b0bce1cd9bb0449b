"""ggml: tensors and graphs, GGUF files, backends and devices, RPC workers, thread pools, enumerations."""

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
        "BackendBufferUsage": "GgmlBackendBufferUsage",
        "BackendDevType": "GgmlBackendDevType",
        "GgufType": "GgufType",
        "FType": "GgmlFType",
        "GluOp": "GgmlGluOp",
        "LogLevel": "GgmlLogLevel",
        "NumaStrategy": "GgmlNumaStrategy",
        "Op": "GgmlOp",
        "OpPool": "GgmlOpPool",
        "OptLossType": "GgmlOptLossType",
        "OptOptimizerType": "GgmlOptOptimizerType",
        "Prec": "GgmlPrec",
        "ScaleMode": "GgmlScaleMode",
        "SchedPriority": "GgmlSchedPriority",
        "SortOrder": "GgmlSortOrder",
        "Status": "GgmlStatus",
        "TriType": "GgmlTriType",
        "Type": "GgmlType",
        "UnaryOp": "GgmlUnaryOp",
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
    "ggml.buffer": {"BackendBuffer": "BackendBuffer"},
    # Graph is the other spelling of `CGraph`.
    "ggml.cgraph": {"CGraph": "CGraph", "Graph": "CGraph"},
    "ggml.evaluation": {"compute": "compute"},
    "ggml.context": {"Context": "Context"},
    "ggml.cplan": {"CPlan": "CPlan"},
    "ggml.functions": {
        "abort": "abort",
        "bf16ToFp32": "bf16ToFp32",
        "blckSize": "blckSize",
        "buildBackwardExpand": "buildBackwardExpand",
        "buildForwardExpand": "buildForwardExpand",
        "fTypeToType": "fTypeToType",
        "fp16ToFp32": "fp16ToFp32",
        "fp32ToBf16": "fp32ToBf16",
        "fp32ToFp16": "fp32ToFp16",
        "free": "free",
        "getBuildDependencies": "getBuildDependencies",
        "getGraphOverhead": "getGraphOverhead",
        "getRowSize": "getRowSize",
        "getTensorOverhead": "getTensorOverhead",
        "getTypeSize": "getTypeSize",
        "init": "init",
        "isNuma": "isNuma",
        "isQuantized": "isQuantized",
        "numaInit": "numaInit",
        "setAbortCallback": "setAbortCallback",
        "statusToString": "statusToString",
        "typeName": "typeName",
    },
    "ggml.gallocr": {"Gallocr": "Gallocr"},
    "ggml.init_params": {"InitParams": "InitParams"},
    "ggml.opt": {"Opt": "Opt", "OptEpoch": "OptEpoch"},
    "ggml.opt_dataset": {"OptDataset": "OptDataset", "OptResult": "OptResult"},
    "ggml.opt_params": {"OptOptimizerParams": "OptOptimizerParams"},
    "ggml.rpc": {"Rpc": "Rpc"},
    "ggml.sched": {"BackendSched": "BackendSched"},
    "ggml.tensor": {"Tensor": "Tensor"},
    # ThreadPool is the other spelling of the specification. Prefer `Threadpool`.
    "ggml.threadpool": {"ThreadPool": "Threadpool", "Threadpool": "Threadpool"},
}
_HOMES = {name: (module, there) for module, names in _MODULES.items() for name, there in names.items()}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    from llama_cffi._core.explain import looked_up

    return looked_up(sys.modules[__name__], _HOMES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
