"""`Ggml.Gallocr`: memory for the tensors of a graph, shared by those that are not needed at the same time."""

from __future__ import annotations

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import atomic, exclusive, exclusive_closing, exclusive_waiting, own
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.arena import Placement
from llama_cffi.ggml.device import BackendBufferType
from llama_cffi.ggml.graph import GraphNodes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.ggml.arena import Arena


class Gallocr(Handle):
    """An allocator for graphs. It gives memory to the tensors of one graph at a time.

    When it allocates the next graph, and when it is freed, the tensors of the last one have no memory any more: read
    results before. `numpy()` returns copies of what it allocates.

    Maps to `ggml_gallocr`.
    """

    __slots__ = ("_placed",)

    _KIND = "graph allocator"

    # The graph, its tensors that have memory of this allocator, their number, and what the arenas know.
    _placed: tuple[GraphNodes, Any, int, Placement] | None

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
        arenas = {id(arena): arena for arena in (graph._arena, *([last[0]._arena] if last else ()))}
        with exclusive(self, *arenas.values()) as pointer:
            self._forget()
            placement = Placement()
            for arena in graph._arena._reach():
                arena._add_placement(placement)
            placed = (*_unplaced(graph), placement)
            # An exception before this leaves placements without an allocator, which do no harm.
            atomic(((setattr, placement, "allocator", self), (setattr, self, "_placed", placed)))
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

    def _forget(self) -> None:
        """Make the tensors forget the memory that they have of this allocator."""
        placed = self._placed
        if placed is None:
            return
        _, tensors, count, placement = placed
        atomic(
            (
                (lib.shim_unplace, tensors, count),
                (setattr, placement, "ended", True),
                (setattr, placement, "allocator", None),
                (setattr, self, "_placed", None),
            )
        )

    def _release(self, arena: Arena) -> None:
        """Called before an arena is freed that tensors of the graph lie in, after a computation of the graph."""
        placed = self._placed
        if placed is None:
            return
        users = placed[0]._arena
        if users is arena:  # nothing computes the graph
            self._forget()
        else:
            with exclusive_closing(users):
                self._forget()

    def _detach_users(self) -> None:
        placed = self._placed
        if placed is not None:
            with exclusive_waiting(placed[0]._arena):
                self._forget()

    def free(self) -> None:
        """Free the allocator and its memory. Freeing twice is harmless.

        Maps to `ggml_gallocr_free`.
        """
        Gallocr._require(self)
        self.close()


def _unplaced(graph: GraphNodes) -> tuple[GraphNodes, Any, int]:
    """Return the graph, an array of its tensors that have no memory, and their number."""
    alone = [leaf._pointer for leaf in graph._leafs if leaf._pointer.data == ffi.NULL]
    count = lib.shim_graph_unplaced(graph._pointer, ffi.NULL, 0)
    if count < 0:
        raise NativeMemoryError("out of memory for a graph", operation="ggml_gallocr_alloc_graph")
    tensors = ffi.new("struct ggml_tensor *[]", count + len(alone) + 1)
    lib.shim_graph_unplaced(graph._pointer, tensors, count)
    tensors[count : count + len(alone)] = alone
    return graph, tensors, count + len(alone)
