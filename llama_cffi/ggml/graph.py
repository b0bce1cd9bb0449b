"""The nodes of a graph: which operations are to be computed, in which order."""

from __future__ import annotations

from llama_cffi._core.arguments import c_string
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.arena import Arena
from llama_cffi.ggml.tensor import Tensor, require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from llama_cffi._core.arguments import StrOrBytes


class GraphNodes(Uncopyable):
    """A graph of up to `size` nodes in a context. `Ggml.CGraph` adds computing."""

    __slots__ = ("_arena", "_hasGrads", "_leafs", "_pointer")

    _KIND = "graph"

    _leafs: list[Tensor]  # data that was added by itself: no node refers to it

    def __init__(self, arena: Arena, pointer: Any, has_grads: bool) -> None:
        """Internal: use `ctx.newGraph()`."""
        if not isinstance(arena, Arena):
            raise expected("a Ggml.Context", arena, "ctx.newGraph() makes a graph", "ctx")
        if not isinstance(pointer, ffi.CData) or ffi.typeof(pointer) is not ffi.typeof("struct ggml_cgraph *"):
            raise expected("a struct ggml_cgraph *", pointer, "ctx.newGraph() makes a graph")
        if not pointer:
            raise ValueError("the pointer is NULL: ctx.newGraph() makes a graph")
        self._arena = arena
        self._pointer = pointer
        self._hasGrads = bool(has_grads)
        self._leafs = []

    @property
    def _c(self) -> Any:
        """The C pointer; raises once the context is freed."""
        self._arena._c  # noqa: B018
        return self._pointer

    @property
    def size(self) -> int:
        """The largest number of nodes.

        Maps to `ggml_graph_size`.
        """
        return lib.ggml_graph_size(self._c)

    @property
    def nNodes(self) -> int:
        """The number of nodes: results of operations, and parameters.

        Maps to `ggml_graph_n_nodes`.
        """
        return lib.ggml_graph_n_nodes(self._c)

    def node(self, i: int) -> Tensor:
        """Return a node; a negative number counts from the end.

        Maps to `ggml_graph_node`.
        """
        count = self.nNodes
        if not -count <= integer(i, -(1 << 31), (1 << 31) - 1, "i") < count:
            raise IndexError(f"i must be less than {count}, the number of nodes, got {i}")
        return self._tensor(lib.ggml_graph_node(self._c, i))

    @property
    def nodes(self) -> list[Tensor]:
        """All nodes, in the order in which they are computed.

        Maps to `ggml_graph_nodes`.
        """
        return [self.node(i) for i in range(self.nNodes)]

    def getTensor(self, name: StrOrBytes) -> Tensor | None:
        """Return the node or leaf of a name; None if it does not exist.

        Maps to `ggml_graph_get_tensor`.
        """
        pointer = lib.ggml_graph_get_tensor(self._c, c_string(name, "name"))
        return None if pointer == ffi.NULL else self._tensor(pointer)

    def getGrad(self, node: Tensor) -> Tensor | None:
        """Return the gradient of a node, after `buildBackwardExpand`; None if it has none.

        Maps to `ggml_graph_get_grad`.
        """
        pointer = lib.ggml_graph_get_grad(self._c, require_tensor(node, "node")._c)
        return None if pointer == ffi.NULL else self._tensor(pointer)

    def getGradAcc(self, node: Tensor) -> Tensor | None:
        """Return the tensor in which the gradients of a node are added up; None if it has none.

        Maps to `ggml_graph_get_grad_acc`.
        """
        pointer = lib.ggml_graph_get_grad_acc(self._c, require_tensor(node, "node")._c)
        return None if pointer == ffi.NULL else self._tensor(pointer)

    def _tensor(self, pointer: Any) -> Tensor:
        return Tensor(self._arena._arena_of(pointer), pointer)

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor and all that it depends on. Raises ValueError, and adds nothing, if the graph is too small."""
        require_tensor(tensor, "tensor")
        pointer = tensor._c
        self._arena._keep(tensor._arena)
        if tensor._c.op == lib.GGML_OP_NONE:
            self._leafs.append(tensor)
        with exclusive(self._arena):
            need = lib.shim_graph_expand(self._pointer, pointer)
        if need < 0:
            raise NativeMemoryError("out of memory for a graph", operation="ggml_build_forward_expand")
        if need > 0:
            raise ValueError(
                f"this graph has room for {self.size} nodes and as many leafs, and would have {need}: make it with "
                f"ctx.newGraph(size={need})"
            )

    def clear(self) -> None:
        """Remove all nodes.

        Maps to `ggml_graph_clear`.
        """
        with exclusive(self._arena):
            lib.ggml_graph_clear(self._pointer)
            self._leafs.clear()

    def reset(self) -> None:
        """Set all gradients to zero, and that of the loss to one. Raises ValueError without gradients or memory.

        Maps to `ggml_graph_reset`.
        """
        if not self._hasGrads:
            raise ValueError("this graph has no gradients: make it with ctx.newGraph(size, grads=True)")
        for node in self.nodes:
            grad = self.getGradAcc(node)
            if grad is not None:
                grad._data()
        with exclusive(self._arena):
            lib.ggml_graph_reset(self._pointer)

    def print(self) -> None:
        """Log the nodes and leafs.

        Maps to `ggml_graph_print`.
        """
        with exclusive(self._arena):
            lib.ggml_graph_print(self._pointer)

    def dump(self) -> str:
        """Return the graph in the DOT language: a box for each tensor, and arrows from sources to results.

        `dot -Tsvg` of Graphviz draws it. In a notebook, a small graph shows itself.
        """
        from llama_cffi.ggml.graph_picture import dot

        return dot(self.nodes, self._leafs)

    def _repr_html_(self) -> str:
        from llama_cffi._core.html import table
        from llama_cffi.ggml.graph_picture import svg

        try:
            return table(repr(self)) + svg(self.nodes, self._leafs)
        except Exception:  # its context is closed
            return table(repr(self))

    def __len__(self) -> int:
        return self.nNodes

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.nodes)

    def __repr__(self) -> str:
        if self._arena.closed:
            return "<CGraph of a context that was freed>"
        return f"<CGraph {self.nNodes} of {self.size} nodes>"
