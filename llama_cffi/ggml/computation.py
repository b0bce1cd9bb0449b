"""Checks before a graph is computed, and the call itself.

An assertion that fails on one of ggml's own threads ends the process, because nobody could catch it there. So a graph
with an operation whose assertions are not all known to hold is computed on the calling thread alone, where it raises.
"""

from __future__ import annotations

from llama_cffi._core import callbacks, process
from llama_cffi._core.checks import expected, no_threads
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from llama_cffi._generated.enums import GgmlStatus
    from llama_cffi.ggml.device import BackendDevice
    from llama_cffi.ggml.graph import GraphNodes

    class Computing(Protocol):
        """What is used of a backend."""

        _device: BackendDevice
        _nThreads: int
        _running: list[Any]


_FAULTS = {
    lib.SHIM_GRAPH_NO_DATA: "has no memory: allocate the graph, by Ggml.compute or a Ggml.Gallocr",
    lib.SHIM_GRAPH_MEMORY: "uses memory that this device cannot: make the tensors in its memory",
    lib.SHIM_GRAPH_TYPE: "uses a type that the CPU has no function for: convert it with ctx.cast",
    lib.SHIM_GRAPH_UNSUPPORTED: "is not supported by this device, or not for these types",
    lib.SHIM_GRAPH_OPERANDS: "has tensors whose shapes, types or strides do not fit: ctx.cont makes one contiguous",
    lib.SHIM_GRAPH_NOT_OFFERED: "is not computed here yet: ggml does not check its arguments",
    lib.SHIM_GRAPH_NAN: "sorts rows of more than 16 numbers that could be NaN: use ctx.topK, or compute them before",
    lib.SHIM_GRAPH_INDEX: "has an index that is out of range",
    lib.SHIM_GRAPH_INDEX_UNKNOWN: "takes indices that are known only during the computation: compute them before",
}


def check(graph: GraphNodes, device: Any, allocates: bool = False) -> bool:
    """Raise ValueError if a device cannot compute a graph. Return True if no assertion can fail on threads of the CPU.

    With `allocates`, tensors without memory will get it.
    """
    index, safe = ffi.new("int32_t *"), ffi.new("int32_t *")
    fault = lib.shim_graph_check(graph._c, device, allocates, index, safe)
    if fault:
        raise ValueError(f"node {index[0]} of the graph, {graph.node(index[0])!r}, {_FAULTS[fault]}")
    return bool(safe[0])


def check_sched(graph: GraphNodes, devices: list[Any], allocates: bool) -> bool:
    """`check` for a scheduler over devices. Raises ValueError if none of them can compute an operation."""
    index, safe = ffi.new("int32_t *"), ffi.new("int32_t *")
    array = ffi.new("struct ggml_backend_device *[]", devices)
    fault = lib.shim_sched_check(graph._c, array, len(devices), allocates, index, safe)
    if fault:
        raise ValueError(f"node {index[0]} of the graph, {graph.node(index[0])!r}, {_FAULTS[fault]}")
    return bool(safe[0])


def check_threads(n: int) -> None:
    """Start the threads of a computation, or raise NativeMemoryError. Raises ForkError in a forked process."""
    process.require_threads()
    if n > 1 and not lib.shim_start_threads(n):
        raise no_threads(f"{n} threads cannot be started", "use fewer threads", "ggml_graph_compute")


def finish(status: int) -> GgmlStatus:
    """Return the status of a computation. Raises what a callback raised during it."""
    callbacks.reraise()
    return enums.GgmlStatus(status)


def compute(backend: Computing, graph: Any, function: Any) -> GgmlStatus:
    """Compute a graph on a backend, after the checks."""
    from llama_cffi.ggml.graph import GraphNodes

    if not isinstance(graph, GraphNodes):
        raise expected("a Ggml.CGraph", graph, "ctx.newGraph() makes one", "graph")
    with exclusive(backend, graph._arena) as pointer:
        safe = check(graph, backend._device._c)
        if lib.ggml_backend_is_cpu(pointer):
            threads = backend._nThreads if safe else 1
            check_threads(threads)
            lib.ggml_backend_cpu_set_n_threads(pointer, threads)
        elif function is not lib.ggml_backend_graph_compute:
            backend._running.append(graph)
        status = function(pointer, graph._pointer)
    return finish(status)
