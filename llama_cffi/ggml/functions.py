"""The functions of ggml: sizes of types, half-precision numbers, contexts and graphs."""

from __future__ import annotations

from llama_cffi._core import guard_errors
from llama_cffi._core.arguments import read_buffer, writable_buffer
from llama_cffi._core.checks import boolean, expected, integer, number, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums
from llama_cffi.errors import NativeAssertionError
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.cgraph import CGraph
from llama_cffi.ggml.context import Context
from llama_cffi.ggml.init_params import InitParams
from llama_cffi.ggml.quantization import tensor_type
from llama_cffi.ggml.tensor import Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from llama_cffi._core.arguments import OutBuffer
    from llama_cffi._generated.enums import GgmlFType, GgmlNumaStrategy, GgmlStatus, GgmlType


def getBuildDependencies() -> list[str]:
    """Return the paths of the native libraries of this package. The package carries them: nothing else is needed."""
    from llama_cffi._core import manifest

    found = manifest.read()
    return sorted({*map(str, found.linked), *(str(file) for files in found.modules.values() for file in files)})


def init(params: InitParams | None = None) -> Context:
    """Make a context. Without parameters, its memory grows. Raises NativeMemoryError.

    Maps to `ggml_init`.
    """
    if params is None:
        return Context()
    if not isinstance(params, InitParams):
        raise expected("a Ggml.InitParams", params, "Ggml.InitParams(memSize=...) makes one", "params")
    return Context(params.memSize or None, noAlloc=params.noAlloc, memBuffer=params.memBuffer)


def free(ctx: Context) -> None:
    """Free a context with every tensor and graph in it. Freeing twice is harmless.

    Maps to `ggml_free`.
    """
    if not isinstance(ctx, Context):
        raise expected("a Ggml.Context", ctx, "Ggml.init() makes one", "ctx")
    ctx.free()


def buildForwardExpand(graph: CGraph, tensor: Tensor) -> None:
    """Add a tensor, and all that it depends on, to a graph. Raises ValueError if the graph is too small.

    Maps to `ggml_build_forward_expand`.
    """
    _require_graph(graph).expand(tensor)


def buildBackwardExpand(context: Context, graph: CGraph, gradAccs: Sequence[Tensor | None] | None = None) -> None:
    """Add the gradients of the loss in a graph, in new tensors of the context.

    The graph must have room for them (`ctx.newGraph(size, grads=True)`), a parameter (`setParam`) and a loss
    (`setLoss`). `gradAccs` has, for each node, a tensor to add its gradient to, or None. Raises NativeAssertionError
    for an operation without a gradient.

    Maps to `ggml_build_backward_expand`.
    """
    from llama_cffi.ggml.backward import build

    if not isinstance(context, Context):
        raise expected("a Ggml.Context", context, "Ggml.init() makes one", "context")
    build(context, _require_graph(graph), gradAccs)


def _require_graph(graph: object) -> CGraph:
    if not isinstance(graph, CGraph):
        raise expected("a Ggml.CGraph", graph, "ctx.newGraph() makes one", "graph")
    return graph


def numaInit(numaStrategy: GgmlNumaStrategy) -> None:
    """Choose the NUMA strategy, once and before any computation. Loads the CPU backend.

    Maps to `ggml_numa_init`.
    """
    strategy = enums.GgmlNumaStrategy(numaStrategy)
    if strategy == enums.GgmlNumaStrategy.COUNT:
        raise ValueError("numaStrategy must be a strategy, got COUNT: use Ggml.NumaStrategy.DISTRIBUTE")
    Backend.ensureCpu()
    lib.ggml_numa_init(strategy)


def isNuma() -> bool:
    """Return True if a NUMA strategy was chosen on a machine with several nodes. Loads the CPU backend.

    Maps to `ggml_is_numa`.
    """
    Backend.ensureCpu()
    return lib.ggml_is_numa()


# Sizes


def getTensorOverhead() -> int:
    """Return the bytes that the metadata of a tensor takes in a context.

    Maps to `ggml_tensor_overhead`.
    """
    return lib.ggml_tensor_overhead()


def getGraphOverhead(size: int = lib.GGML_DEFAULT_GRAPH_SIZE, grads: bool = False) -> int:
    """Return the bytes that a graph of `size` nodes takes in a context.

    Maps to `ggml_graph_overhead` and `ggml_graph_overhead_custom`.
    """
    return lib.ggml_graph_overhead_custom(integer(size, 1, 1 << 24, "size"), boolean(grads, "grads"))


def getTypeSize(type: GgmlType) -> int:
    """Return the bytes of a block of a type; of an element, for types without blocks.

    Maps to `ggml_type_size`.
    """
    return lib.ggml_type_size(tensor_type(type, "type"))


def blckSize(type: GgmlType) -> int:
    """Return the number of elements in a block of a type; 1 for types without blocks.

    Maps to `ggml_blck_size`.
    """
    return lib.ggml_blck_size(tensor_type(type, "type"))


def getRowSize(type: GgmlType, ne: int) -> int:
    """Return the bytes of a row of `ne` elements. Raises ValueError unless `ne` is a multiple of the block.

    Maps to `ggml_row_size`.
    """
    kind = tensor_type(type, "type")
    block = lib.ggml_blck_size(kind)
    if integer(ne, 0, 1 << 44, "ne") % block:
        raise ValueError(f"ne must be a multiple of {block}, the block of {kind.name}, got {ne}: pad the rows")
    return lib.ggml_row_size(kind, ne)


def typeName(type: GgmlType) -> str:
    """Return the name of a type as ggml spells it, such as `q4_K`.

    Maps to `ggml_type_name`.
    """
    return bytes(ffi.string(lib.ggml_type_name(tensor_type(type, "type")))).decode()


def isQuantized(type: GgmlType) -> bool:
    """Return True if a type is quantized.

    Maps to `ggml_is_quantized`.
    """
    return lib.ggml_is_quantized(tensor_type(type, "type"))


def fTypeToType(ftype: GgmlFType) -> GgmlType:
    """Return the type of most tensors in a model file of a type. Raises ValueError if it has no single one.

    Maps to `ggml_ftype_to_ggml_type`.
    """
    kind = enums.GgmlFType(ftype)
    if kind in (enums.GgmlFType.UNKNOWN, enums.GgmlFType.MOSTLY_Q4_1_SOME_F16):
        raise ValueError(f"ftype must be a type with one type of tensors, got {kind.name}")
    return enums.GgmlType(lib.ggml_ftype_to_ggml_type(kind))


def statusToString(status: GgmlStatus) -> str:
    """Return a text for a status.

    Maps to `ggml_status_to_string`.
    """
    return bytes(ffi.string(lib.ggml_status_to_string(enums.GgmlStatus(status)))).decode()


# Half precision


def fp16ToFp32(src: Any, dst: OutBuffer | None = None, len: int | None = None) -> float | None:
    """Return the number with these 16 bits, in half precision; or convert a row of them to floats.

    Maps to `ggml_fp16_to_fp32` and `ggml_fp16_to_fp32_row`.
    """
    if dst is None:
        return lib.ggml_fp16_to_fp32(integer(src, 0, 0xFFFF, "v"))
    _row(lib.ggml_fp16_to_fp32_row, src, "uint16_t", dst, "float", len)
    return None


def fp32ToFp16(src: Any, dst: OutBuffer | None = None, len: int | None = None) -> int | None:
    """Return the 16 bits of a number in half precision; or convert a row of floats to them.

    Maps to `ggml_fp32_to_fp16` and `ggml_fp32_to_fp16_row`.
    """
    if dst is None:
        return lib.ggml_fp32_to_fp16(number(src, "v"))
    _row(lib.ggml_fp32_to_fp16_row, src, "float", dst, "uint16_t", len)
    return None


def bf16ToFp32(src: Any, dst: OutBuffer | None = None, len: int | None = None) -> float | None:
    """Return the number with these 16 bits, in bfloat16; or convert a row of them to floats.

    Maps to `ggml_bf16_to_fp32` and `ggml_bf16_to_fp32_row`.
    """
    if dst is None:
        return lib.ggml_bf16_to_fp32([integer(src, 0, 0xFFFF, "v")])
    _row(lib.ggml_bf16_to_fp32_row, src, "uint16_t", dst, "float", len)
    return None


def fp32ToBf16(src: Any, dst: OutBuffer | None = None, len: int | None = None) -> int | None:
    """Return the 16 bits of a number in bfloat16; or convert a row of floats to them.

    Maps to `ggml_fp32_to_bf16` and `ggml_fp32_to_bf16_row`.
    """
    if dst is None:
        return int(lib.ggml_fp32_to_bf16(number(src, "v")).bits)
    _row(lib.ggml_fp32_to_bf16_row, src, "float", dst, "uint16_t", len)
    return None


def _row(function: Any, src: Any, source: str, dst: Any, target: str, count: int | None) -> None:
    given, length = read_buffer(src, source, None, "src", "len")
    out, capacity = writable_buffer(dst, target, "dst")
    room = min(length, capacity)
    n = room if count is None else integer(count, 0, (1 << 63) - 1, "len")
    if n > room:
        raise out_of_range("len", n, 0, room, "the shorter of src and dst has this many elements")
    function(ffi.cast("void *", given), ffi.cast("void *", out), n)


# Failures


def setAbortCallback(cb: Callable[[str], object] | None) -> Callable[[str], object] | None:
    """Have a function called with the message of each assertion of ggml that fails. Returns the previous one.

    The function observes: the call that failed raises NativeAssertionError afterwards. None removes it.

    Maps to `ggml_set_abort_callback`.
    """
    if cb is not None and not callable(cb):
        raise expected("a function or None", cb, name="cb")
    previous, guard_errors.on_assertion = guard_errors.on_assertion, cb
    return previous


def abort(file: str, line: int, fmt: str, *args: object) -> NoReturn:
    """Raise NativeAssertionError with a message, as a failed assertion of ggml does. `fmt` is in the style of %.

    Maps to `ggml_abort`.
    """
    if not isinstance(fmt, str):
        raise expected("a str", fmt, name="fmt")
    message = f"{file}:{line}: {fmt % args if args else fmt}"
    if guard_errors.on_assertion is not None:
        guard_errors.on_assertion(message)
    raise NativeAssertionError(message, operation="Ggml.abort")
