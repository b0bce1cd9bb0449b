"""`Ggml.compute`: from a tensor to numbers in one call, with everything in between."""

from __future__ import annotations

from llama_cffi._core.checks import expected
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.arena import Arena
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.cgraph import CGraph
from llama_cffi.ggml.context import Context
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.ggml.gallocr import Gallocr
from llama_cffi.ggml.tensor import Tensor, require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, overload

    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    from llama_cffi._core.stand_ins import overload


@overload
def compute(
    result: Tensor, backend: str | BackendDevice | Backend = "cpu", *, nThreads: int | None = None
) -> Array: ...
@overload
def compute(
    result: Sequence[Tensor], backend: str | BackendDevice | Backend = "cpu", *, nThreads: int | None = None
) -> list[Array]: ...
def compute(
    result: Tensor | Sequence[Tensor],
    backend: str | BackendDevice | Backend = "cpu",
    *,
    nThreads: int | None = None,
) -> Array | list[Array]:
    """Compute a tensor, or several, and return the elements as numpy arrays.

    Builds the graph, gives memory to what has none, and computes on the CPU or on a backend (`Backend.cpuInit()`), a
    device or the name of one. Tensors without memory of their own, as in a context with noAlloc, have none afterwards.
    `nThreads` is for the CPU; None: one for each CPU. Raises ValueError if the backend cannot compute an operation.
    """
    results = [result] if isinstance(result, Tensor) else [require_tensor(one, "result") for one in _listed(result)]
    if not results:
        raise ValueError("result is empty: pass at least one tensor")
    own = not isinstance(backend, Backend)
    made = backend_of(backend)
    try:
        if nThreads is not None:
            made.cpuSetNThreads(nThreads)
        with Context(noAlloc=True) as scratch:
            arrays = _run(scratch, results, made)
    finally:
        if own:
            made.close()
    return arrays[0] if isinstance(result, Tensor) else arrays


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise expected("a Ggml.Tensor or a list of them", value, "ctx.tensor(array) makes one", "result")
    return list(value)


def backend_of(value: Any) -> Backend:
    """Return a backend: the argument, or a new one for a device or the name of one."""
    if isinstance(value, Backend):
        return value
    if isinstance(value, BackendDevice):
        return Backend.init(value)
    if not isinstance(value, str):
        raise expected("a name, a device or a backend", value, 'backend="cpu" is the default', "backend")
    if value.lower() == "cpu":
        return Backend.cpuInit()
    if value.lower() == "vulkan":
        return Backend.vkInit(0)
    device = BackendDevice.byName(value)
    if device is None:
        names = ", ".join(device.name for device in Backend.devices())
        raise ValueError(f"backend must be a loaded device, {names}, got {value!r}: load a backend first")
    return Backend.init(device)


def _run(scratch: Context, results: list[Tensor], backend: Backend) -> list[Array]:
    for tensor in results:
        tensor._arena._c  # noqa: B018  # raises if it is freed
        tensor.setOutput()
    graph = _graph(scratch, results)
    with Gallocr(backend.getDefaultBufferType()) as allocator:
        if not allocator.allocGraph(graph):
            raise NativeMemoryError("out of memory for the graph", operation="ggml_gallocr_alloc_graph")
        backend.graphCompute(graph)
        return [tensor.numpy().copy() for tensor in results]


def _graph(scratch: Arena, results: list[Tensor]) -> CGraph:
    """Return a graph of the results that is large enough."""
    assert isinstance(scratch, Context)
    size = 256
    while True:
        graph = scratch.newGraph(size)
        try:
            for tensor in results:
                graph.expand(tensor)
            return graph
        except ValueError:
            size *= 4
