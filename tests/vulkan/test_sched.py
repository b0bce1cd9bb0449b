"""`Ggml.BackendSched` over a GPU and the CPU, and trainings on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from llama_cffi import Ggml
from tests.vulkan.conftest import Vulkan

RNG = np.random.default_rng(4)
W = RNG.normal(size=(16, 64)).astype(np.float32)
X = RNG.normal(size=(8, 64)).astype(np.float32)


class Both:
    """A GPU with weights in its memory, the CPU, and a scheduler over them."""

    def __init__(self) -> None:
        self.gpu, self.cpu = Ggml.Backend.vkInit(0), Ggml.Backend.cpuInit()
        self.sched = Ggml.BackendSched([self.gpu, self.cpu], 256)
        self.weights = Ggml.Context(noAlloc=True)
        self.w = self.weights.newTensor(Ggml.Type.F32, 64, 16)
        buffer = self.weights.backendAllocTensors(self.gpu)
        assert buffer is not None and not buffer.isHost
        self.w.set(W)
        self.ctx = Ggml.Context(noAlloc=True)
        self.x = self.ctx.tensor(X)

    def graph(self, result: Ggml.Tensor) -> Ggml.CGraph:
        graph = self.ctx.newGraph(64)
        graph.expand(result.setOutput())
        return graph


@pytest.fixture
def both(vulkan: Vulkan) -> Iterator[Both]:
    yield Both()


def test_a_product_runs_where_its_weights_are_and_a_custom_operation_on_the_cpu(both: Both) -> None:
    ctx = both.ctx
    product = ctx.mulMat(both.w, both.x)
    on_cpu = ctx.mapCustom1(product, lambda a: np.tanh(a))
    result = ctx.mulMat(ctx.cont(ctx.transpose(both.w)), on_cpu)
    graph = both.graph(result)
    sources = {node: node.sources for node in graph.nodes}  # a GPU's backend reorders nodes
    for scale in (1.0, 0.5):
        both.x.set(scale * X)
        assert both.sched.graphCompute(graph) is Ggml.Status.SUCCESS
        np.testing.assert_allclose(result.numpy(), np.tanh(scale * X @ W.T) @ W, rtol=1e-2, atol=5e-2)
    assert both.sched.getTensorBackend(product) is both.gpu
    assert both.sched.getTensorBackend(on_cpu) is both.cpu
    assert both.sched.nSplits >= 3
    assert both.sched.getBufferSize(both.gpu) > 0 and both.sched.getBufferSize(both.cpu) > 0
    assert {node: node.sources for node in graph.nodes} == sources  # not the scheduler's copies
    both.sched.free()
    assert {node: node.sources for node in graph.nodes} == sources
    np.testing.assert_array_equal(both.x.numpy(), 0.5 * X)


def test_an_operation_can_be_assigned(both: Both) -> None:
    ctx = both.ctx
    product = ctx.mulMat(both.w, both.x)
    result = ctx.scale(product, 2.0)
    graph = both.graph(result)
    both.sched.setTensorBackend(product, both.cpu)
    for backend in (both.cpu, both.gpu):
        both.sched.graphCompute(graph)
        assert both.sched.getTensorBackend(product) is backend
        np.testing.assert_allclose(result.numpy(), 2 * X @ W.T, rtol=1e-2, atol=5e-2)
        both.sched.reset()
    custom = ctx.mapCustom1(product, lambda a: a)
    with pytest.raises(ValueError, match="does not support"):
        both.sched.setTensorBackend(custom, both.gpu)


def test_memory_of_a_context_is_refused_beside_a_gpu(both: Both) -> None:
    with Ggml.Context() as plain:
        result = both.ctx.add(both.x, plain.tensor(X))
        with pytest.raises(ValueError, match="memory"):
            both.sched.graphCompute(both.graph(result))


def test_reading_before_and_after(both: Both) -> None:
    result = both.ctx.mulMat(both.w, both.x)
    graph = both.graph(result)
    assert both.sched.reserve(graph) and not result.isAllocated
    assert both.sched.allocGraph(graph) and result.isAllocated
    both.sched.graphCompute(graph)
    np.testing.assert_allclose(result.numpy(), X @ W.T, rtol=1e-2, atol=5e-2)
    both.weights.free()
    assert not result.isAllocated


def test_a_training_with_a_gpu(vulkan: Vulkan) -> None:
    true = RNG.normal(size=(3, 64)).astype(np.float32)
    points = RNG.normal(size=(64, 64)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[(points @ true.T).argmax(1)]
    reached = []
    cpu = Ggml.Backend.cpuInit()
    params = Ggml.OptOptimizerParams(alpha=0.05)
    for backends in ([cpu], [Ggml.Backend.vkInit(0), cpu]):
        weights, ctx = Ggml.Context(noAlloc=True), Ggml.Context(noAlloc=True)
        w = weights.newTensor(Ggml.Type.F32, 64, 3).setParam()
        weights.backendAllocTensors(backends[0])
        w.set(0.01)
        x = ctx.tensor(np.zeros((16, 64), np.float32))
        y = ctx.mulMat(w, x)
        with Ggml.OptDataset(points, labels) as data:
            reached.append(
                Ggml.Opt.fit(x, y, data, getOptPars=params, nEpoch=8, nBatchLogical=32, backend=list(backends))
            )
    on_cpu, with_gpu = reached
    assert with_gpu[-1].loss < 0.3 * with_gpu[0].loss
    assert with_gpu[-1].loss == pytest.approx(on_cpu[-1].loss, rel=0.05)
    elsewhere = ctx.mulMat(ctx.tensor(np.ones((3, 64), np.float32)).setParam(), x)
    with pytest.raises(ValueError, match="first backend, Vulkan0"):
        Ggml.Opt(x, elsewhere, backend=list(backends))
