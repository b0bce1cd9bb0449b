"""Contexts, buffers and allocators may be freed in any order, and nothing dangles."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

from llama_cffi import BusyError, ClosedError, Ggml, NativeMemoryError, lib
from llama_cffi._core.ownership import n_owned

ONES = np.ones((2, 3), np.float32)


def graph_of(ctx: Ggml.Context, tensor: Ggml.Tensor) -> Ggml.CGraph:
    graph = ctx.newGraph(64)
    Ggml.buildForwardExpand(graph, tensor)
    return graph


def test_a_result_keeps_the_memory_of_its_sources() -> None:
    weights, work = Ggml.Context(), Ggml.Context()
    w = weights.tensor(ONES * 2)
    result = work.add(w, work.tensor(ONES))
    graph = graph_of(work, result)
    weights.free()
    with pytest.raises(ClosedError):
        w.numpy()
    assert "freed" in repr(w)
    assert work.graphCompute(graph) is Ggml.Status.SUCCESS
    np.testing.assert_array_equal(result.numpy(), ONES * 3)
    assert "freed" in repr(result.sources[0])
    work.free()
    with pytest.raises(ClosedError):
        result.numpy()
    with pytest.raises(ClosedError):
        work.graphCompute(graph)
    with pytest.raises(ClosedError):
        weights.add(w, w)


def test_a_tensor_keeps_its_context_until_it_is_collected() -> None:
    gc.collect()  # what earlier tests left
    before = n_owned()
    ctx = Ggml.Context()
    tensor, reference = ctx.tensor(ONES), weakref.ref(ctx)
    del ctx
    gc.collect()
    np.testing.assert_array_equal((tensor * 2).numpy().shape, (2, 3))
    assert reference() is not None
    del tensor
    gc.collect()
    assert reference() is None and n_owned() == before


def test_an_array_keeps_the_memory_after_the_context_is_freed() -> None:
    before = n_owned()
    ctx = Ggml.Context()
    tensor = ctx.tensor(ONES)
    array, floats, data = tensor.numpy(), tensor.dataF32, tensor.data
    ctx.free()
    array[0, 0] = 5
    assert floats[0] == 5 and len(data) == 24
    assert n_owned() > before
    del array, floats, data
    gc.collect()
    assert n_owned() == before


def test_contexts_that_use_each_other_are_freed_together() -> None:
    before = n_owned()
    one, two = Ggml.Context(), Ggml.Context()
    a, b = one.tensor(ONES), two.tensor(ONES)
    first, second = one.add(a, b), two.add(b, a)
    np.testing.assert_array_equal(Ggml.compute(first), ONES * 2)
    one.free()
    np.testing.assert_array_equal(Ggml.compute(second), ONES * 2)
    two.free()
    del one, two, a, b, first, second
    gc.collect()
    assert n_owned() == before


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_everything_may_be_freed_in_any_order(order: tuple[int, ...]) -> None:
    before = n_owned()
    free_in_order(order)
    gc.collect()
    assert n_owned() == before


def free_in_order(order: tuple[int, ...]) -> None:
    backend = Ggml.Backend.cpuInit()
    ctx, work = Ggml.Context(4096, noAlloc=True), Ggml.Context(1 << 16, noAlloc=True)
    tensor = ctx.newTensor(Ggml.Type.F32, 3, 2)
    buffer = ctx.backendAllocTensors(backend)
    assert buffer is not None
    result = work.sqr(tensor.set(ONES * 3))
    allocator = Ggml.Gallocr(backend.getDefaultBufferType())
    graph = graph_of(work, result)
    assert allocator.allocGraph(graph)
    backend.graphCompute(graph)
    array = tensor.numpy()
    things: list[Any] = [backend, ctx, work, buffer, allocator]

    def use_everything() -> None:
        for call in (result.numpy, tensor.numpy, partial(backend.graphCompute, graph), partial(work.sqr, tensor)):
            with suppress(ClosedError, ValueError):
                call()
        with suppress(ClosedError):
            allocator.allocGraph(graph)

    for number in order:
        things[number].free()
        things[number].free()
        use_everything()
    assert array[0, 0] == 3


def test_the_next_graph_of_an_allocator_takes_the_memory_of_the_last() -> None:
    with Ggml.Context(noAlloc=True) as ctx, Ggml.Backend.cpuInit() as backend:
        a = ctx.tensor(ONES)
        small, large = a * 2, ctx.repeat4d(a * 3, 300, 200, 1, 1)
        one, two = graph_of(ctx, small), graph_of(ctx, large)
        with Ggml.Gallocr(backend.getDefaultBufferType()) as allocator:
            assert allocator.allocGraph(one)
            backend.graphCompute(one)
            kept = small.numpy()
            view = ctx.reshape(small, 6)
            assert view.numpy().tolist() == [2.0] * 6
            assert allocator.allocGraph(two)
            backend.graphCompute(two)
            np.testing.assert_array_equal(kept, ONES * 2)  # a copy
            for gone in (small, view):
                with pytest.raises(ValueError, match="no memory"):
                    gone.numpy()
            with pytest.raises(ValueError, match="no memory"):
                backend.graphCompute(one)
            assert large.numpy().shape == (200, 300) and (large.numpy() == 3).all()
            assert allocator.bufferSize >= large.nBytes
        with pytest.raises(ValueError, match="no memory"):
            large.numpy()


def test_data_that_is_computed_by_itself_has_no_memory_afterwards() -> None:
    with Ggml.Context(noAlloc=True) as ctx:
        tensor = ctx.newTensor(Ggml.Type.F32, 4)
        assert Ggml.compute(tensor).shape == (4,)
        assert not tensor.isAllocated
        with pytest.raises(ValueError, match="no memory"):
            tensor.numpy()


def test_a_collected_allocator_does_not_take_memory_that_is_in_use() -> None:
    before = n_owned()
    ctx = Ggml.Context(noAlloc=True)
    a = ctx.tensor(ONES)
    work = Ggml.Context(noAlloc=True)
    placed = ctx.newTensor(Ggml.Type.F32, 3, 2)
    graph = graph_of(work, work.add(a, placed))
    allocator = Ggml.Gallocr(Ggml.Backend.cpuInit().getDefaultBufferType())
    assert allocator.allocGraph(graph)
    del allocator, graph, work
    gc.collect()
    np.testing.assert_array_equal(placed.set(ONES).numpy(), ONES)
    ctx.free()
    del ctx, a, placed
    gc.collect()
    assert n_owned() == before


def test_one_call_at_a_time_uses_a_context() -> None:
    with Ggml.Context() as ctx:
        a = ctx.tensor(np.ones((600, 600), np.float32))
        result = a
        for _ in range(12):
            result = ctx.mulMat(a, ctx.scale(result, 1e-3))
        graph = graph_of(ctx, result)
        found: list[BaseException] = []

        def other(call: Callable[[], object]) -> None:
            try:
                call()
            except BusyError as error:
                found.append(error)

        plan = graph.plan(1)
        started = threading.Event()
        plan.abortCallback = lambda: started.set() or False
        thread = threading.Thread(target=graph.compute, args=(plan,))
        thread.start()
        assert started.wait(60)
        other(lambda: ctx.newGraph(4))
        other(lambda: graph.compute(graph.plan(1)))
        thread.join()
        assert len(found) == 2 or not found  # it may have been fast
        assert ctx.newGraph(4).size == 4


def test_an_exception_of_an_abort_callback_comes_back() -> None:
    with Ggml.Context() as ctx:
        graph = graph_of(ctx, ctx.tensor(ONES) * 2)
        plan = graph.plan(1)

        def fail() -> bool:
            raise KeyError("from the callback")

        plan.abortCallback = fail
        with pytest.raises(KeyError, match="from the callback"):
            graph.compute(plan)
        plan.abortCallback = None
        assert graph.compute(plan) is Ggml.Status.SUCCESS


def test_memory_that_is_too_small_is_refused_through_lib_too() -> None:
    with Ggml.Context(1024) as ctx:
        for call in (
            lambda: lib.ggml_new_graph(ctx._c),
            lambda: lib.ggml_new_graph_custom(ctx._c, 1 << 40, False),
            lambda: lib.ggml_new_buffer(ctx._c, 1 << 20),
        ):
            with pytest.raises(NativeMemoryError):
                call()
    with Ggml.Context(500_000) as ctx:
        a = ctx.tensor(ONES, Ggml.Type.F16)
        graph = graph_of(ctx, ctx.mulMat(a, ctx.newTensor(Ggml.Type.F32, 3, 20_000).setZero()))
        with pytest.raises(NativeMemoryError):
            lib.ggml_graph_compute_with_ctx(ctx._c, graph._c, 1)
        assert ctx.graphCompute(graph, 1) is Ggml.Status.SUCCESS
