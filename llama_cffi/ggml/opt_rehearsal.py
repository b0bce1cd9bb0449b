"""Checks before a training: ggml-opt asserts, overflows or reads beyond memory where its arguments do not fit.

The whole graph of a training, with the loss, the gradients and the steps of the optimizer, is built once in a scratch
context, as ggml-opt will build it, and checked like any other graph.
"""

from __future__ import annotations

from typing import NamedTuple

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.backward import build
from llama_cffi.ggml.computation import check_sched
from llama_cffi.ggml.context import Context
from llama_cffi.ggml.tensor import Tensor, require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_cffi._generated.enums import GgmlOptLossType, GgmlOptOptimizerType
    from llama_cffi.ggml.backend import Backend
    from llama_cffi.ggml.cgraph import CGraph

_SIZE = lib.GGML_DEFAULT_GRAPH_SIZE  # of every graph of ggml-opt
_TENSORS_FOR_A_NODE = 24  # the most that ggml makes for the gradient of one operation
_TENSORS_FOR_A_PARAMETER = 4  # its accumulated gradient, the addition, and two momenta
_CHECK_DATA = ("MUL_MAT_ID", "SSM_SCAN", "ARGSORT", "TOP_K")  # safe only for data that is known
_OTHERS = 16  # loss, labels, predictions
_GRAPHS = 4


class Rehearsal(NamedTuple):
    """What a training needs."""

    memory: int
    """Bytes of metadata."""
    tensors: int
    """Tensors of its largest graph."""
    safe: bool
    """True if no assertion can fail on threads of the CPU."""


def rehearse(
    inputs: Tensor,
    outputs: Tensor,
    loss: GgmlOptLossType,
    optimizer: GgmlOptOptimizerType,
    backends: Sequence[Backend],
) -> Rehearsal:
    """Check a training. Raises ValueError for tensors that ggml-opt cannot train, and why."""
    _check_ends(inputs, outputs)
    with Context(noAlloc=True) as scratch:
        graph = scratch.newGraph(_SIZE)
        graph.expand(outputs)  # raises if it alone is too large
        n_forward = graph.nNodes
        graph = scratch.newGraph(_TENSORS_FOR_A_NODE * (n_forward + _OTHERS), grads=True)
        graph.expand(outputs)
        parameters = _check_tensors(graph, inputs)
        _add_loss(scratch, graph, outputs, loss)
        build(scratch, graph, None)
        _add_steps(scratch, graph, parameters, optimizer)
        _check_places(parameters, backends[0])
        safe = check_sched(graph, [backend._device._c for backend in backends], True)
        extra = _OTHERS + _TENSORS_FOR_A_PARAMETER * len(parameters)
        tensors = lib.shim_graph_tensors(graph._pointer) + extra
    if tensors > _SIZE:
        raise ValueError(f"a training has room for {_SIZE} tensors, and this one has {tensors}: make the net smaller")
    made = _TENSORS_FOR_A_NODE * (n_forward + _OTHERS) + extra + tensors  # and a copy of the net
    memory = made * lib.ggml_tensor_overhead() + _GRAPHS * lib.ggml_graph_overhead_custom(_SIZE, True)
    _check_memory(parameters)
    return Rehearsal(memory, tensors, safe)


def _check_ends(inputs: Tensor, outputs: Tensor) -> None:
    for name, tensor in (("inputs", require_tensor(inputs, "inputs")), ("outputs", require_tensor(outputs, "outputs"))):
        if tensor.ne[2] != 1 or tensor.ne[3] != 1 or not tensor.isContiguous:
            raise ValueError(f"{name} must be contiguous, with a row for each data point, got the shape {tensor.shape}")
    if inputs.op != enums.GgmlOp.NONE or inputs.type not in (enums.GgmlType.F32, enums.GgmlType.I32):
        raise ValueError(f"inputs must be data of type F32 or I32, got {inputs!r}: ctx.newTensor(type, n, batch)")
    if outputs.op == enums.GgmlOp.NONE or outputs.type != enums.GgmlType.F32:
        raise ValueError(f"outputs must be the result of an operation, of type F32, got {outputs!r}")
    if inputs.ne[1] != outputs.ne[1]:
        raise ValueError(
            f"inputs and outputs must have as many rows, one for each data point of a batch, got {inputs.ne[1]} and "
            f"{outputs.ne[1]}"
        )


def _check_tensors(graph: CGraph, inputs: Tensor) -> list[Tensor]:
    """Check each tensor of a net. Return the parameters."""
    nodes = graph.nodes
    parameters = []
    tensors = dict.fromkeys([*nodes, *[source for node in nodes for source in node.sources]])
    if inputs not in tensors:
        raise ValueError("outputs do not depend on inputs: compute them from inputs")
    if inputs._c.flags & lib.GGML_TENSOR_FLAG_PARAM:
        raise ValueError("inputs must not be a parameter: setParam() is for what is trained")
    for tensor in tensors:
        if tensor._c.flags & lib.GGML_TENSOR_FLAG_LOSS:
            raise ValueError(f"{tensor!r} is marked as a loss: lossType says what is minimized, so leave setLoss out")
        if tensor.op != enums.GgmlOp.NONE:
            if tensor.op.name in _CHECK_DATA:
                raise ValueError(f"{tensor!r} cannot be trained: what it sorts or looks up changes with each batch")
            if tensor._c.data != ffi.NULL and tensor._c.view_src == ffi.NULL:
                raise ValueError(f"{tensor!r} has memory already: make it in a context with noAlloc=True")
            continue
        buffer = tensor._buffer()
        if not tensor.isAllocated or buffer == ffi.NULL:
            raise ValueError(
                f"{tensor!r} must lie in a buffer: make it in a context with noAlloc=True, by ctx.tensor(array) or "
                "before ctx.backendAllocTensors(backend)"
            )
        if not tensor._arena._holds_buffer(buffer):
            raise ValueError(
                f"{tensor!r} lies in memory of an allocator, which may take it back: use ctx.tensor(array)"
            )
        if tensor._c.flags & lib.GGML_TENSOR_FLAG_PARAM:
            if tensor.type != enums.GgmlType.F32 or not tensor.isContiguous:
                raise ValueError(f"a parameter must be contiguous and of type F32, got {tensor!r}")
            parameters.append(tensor)
    if not parameters:
        raise ValueError("the net has no parameter: call setParam() of the tensors to train, before its operations")
    return parameters


def _check_places(parameters: list[Tensor], first: Backend) -> None:
    """ggml-opt has momenta in memory of the first backend. An operation elsewhere would change copies of them."""
    for parameter in parameters:
        kind = lib.ggml_backend_buffer_get_type(parameter._buffer())
        if not lib.ggml_backend_dev_supports_buft(first._device._c, kind):
            raise ValueError(
                f"{parameter!r} must lie in memory of the first backend, {first.name}: ctx.backendAllocTensors(backend)"
            )


def _add_loss(ctx: Context, graph: CGraph, outputs: Tensor, loss: GgmlOptLossType) -> None:
    kinds = enums.GgmlOptLossType
    if loss in (kinds.MEAN, kinds.SUM):
        value = ctx.sum(outputs)
    else:
        labels = ctx.dup(outputs)
        if loss == kinds.CROSS_ENTROPY:
            value = ctx.crossEntropyLoss(outputs, labels)
            graph.expand(ctx.countEqual(ctx.argmax(outputs), ctx.argmax(labels)))
        else:
            value = ctx.sum(ctx.sqr(ctx.sub(outputs, labels)))
    graph.expand(ctx.scale(value, 1.0).setLoss())


def _add_steps(ctx: Context, graph: CGraph, parameters: list[Tensor], optimizer: GgmlOptOptimizerType) -> None:
    adamw = optimizer == enums.GgmlOptOptimizerType.ADAMW
    numbers = ctx.newTensor(enums.GgmlType.F32, 7 if adamw else 2)
    for parameter in parameters:
        grad = graph.getGrad(parameter)
        if grad is None:
            continue
        if adamw:
            m, v = (ctx.newTensor(enums.GgmlType.F32, *parameter.ne) for _ in range(2))
            graph.expand(ctx.optStepAdamw(parameter, grad, m, v, numbers))
        else:
            graph.expand(ctx.optStepSgd(parameter, grad, numbers))


def _check_memory(parameters: list[Tensor]) -> None:
    from llama_cffi._host.resources import available_memory

    need, free = 4 * sum(parameter.nBytes for parameter in parameters), available_memory()
    if free is not None and need > free:
        raise NativeMemoryError(
            f"gradients and momenta take {need} bytes, and {free} are free: make the net smaller",
            operation="ggml_opt_init",
        )


def backends_of(value: object) -> list[object]:
    """Return an argument that is a backend, or a list of them, as a list."""
    found = list(value) if isinstance(value, (list, tuple)) else [value]
    if not found:
        raise expected(
            "a name, a device, a backend or a list of these", value, 'backend="cpu" is the default', "backend"
        )
    return found
