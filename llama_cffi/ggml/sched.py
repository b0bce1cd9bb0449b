"""`Ggml.BackendSched`: computes a graph on several backends, such as a GPU and the CPU, and copies between them."""

from __future__ import annotations

from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import atomic, exclusive, own
from llama_cffi._host.resources import available_memory
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.computation import check_sched, check_threads, finish
from llama_cffi.ggml.graph import GraphNodes
from llama_cffi.ggml.placing import GraphPlacing, PlacedGraph
from llama_cffi.ggml.tensor import Tensor, require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from llama_cffi._generated.enums import GgmlStatus
    from llama_cffi.ggml.device import BackendBufferType

_MAX_BACKENDS = 16  # GGML_SCHED_MAX_BACKENDS
_MAX_GRAPH = 1 << 17
_BYTES_FOR_A_TENSOR = 32 * 1024  # what ggml allocates for each tensor that the scheduler has room for


class Placed(PlacedGraph):
    """A graph that a scheduler has allocated, and what it changed in it."""

    __slots__ = ("n", "nodes", "sources")

    def __init__(self, graph: GraphNodes) -> None:
        super().__init__(graph)
        self.n = graph.nNodes
        self.nodes = ffi.new("struct ggml_tensor *[]", self.n + 1)
        self.sources = ffi.new("struct ggml_tensor *[]", self.n * lib.GGML_MAX_SRC + 1)

    def fits(self) -> bool:
        """Return True if the graph has the same nodes still."""
        return lib.shim_graph_is(self.graph._c, self.nodes, self.n)

    def has(self, tensor: Tensor) -> bool:
        """Return True if the tensor is a node of the graph."""
        return any([node == tensor._pointer for node in self.nodes[0 : self.n]])


class BackendSched(GraphPlacing):
    """A scheduler: each operation runs on the first backend that supports it, or where its weights are.

    `backends` are in the order of preference; the last must be a CPU backend, which is asked for what the others do not
    support. Tensors lie in memory of any of them: `ctx.backendAllocTensors(backend)`, or `ctx.tensor` with noAlloc.
    One graph at a time has memory of the scheduler. When it allocates the next graph, and when it is freed, the tensors
    of the last one have no memory any more: read results before.

    Maps to `ggml_backend_sched`.
    """

    __slots__ = ("_assigned", "_backends", "_graphSize", "_opOffload", "_placed")

    _KIND = "scheduler"

    _assigned: dict[Tensor, Backend]  # by the caller
    _placed: Placed | None

    def __init__(self, backends: Sequence[Backend], graphSize: int = 2048, *, opOffload: bool = True) -> None:
        """Make a scheduler for graphs of up to `graphSize` nodes and leafs together.

        With `opOffload`, large products with weights in host memory run on a GPU. Raises ValueError unless the last
        backend is a CPU backend.

        Maps to `ggml_backend_sched_new`.
        """
        if isinstance(backends, Backend) or not isinstance(backends, (list, tuple)):
            raise expected("a list of Ggml.Backend", backends, "[Ggml.Backend.cpuInit()] is one", "backends")
        for backend in backends:
            if not isinstance(backend, Backend):
                raise expected("a Ggml.Backend", backend, "Ggml.Backend.cpuInit() makes one", "backends")
        if not 1 <= len(backends) <= _MAX_BACKENDS or len(set(backends)) != len(backends):
            raise ValueError(f"backends must be between 1 and {_MAX_BACKENDS} different ones, got {len(backends)}")
        if not backends[-1].isCpu:
            raise ValueError(f"the last backend must be a CPU backend, got {backends[-1].name}: add Backend.cpuInit()")
        size = integer(graphSize, 1, _MAX_GRAPH, "graphSize")
        boolean(opOffload, "opOffload")
        need, free = 2 * size * _BYTES_FOR_A_TENSOR, available_memory()
        if free is not None and need > free:
            raise NativeMemoryError(
                f"a scheduler for {size} tensors takes {need} bytes, and {free} are free: make graphSize smaller",
                operation="ggml_backend_sched_new",
            )
        self._backends = tuple(backends)
        self._graphSize = size
        self._opOffload = opOffload
        self._placed = None
        self._assigned = {}
        with exclusive(*backends):
            pointers = ffi.new("struct ggml_backend *[]", [backend._c for backend in backends])
            make = lib.ggml_backend_sched_new
            # twice the size: tensors that the caller assigns, and those of the graph
            owned = own(
                lib.ggml_backend_sched_free, make, pointers, ffi.NULL, len(backends), 2 * size, False, opOffload
            )
            if owned.pointer is None:
                raise NativeMemoryError("out of memory for a scheduler", operation="ggml_backend_sched_new")
            for backend in backends:
                if backend._owned is None or not owned.keep(backend._owned):
                    backend._raise_closed()
            self._open(owned)

    @classmethod
    def new(cls, backends: Sequence[Backend], graphSize: int = 2048, *, opOffload: bool = True) -> BackendSched:
        """Make a scheduler, as calling the class does.

        Maps to `ggml_backend_sched_new`.
        """
        return cls(backends, graphSize, opOffload=opOffload)

    # Graphs

    def allocGraph(self, graph: GraphNodes) -> bool:
        """Decide where each operation of a graph runs, and give memory to its tensors. False if memory is lacking.

        Raises ValueError if the graph is too large, or no backend supports an operation.

        Maps to `ggml_backend_sched_alloc_graph`.
        """
        return self._allocate(_require_graph(graph), reserves=False)

    def reserve(self, measureGraph: GraphNodes) -> bool:
        """Allocate as much memory as a graph needs, so that smaller ones need no more. False if memory is lacking.

        The graph itself has no memory afterwards.

        Maps to `ggml_backend_sched_reserve`.
        """
        return self._allocate(_require_graph(measureGraph), reserves=True)

    def _allocate(self, graph: GraphNodes, reserves: bool) -> bool:
        with self._using(graph) as pointer:
            self._forget()
            self._check(graph, allocates=True)
            lib.ggml_backend_sched_reset(pointer)
            for tensor, backend in self._assigned.items():
                if not tensor._arena.closed and tensor._pointer.data == ffi.NULL:
                    lib.ggml_backend_sched_set_tensor_backend(pointer, tensor._pointer, backend._c)
            placed = Placed(graph)
            for leaf in graph._leafs:
                if leaf._buffer() == ffi.NULL:  # ggml would find no backend for data that no operation uses
                    lib.ggml_set_input(leaf._c)
            for arena in graph._arena._reach():
                arena._add_placement(placed.placement)
            # An exception before this leaves placements without an allocator, which do no harm.
            atomic(((setattr, placed.placement, "allocator", self), (setattr, self, "_placed", placed)))
            done: bool = lib.shim_sched_alloc(pointer, graph._pointer, reserves, placed.nodes, placed.sources, placed.n)
            if reserves or not done:
                self._forget()
            return done

    def graphCompute(self, graph: GraphNodes) -> GgmlStatus:
        """Compute a graph and wait for the end, after `allocGraph` if the graph has no memory of this scheduler.

        Raises ValueError if no backend supports an operation, NativeMemoryError without memory.

        Maps to `ggml_backend_sched_graph_compute`.
        """
        placed = self._placed
        if placed is None or placed.graph is not _require_graph(graph) or not placed.fits():
            if not self.allocGraph(graph):
                raise NativeMemoryError("out of memory for the graph", operation="ggml_backend_sched_alloc_graph")
        with self._using(graph) as pointer:
            placed = self._placed
            if placed is None or placed.graph is not graph:
                raise ValueError("the graph has lost its memory: a context was freed that its tensors lie in")
            safe = self._check(graph, allocates=False)
            self._set_threads(safe)
            status = lib.shim_sched_compute(pointer, graph._pointer, placed.nodes, placed.sources, placed.n)
        return finish(status)

    def _using(self, graph: GraphNodes | None = None) -> Any:
        """Exclusive use of the scheduler, its backends, the graph's memory, and that of the last graph."""
        last = self._placed
        graphs = [*([] if graph is None else [graph]), *([] if last is None else [last.graph])]
        arenas = {id(one._arena): one._arena for one in graphs}
        return exclusive(self, *self._backends, *arenas.values())

    def _check(self, graph: GraphNodes, allocates: bool) -> bool:
        count = lib.shim_graph_tensors(graph._pointer) + len(graph._leafs)
        if count > self._graphSize:
            raise ValueError(
                f"the graph has {count} tensors, and this scheduler has room for {self._graphSize}: make it with "
                f"graphSize={count}"
            )
        return check_sched(graph, [backend._device._c for backend in self._backends], allocates)

    def _set_threads(self, safe: bool) -> None:
        for backend in self._backends:
            if lib.ggml_backend_is_cpu(backend._c):
                threads = backend._nThreads if safe else 1
                check_threads(threads)
                lib.ggml_backend_cpu_set_n_threads(backend._c, threads)

    def reset(self) -> None:
        """Take the memory from the last graph, and forget which tensors were assigned to which backend.

        Maps to `ggml_backend_sched_reset`.
        """
        with self._using():
            self._forget()
            self._assigned.clear()

    def synchronize(self) -> None:
        """Wait until all backends are done.

        Maps to `ggml_backend_sched_synchronize`.
        """
        with self._using() as pointer:
            lib.ggml_backend_sched_synchronize(pointer)

    # Where operations run

    def setTensorBackend(self, node: Tensor, backend: Backend) -> None:
        """Have an operation run on a backend, in all graphs that are allocated from now on until `reset`.

        Raises ValueError if the backend does not support it, and for a tensor that has memory already.

        Maps to `ggml_backend_sched_set_tensor_backend`.
        """
        pointer = require_tensor(node, "node")._c
        index = self._index(backend)
        if node.isAllocated or pointer.view_src != ffi.NULL:
            raise ValueError(f"{node!r} stays where its memory is: assign tensors without memory, and no views")
        if not self._backends[index].supportsOp(node):
            raise ValueError(f"{backend.name} does not support {node!r}: choose another backend")
        if len(self._assigned) >= self._graphSize and node not in self._assigned:
            raise ValueError(f"{self._graphSize} tensors, graphSize, are assigned already: call reset()")
        self._assigned[node] = self._backends[index]

    def getTensorBackend(self, node: Tensor) -> Backend | None:
        """Return the backend of a node of the graph that has memory now; None for other tensors.

        Maps to `ggml_backend_sched_get_tensor_backend`.
        """
        require_tensor(node, "node")._c  # noqa: B018  # raises if it is freed
        with self._using() as pointer:
            placed = self._placed
            if placed is None or not placed.has(node):
                return None
            found = lib.ggml_backend_sched_get_tensor_backend(pointer, node._pointer)
            return next((backend for backend in self._backends if backend._c == found), None)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in the order of preference.

        Maps to `ggml_backend_sched_get_backend` and `ggml_backend_sched_get_n_backends`.
        """
        return self._backends

    @property
    def nSplits(self) -> int:
        """The number of parts that the last graph was split into: each runs on one backend.

        Maps to `ggml_backend_sched_get_n_splits`.
        """
        return lib.ggml_backend_sched_get_n_splits(self._c)

    def getBufferType(self, backend: Backend) -> BackendBufferType:
        """Return the type of memory that is used for a backend.

        Maps to `ggml_backend_sched_get_buffer_type`.
        """
        found: BackendBufferType = self._backends[self._index(backend)].getDefaultBufferType()
        return found

    def getBufferSize(self, backend: Backend) -> int:
        """Return the bytes that are allocated on a backend.

        Maps to `ggml_backend_sched_get_buffer_size`.
        """
        self._index(backend)
        return lib.ggml_backend_sched_get_buffer_size(self._c, backend._c)

    def _index(self, backend: Backend) -> int:
        if not isinstance(backend, Backend):
            raise expected("a Ggml.Backend", backend, "sched.backends lists them", "backend")
        if backend not in self._backends:
            raise ValueError(f"{backend!r} is not a backend of this scheduler: sched.backends lists them")
        return self._backends.index(backend)

    # End

    def _reset_steps(self) -> tuple[tuple[Any, ...], ...]:
        # After a call that failed in the scheduler, it has no pointer, and is never freed.
        return () if self._pointer is None else ((lib.ggml_backend_sched_reset, self._pointer),)

    def free(self) -> None:
        """Free the scheduler and its memory. Freeing twice is harmless.

        Maps to `ggml_backend_sched_free`.
        """
        BackendSched._require(self)
        self.close()

    def _describe(self) -> str:
        return f"of {', '.join([backend.name for backend in self._backends])}"


def _require_graph(graph: object) -> GraphNodes:
    if not isinstance(graph, GraphNodes):
        raise expected("a Ggml.CGraph", graph, "ctx.newGraph() makes one", "graph")
    return graph
