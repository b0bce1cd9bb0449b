"""Custom operations in Python."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from llama_cffi import BusyError, ClosedError, Ggml

A = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(params=[False, True], ids=["memory", "noAlloc"])
def ctx(request: pytest.FixtureRequest) -> Ggml.Context:
    return Ggml.Context(noAlloc=request.param)


def _calls(ctx: Ggml.Context, fun: Any) -> dict[str, Ggml.Tensor]:
    a, b, c = ctx.tensor(A), ctx.tensor(2 * A), ctx.tensor(3 * A)
    return {
        "mapCustom1": ctx.mapCustom1(a, fun),
        "mapCustom1Inplace": ctx.mapCustom1Inplace(ctx.sqr(a), fun),
        "mapCustom2": ctx.mapCustom2(a, b, fun),
        "mapCustom2Inplace": ctx.mapCustom2Inplace(ctx.sqr(a), b, fun),
        "mapCustom3": ctx.mapCustom3(a, b, c, fun),
        "mapCustom3Inplace": ctx.mapCustom3Inplace(ctx.sqr(a), b, c, fun),
        "custom4d": ctx.custom4d(Ggml.Type.F32, 4, 3, 1, 1, [a, b, c, c], fun),
        "customInplace": ctx.customInplace(ctx.sqr(a), [b, c], fun),
    }


NAMES = tuple(_calls(Ggml.Context(), len))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_each_computes_what_its_function_returns(ctx: Ggml.Context, name: str, threads: int) -> None:
    calls = []

    def fun(*arrays: np.ndarray) -> np.ndarray:
        calls.append((len(arrays), threading.get_ident()))
        assert all(not array.flags.writeable and array.shape == (3, 4) for array in arrays)
        return 10 * sum(arrays) + 1

    first = A**2 if name.endswith("Inplace") else A
    rest = {"mapCustom1": 0, "mapCustom2": 2, "mapCustom3": 5, "custom4d": 8, "customInplace": 5}
    expected = 10 * (first + rest[name.replace("Inplace", "")] * A if name != "customInplace" else first + 5 * A) + 1
    result = Ggml.compute(ctx.scale(_calls(ctx, fun)[name], 2.0), nThreads=threads)
    np.testing.assert_allclose(result, 2 * expected)
    assert len(calls) == 1 and calls[0][1] == threading.get_ident()


def test_types_are_converted_both_ways(ctx: Ggml.Context) -> None:
    values = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    seen = []
    quantized = ctx.tensor(values, Ggml.Type.Q8_0)
    doubled = ctx.mapCustom1(quantized, lambda a: seen.append(a.dtype) or 2 * a)
    assert doubled.type is Ggml.Type.Q8_0
    np.testing.assert_allclose(Ggml.compute(doubled), 2 * values, atol=0.05)
    ranks = ctx.custom4d(Ggml.Type.I32, 2, 1, 1, 1, [quantized], lambda a: np.argmax(a, axis=1))
    assert Ggml.compute(ranks).tolist() == np.argmax(quantized.numpy(), axis=1).tolist()
    assert seen == [np.float32]
    assert Ggml.compute(ctx.custom4d(Ggml.Type.F32, 3, 2, 1, 1, [], lambda: 7)).tolist() == [[7] * 3] * 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_comes_back_and_the_rest_is_not_called(
    ctx: Ggml.Context, threads: int, error: type[BaseException]
) -> None:
    calls = []

    def fail(a: np.ndarray) -> np.ndarray:
        calls.append(1)
        raise error("from the function")

    one = ctx.mapCustom1(ctx.tensor(A), fail)
    with pytest.raises(error, match="from the function"):
        Ggml.compute(ctx.mapCustom1(one, fail), nThreads=threads)
    assert calls == [1]
    assert Ggml.compute(ctx.sqr(ctx.tensor([3.0]))).tolist() == [9.0]


def test_indices_that_were_not_computed_are_zero() -> None:
    with Ggml.Context() as ctx:

        def fail() -> None:
            raise OSError("no indices")

        ids = ctx.custom4d(Ggml.Type.I32, 2, 1, 1, 1, [], fail)
        with pytest.raises(OSError, match="no indices"):
            Ggml.compute(ctx.getRows(ctx.tensor(A), ids))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, TypeError, r"\(3, 4\).*None"),
        (np.ones((4, 3)), ValueError, r"\(3, 4\).*\(4, 3\)"),
        ("text", (TypeError, ValueError), None),
        ({}, (TypeError, ValueError), None),
    ],
)
def test_a_wrong_result_is_an_exception(ctx: Ggml.Context, value: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        Ggml.compute(ctx.mapCustom1(ctx.tensor(A), lambda a: value))


def test_arrays_that_the_function_kept_stay_valid(ctx: Ggml.Context) -> None:
    kept: list[np.ndarray] = []
    a = ctx.tensor(A)
    result = ctx.mapCustom2(ctx.sqr(a), a, lambda *arrays: kept.extend(arrays) or arrays[0])
    np.testing.assert_array_equal(Ggml.compute(result), A**2)
    ctx.free()
    del a, result
    gc.collect()
    np.testing.assert_array_equal(kept[0], A**2)
    np.testing.assert_array_equal(kept[1], A)


def test_the_function_lives_as_long_as_the_memory_and_no_longer() -> None:
    class Fun:
        def __call__(self, a: np.ndarray) -> np.ndarray:
            return a + 1

    inner, outer = Ggml.Context(), Ggml.Context()
    fun = Fun()
    gone = weakref.ref(fun)
    result = outer.sqr(inner.mapCustom1(inner.tensor(A), fun))
    del fun
    inner.free()
    gc.collect()
    assert gone() is not None
    np.testing.assert_array_equal(Ggml.compute(result), (A + 1) ** 2)  # its context was freed
    outer.free()
    del result, inner, outer
    gc.collect()
    assert gone() is None


def test_what_a_function_does_to_its_computation_is_refused() -> None:
    ctx = Ggml.Context()
    tensor = ctx.tensor(A)
    for act in (ctx.free, lambda: ctx.sqr(tensor), lambda: ctx.newGraph()):
        with pytest.raises(BusyError):
            graph = ctx.newGraph(16)
            graph.expand(ctx.mapCustom1(tensor, lambda a, act=act: act() or a))
            ctx.graphCompute(graph)
    other = ctx.mapCustom1(tensor, lambda a: Ggml.compute(Ggml.Context().tensor(A + 1)))
    np.testing.assert_array_equal(Ggml.compute(other), A + 1)


@pytest.mark.parametrize("kind", ["allocator", "scheduler"])
def test_memory_is_not_taken_from_a_graph_that_is_computed(kind: str) -> None:
    backend = Ggml.Backend.cpuInit()
    inner, outer = Ggml.Context(noAlloc=True), Ggml.Context(noAlloc=True)
    with Ggml.Gallocr(backend.getDefaultBufferType()) as allocator, Ggml.BackendSched([backend]) as sched:
        raised: list[BaseException] = []

        def free(a: np.ndarray) -> np.ndarray:
            for thing in (inner, outer, allocator if kind == "allocator" else sched):
                try:
                    thing.free()
                except BusyError as error:
                    raised.append(error)
            return a

        graph = outer.newGraph(16)
        result = outer.sqr(outer.mapCustom1(inner.sqr(inner.tensor(A)), free)).setOutput()
        graph.expand(outer.add(result, inner.sqr(inner.tensor(A))))
        if kind == "allocator":
            allocator.allocGraph(graph)
            backend.graphCompute(graph)
        else:
            sched.graphCompute(graph)
        assert len(raised) == 3
        np.testing.assert_array_equal(result.numpy(), A**4)
        inner.free()
        assert not result.isAllocated


def test_a_scheduler_runs_them() -> None:
    backend = Ggml.Backend.cpuInit()
    with Ggml.Context(noAlloc=True) as ctx, Ggml.BackendSched([backend]) as sched:
        graph = ctx.newGraph(16)
        result = ctx.mapCustom1(ctx.sqr(ctx.tensor(A)), lambda a: a + 1).setOutput()
        graph.expand(result)
        sched.graphCompute(graph)
        np.testing.assert_array_equal(result.numpy(), A**2 + 1)


def test_arguments_are_checked() -> None:
    with Ggml.Context() as ctx:
        a = ctx.tensor(A)
        with pytest.raises(TypeError, match="fun.*int"):
            ctx.mapCustom1(a, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="b.*ndarray"):
            ctx.mapCustom2(a, A, len)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"args\[1\].*int"):
            ctx.customInplace(a, [a, 1], len)  # type: ignore[list-item]
        with pytest.raises(TypeError, match="args"):
            ctx.custom4d(Ggml.Type.F32, 1, 1, 1, 1, a, len)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at most 9.*got 10"):
            ctx.custom4d(Ggml.Type.F32, 1, 1, 1, 1, [a] * 10, len)
        with pytest.raises(ValueError, match="at most 8.*got 9"):
            ctx.customInplace(a, [a] * 9, len)
        with pytest.raises(ValueError, match="ne2.*got 0"):
            ctx.custom4d(Ggml.Type.F32, 1, 1, 0, 1, [], len)
        with pytest.raises(ValueError, match="99"):
            ctx.custom4d(99, 1, 1, 1, 1, [], len)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="block"):
            ctx.custom4d(Ggml.Type.Q4_0, 16, 1, 1, 1, [], len)
    with pytest.raises(ClosedError):
        ctx.mapCustom1(a, len)
