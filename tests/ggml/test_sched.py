"""`Ggml.BackendSched` on the CPU. tests/vulkan/test_sched.py has a GPU beside it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from llama_cffi import BusyError, ClosedError, Ggml, NativeMemoryError

A = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def backend() -> Ggml.Backend:
    return Ggml.Backend.cpuInit()


def _graph(ctx: Ggml.Context, size: int = 16) -> tuple[Ggml.CGraph, Ggml.Tensor, Ggml.Tensor]:
    x = ctx.tensor(A)
    result = ctx.softMax(ctx.scale(ctx.sqr(x), 0.1))
    graph = ctx.newGraph(size)
    graph.expand(result.setOutput())
    return graph, x, result


def _expected(values: np.ndarray) -> np.ndarray:
    scaled = 0.1 * values**2
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("noAlloc", [True, False])
def test_a_graph_is_computed_again_and_again(backend: Ggml.Backend, noAlloc: bool) -> None:
    with Ggml.Context(noAlloc=noAlloc) as ctx, Ggml.BackendSched([backend]) as sched:
        graph, x, result = _graph(ctx)
        before = [node.sources for node in graph.nodes]
        for scale in (1.0, 0.5, 0.25):
            x.set(scale * A)
            assert sched.graphCompute(graph) is Ggml.Status.SUCCESS
            np.testing.assert_allclose(result.numpy(), _expected(scale * A), rtol=1e-5)
        assert [node.sources for node in graph.nodes] == before
        assert sched.nSplits == 1 and sched.backends == (backend,)
        assert sched.getTensorBackend(result) is backend and sched.getTensorBackend(ctx.tensor([1.0])) is None
        assert sched.getBufferType(backend).name == "CPU"
        assert (sched.getBufferSize(backend) > 0) is noAlloc


def test_results_lose_their_memory_with_the_next_graph_and_with_the_scheduler(backend: Ggml.Backend) -> None:
    ctx = Ggml.Context(noAlloc=True)
    first, _, one = _graph(ctx)
    second, _, two = _graph(ctx)
    sched = Ggml.BackendSched([backend])
    assert sched.allocGraph(first) and one.isAllocated
    assert sched.allocGraph(second) and two.isAllocated and not one.isAllocated
    sched.graphCompute(second)
    sched.reset()
    assert not two.isAllocated and sched.getTensorBackend(two) is None
    sched.graphCompute(first)
    np.testing.assert_allclose(one.numpy(), _expected(A), rtol=1e-5)
    sched.free()
    assert not one.isAllocated
    with pytest.raises(ValueError, match="no memory"):
        one.numpy()
    with pytest.raises(ClosedError):
        sched.graphCompute(first)


def test_reserve_allocates_and_leaves_the_graph_without_memory(backend: Ggml.Backend) -> None:
    with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([backend]) as sched:
        graph, _, result = _graph(ctx)
        assert sched.reserve(graph) and not result.isAllocated
        size = sched.getBufferSize(backend)
        assert size > 0 and sched.allocGraph(graph) and sched.getBufferSize(backend) == size


def test_free_in_any_order(backend: Ggml.Backend) -> None:
    for order in ("ctx backend sched", "sched ctx backend", "backend sched ctx", "ctx sched backend"):
        own = Ggml.Backend.cpuInit()
        ctx = Ggml.Context(noAlloc=True)
        sched = Ggml.BackendSched([own])
        graph, _, _ = _graph(ctx)
        sched.graphCompute(graph)
        things = {"ctx": ctx, "backend": own, "sched": sched}
        for name in order.split():
            things[name].free()
            with pytest.raises((ClosedError, ValueError)):
                sched.graphCompute(graph)
        gc.collect()


def test_a_collected_scheduler_leaves_tensors_without_memory_of_its_own(backend: Ggml.Backend) -> None:
    ctx = Ggml.Context(noAlloc=True)
    graph, _, result = _graph(ctx)
    Ggml.BackendSched([backend]).graphCompute(graph)
    gc.collect()
    with Ggml.BackendSched([backend]) as other:
        other.graphCompute(graph)
        np.testing.assert_allclose(result.numpy(), _expected(A), rtol=1e-5)


def test_a_graph_that_grew_is_allocated_again(backend: Ggml.Backend) -> None:
    with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([backend]) as sched:
        graph, _, result = _graph(ctx)
        sched.graphCompute(graph)
        more = ctx.sqr(result).setOutput()
        graph.expand(more)
        sched.graphCompute(graph)
        np.testing.assert_allclose(more.numpy(), _expected(A) ** 2, rtol=1e-5)


def test_a_graph_with_other_nodes_is_allocated_again(backend: Ggml.Backend) -> None:
    with Ggml.Context() as ctx, Ggml.BackendSched([backend]) as sched:  # its nodes have memory from the beginning
        a = ctx.tensor(A)
        graph = ctx.newGraph(8)
        graph.expand(ctx.sqr(a))
        sched.graphCompute(graph)
        graph.clear()
        other = ctx.scale(a, 3.0)
        graph.expand(other)
        sched.graphCompute(graph)
        np.testing.assert_array_equal(other.numpy(), 3 * A)


def test_two_backends_of_the_cpu_and_an_assignment(backend: Ggml.Backend) -> None:
    other = Ggml.Backend.cpuInit()
    with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([other, backend]) as sched:
        graph, _, result = _graph(ctx)
        sched.graphCompute(graph)
        assert sched.getTensorBackend(result) is other
        sched.reset()
        sched.setTensorBackend(result, backend)
        sched.graphCompute(graph)
        assert sched.getTensorBackend(result) is not None
        np.testing.assert_allclose(result.numpy(), _expected(A), rtol=1e-5)


def test_data_alone_in_a_graph(backend: Ggml.Backend) -> None:
    with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([backend]) as sched:
        graph = ctx.newGraph(8)
        alone = ctx.newTensor(Ggml.Type.F32, 4)
        graph.expand(alone)
        graph.expand(ctx.tensor([1.0]))
        graph.expand(ctx.sqr(ctx.tensor([2.0])))
        sched.graphCompute(graph)
        assert alone.isAllocated
    with Ggml.Context() as ctx, Ggml.BackendSched([backend]) as sched:
        graph = ctx.newGraph(8)
        graph.expand(ctx.tensor([1.0]))
        sched.graphCompute(graph)
        sched.graphCompute(ctx.newGraph(8))


def test_the_scheduler_is_busy_while_a_custom_operation_runs(backend: Ggml.Backend) -> None:
    ctx, sched = Ggml.Context(noAlloc=True), Ggml.BackendSched([backend])
    graph = ctx.newGraph(8)
    graph.expand(ctx.mapCustom1(ctx.tensor([1.0]), lambda a: sched.free() or a))
    with pytest.raises(BusyError):
        sched.graphCompute(graph)


def test_arguments_are_checked(backend: Ggml.Backend) -> None:
    with pytest.raises(TypeError, match=r"backends.*Backend"):
        Ggml.BackendSched(backend)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"backends.*int"):
        Ggml.BackendSched([1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"1 and 16.*got 0"):
        Ggml.BackendSched([])
    with pytest.raises(ValueError, match=r"1 and 16.*got 2"):
        Ggml.BackendSched([backend, backend])
    with pytest.raises(ValueError, match=r"graphSize.*got 0"):
        Ggml.BackendSched([backend], 0)
    with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([backend], 4) as sched:
        graph, x, result = _graph(ctx)
        with pytest.raises(ValueError, match=r"graphSize=\d+"):
            sched.graphCompute(graph)
        with pytest.raises(ValueError, match="memory"):
            sched.setTensorBackend(x, backend)
        with pytest.raises(ValueError, match="not a backend of this scheduler"):
            sched.setTensorBackend(result, Ggml.Backend.cpuInit())
        with pytest.raises(TypeError, match="CGraph"):
            sched.allocGraph(result)  # type: ignore[arg-type]
    with Ggml.Context() as ctx, Ggml.BackendSched([backend]) as sched:
        bad = ctx.newGraph(8)
        bad.expand(ctx.mulMat(ctx.tensor(np.ones((4, 8), "i4")), ctx.tensor(np.ones((4, 8), "f4"))))
        with pytest.raises(ValueError, match="type"):
            sched.graphCompute(bad)
    assert issubclass(NativeMemoryError, MemoryError)
