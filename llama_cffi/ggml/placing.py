"""What `Ggml.Gallocr` and `Ggml.BackendSched` have in common: tensors of one graph at a time have memory of theirs."""

from __future__ import annotations

from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import atomic, exclusive_closing, exclusive_waiting
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.arena import Placement
from llama_cffi.ggml.graph import GraphNodes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.ggml.arena import Arena


class PlacedGraph:
    """A graph whose tensors have memory of an allocator."""

    __slots__ = ("graph", "n_tensors", "placement", "tensors")

    def __init__(self, graph: GraphNodes) -> None:
        """Note the tensors of a graph that have no memory, before they get some."""
        alone = [leaf._pointer for leaf in graph._leafs if leaf._pointer.data == ffi.NULL]
        count = lib.shim_graph_unplaced(graph._pointer, ffi.NULL, 0)
        if count < 0:
            raise NativeMemoryError("out of memory for a graph", operation="ggml_gallocr_alloc_graph")
        tensors = ffi.new("struct ggml_tensor *[]", count + len(alone) + 1)
        lib.shim_graph_unplaced(graph._pointer, tensors, count)
        tensors[count : count + len(alone)] = alone
        self.graph, self.tensors, self.n_tensors = graph, tensors, count + len(alone)
        self.placement = Placement()  # what the arenas know


class GraphPlacing(Handle):
    """Base class of what gives memory to the tensors of one graph at a time."""

    __slots__ = ()

    _placed: Any  # a PlacedGraph, or None

    def _forget(self) -> None:
        """Make the tensors of the last graph forget the memory that they have of this allocator."""
        placed = self._placed
        if placed is None:
            return
        atomic(
            (
                (lib.shim_unplace, placed.tensors, placed.n_tensors),
                *self._reset_steps(),
                (setattr, placed.placement, "ended", True),
                (setattr, placed.placement, "allocator", None),
                (setattr, self, "_placed", None),
            )
        )

    def _reset_steps(self) -> tuple[tuple[Any, ...], ...]:
        """What else is done when the tensors have forgotten their memory."""
        return ()

    def _release(self, arena: Arena) -> None:
        """Called before an arena is freed that tensors of the graph lie in, after a computation of the graph."""
        placed = self._placed
        if placed is None:
            return
        users = placed.graph._arena
        if users is arena:  # nothing computes the graph
            self._forget()
        else:
            with exclusive_closing(users):
                self._forget()

    def _detach_users(self) -> None:
        placed = self._placed
        if placed is not None:
            with exclusive_waiting(placed.graph._arena):
                self._forget()
