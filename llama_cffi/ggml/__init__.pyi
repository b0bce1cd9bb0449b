"""The names of ggml, for type checkers: the same as `_HOMES` in `__init__.py`, which a test compares."""

from llama_cffi._generated.enums import (
    GgmlBackendBufferUsage as BackendBufferUsage,
    GgmlBackendDevType as BackendDevType,
    GgmlFType as FType,
    GgmlGluOp as GluOp,
    GgmlLogLevel as LogLevel,
    GgmlNumaStrategy as NumaStrategy,
    GgmlOp as Op,
    GgmlOpPool as OpPool,
    GgmlOptLossType as OptLossType,
    GgmlOptOptimizerType as OptOptimizerType,
    GgmlPrec as Prec,
    GgmlScaleMode as ScaleMode,
    GgmlSchedPriority as SchedPriority,
    GgmlSortOrder as SortOrder,
    GgmlStatus as Status,
    GgmlTriType as TriType,
    GgmlType as Type,
    GgmlUnaryOp as UnaryOp,
    GgufType as GgufType,
)
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.buffer import BackendBuffer
from llama_cffi.ggml.cgraph import CGraph
from llama_cffi.ggml.context import Context
from llama_cffi.ggml.cplan import CPlan
from llama_cffi.ggml.device import BackendBufferType, BackendDevice, BackendReg
from llama_cffi.ggml.evaluation import compute
from llama_cffi.ggml.facts import CpuVariant, DeviceCaps, DeviceMemory
from llama_cffi.ggml.functions import (
    abort,
    bf16ToFp32,
    blckSize,
    buildBackwardExpand,
    buildForwardExpand,
    fp16ToFp32,
    fp32ToBf16,
    fp32ToFp16,
    free,
    fTypeToType,
    getBuildDependencies,
    getGraphOverhead,
    getRowSize,
    getTensorOverhead,
    getTypeSize,
    init,
    isNuma,
    isQuantized,
    numaInit,
    setAbortCallback,
    statusToString,
    typeName,
)
from llama_cffi.ggml.gallocr import Gallocr
from llama_cffi.ggml.gguf.file import Gguf
from llama_cffi.ggml.gguf.metadata import GgufMetadata
from llama_cffi.ggml.gguf.tensors import GgufTensor, GgufTensors
from llama_cffi.ggml.init_params import InitParams
from llama_cffi.ggml.opt import Opt, OptEpoch
from llama_cffi.ggml.opt_dataset import OptDataset, OptResult
from llama_cffi.ggml.opt_params import OptOptimizerParams
from llama_cffi.ggml.rpc import Rpc
from llama_cffi.ggml.sched import BackendSched
from llama_cffi.ggml.tensor import Tensor
from llama_cffi.ggml.threadpool import Threadpool

Graph = CGraph
ThreadPool = Threadpool

__all__ = [
    "Backend",
    "BackendBuffer",
    "BackendBufferType",
    "BackendBufferUsage",
    "BackendDevType",
    "BackendDevice",
    "BackendReg",
    "BackendSched",
    "CGraph",
    "CPlan",
    "Context",
    "CpuVariant",
    "DeviceCaps",
    "DeviceMemory",
    "FType",
    "Gallocr",
    "Gguf",
    "GgufMetadata",
    "GgufTensor",
    "GgufTensors",
    "GgufType",
    "GluOp",
    "Graph",
    "InitParams",
    "LogLevel",
    "NumaStrategy",
    "Op",
    "OpPool",
    "Opt",
    "OptDataset",
    "OptEpoch",
    "OptLossType",
    "OptOptimizerParams",
    "OptOptimizerType",
    "OptResult",
    "Prec",
    "Rpc",
    "ScaleMode",
    "SchedPriority",
    "SortOrder",
    "Status",
    "Tensor",
    "ThreadPool",
    "Threadpool",
    "TriType",
    "Type",
    "UnaryOp",
    "abort",
    "bf16ToFp32",
    "blckSize",
    "buildBackwardExpand",
    "buildForwardExpand",
    "compute",
    "fTypeToType",
    "fp16ToFp32",
    "fp32ToBf16",
    "fp32ToFp16",
    "free",
    "getBuildDependencies",
    "getGraphOverhead",
    "getRowSize",
    "getTensorOverhead",
    "getTypeSize",
    "init",
    "isNuma",
    "isQuantized",
    "numaInit",
    "setAbortCallback",
    "statusToString",
    "typeName",
]
