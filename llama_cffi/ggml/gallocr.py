"""`Ggml.Gallocr`: memory for the tensors of a graph, shared by those that are not needed at the same time."""

from __future__ import annotations

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import lib
from llama_cffi._core.ownership import atomic, exclusive, own
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.device import BackendBufferType
from llama_cffi.ggml.graph import GraphNodes
from llama_cffi.ggml.placing import GraphPlacing, PlacedGraph


class Gallocr(GraphPlacing):
    """An allocator for graphs. It gives memory to the tensors of one graph at a time.

    When it allocates the next graph, and when it is freed, the tensors of the last one have no memory any more: read
    results before. `numpy()` returns copies of what it allocates.

    Maps to `ggml_gallocr`.
    """

    __slots__ = ("_placed",)

    _KIND = "graph allocator"

    _placed: PlacedGraph | None

    def __init__(self, bufferType: BackendBufferType) -> None:
        """Make an allocator for a type of memory.

        Maps to `ggml_gallocr_new`.
        """
        if not isinstance(bufferType, BackendBufferType):
            raise expected("a Ggml.BackendBufferType", bufferType, "device.bufferType() returns one", "bufferType")
        self._placed = None
        owned = own(lib.ggml_gallocr_free, lib.ggml_gallocr_new, bufferType._c)
        if owned.pointer is None:
            raise NativeMemoryError("out of memory for a graph allocator", operation="ggml_gallocr_new")
        self._open(owned)

    @classmethod
    def new(cls, bufferType: BackendBufferType) -> Gallocr:
        """Make an allocator for a type of memory.

        Maps to `ggml_gallocr_new`.
        """
        return cls(bufferType)

    def allocGraph(self, graph: GraphNodes) -> bool:
        """Give memory to all tensors of a graph that have none. Return False if memory is lacking.

        Maps to `ggml_gallocr_alloc_graph`.
        """
        if not isinstance(graph, GraphNodes):
            raise expected("a Ggml.CGraph", graph, "ctx.newGraph() makes one", "graph")
        last = self._placed
        arenas = {id(arena): arena for arena in (graph._arena, *([last.graph._arena] if last else ()))}
        with exclusive(self, *arenas.values()) as pointer:
            self._forget()
            placed = PlacedGraph(graph)
            for arena in graph._arena._reach():
                arena._add_placement(placed.placement)
            # An exception before this leaves placements without an allocator, which do no harm.
            atomic(((setattr, placed.placement, "allocator", self), (setattr, self, "_placed", placed)))
            done: bool = lib.ggml_gallocr_alloc_graph(pointer, graph._pointer)
            if not done:
                self._forget()
            return done

    @property
    def bufferSize(self) -> int:
        """The bytes of memory that it has allocated.

        Maps to `ggml_gallocr_get_buffer_size`.
        """
        return lib.ggml_gallocr_get_buffer_size(self._c, 0)

    def free(self) -> None:
        """Free the allocator and its memory. Freeing twice is harmless.

        Maps to `ggml_gallocr_free`.
        """
        Gallocr._require(self)
        self.close()
