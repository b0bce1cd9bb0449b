"""The gradients of a graph, for training."""

from __future__ import annotations

from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi.ggml.tensor import require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_cffi.ggml.context import Context
    from llama_cffi.ggml.graph import GraphNodes
    from llama_cffi.ggml.tensor import Tensor

_TENSORS_FOR_A_NODE = 24  # the most that ggml makes for the gradient of one operation


def build(context: Context, graph: GraphNodes, grad_accs: Sequence[Tensor | None] | None) -> None:
    """Add the gradients of the loss to a graph. If that fails, the graph is empty afterwards."""
    nodes = graph.nodes
    if not graph._hasGrads:
        raise ValueError("this graph has no room for gradients: make it with ctx.newGraph(size, grads=True)")
    for flag, missing in (
        (
            lib.GGML_TENSOR_FLAG_PARAM,
            "no parameter: call setParam() of the tensors to train, before the graph is built",
        ),
        (lib.GGML_TENSOR_FLAG_LOSS, "no loss: call setLoss() of the result to minimize"),
    ):
        if not any([node._c.flags & flag for node in nodes]):
            raise ValueError(f"the graph has {missing}")
    array = ffi.NULL
    if grad_accs is not None:
        if len(grad_accs) != len(nodes):
            raise ValueError(f"gradAccs must have an element for each node, {len(nodes)}, got {len(grad_accs)}")
        array = ffi.new("struct ggml_tensor *[]", len(nodes))
        for i, (node, acc) in enumerate(zip(nodes, grad_accs, strict=True)):
            if acc is not None:
                if require_tensor(acc, "gradAccs").ne != node.ne or acc.type != node.type:
                    raise ValueError(f"gradAccs[{i}] must be {node.type.name} of shape {node.shape}, got {acc!r}")
                graph._arena._keep(acc._arena)
                context._keep(acc._arena)
                array[i] = acc._c
    graph._arena._keep(context)
    context._keep(graph._arena)
    need = _TENSORS_FOR_A_NODE * sum(
        lib.ggml_tensor_overhead() + (0 if context._noAlloc else node.nBytesPad) for node in nodes
    )
    with exclusive(context, *([] if graph._arena is context else [graph._arena])):
        chunk = context._reserve(need)
        done = False
        try:
            lib.ggml_build_backward_expand(chunk, graph._pointer, array)
            done = True
        finally:
            if not done:
                lib.ggml_graph_clear(graph._pointer)
