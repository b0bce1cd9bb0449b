"""Tensors as arrays: elements in and out, types, shapes in both orders, operators."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from llama_cffi import Ggml, NativeAssertionError, NativeMemoryError, ffi

RNG = np.random.default_rng(0)

# Types, and the largest error of their elements relative to the largest element.
QUANTIZED = {
    "BF16": 0.004,
    "Q8_0": 0.005,
    "Q4_0": 0.08,
    "Q4_1": 0.06,
    "Q5_0": 0.04,
    "Q5_1": 0.03,
    "Q2_K": 0.3,
    "Q3_K": 0.15,
    "Q4_K": 0.07,
    "Q5_K": 0.04,
    "Q6_K": 0.03,
    "IQ2_XXS": 0.6,
    "IQ2_XS": 0.6,
    "IQ2_S": 0.6,
    "IQ3_XXS": 0.35,
    "IQ3_S": 0.3,
    "IQ1_S": 1.0,
    "IQ1_M": 1.0,
    "IQ4_NL": 0.1,
    "IQ4_XS": 0.1,
    "MXFP4": 0.2,
    "TQ2_0": 1.0,
}


@pytest.mark.parametrize("dtype", ["f4", "f2", "i1", "i2", "i4", "i8"])
def test_elements_of_types_that_numpy_has_are_kept_exactly(dtype: str) -> None:
    values = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
    with Ggml.Context() as ctx:
        tensor = ctx.tensor(values)
        assert tensor.numpy().dtype == values.dtype and tensor.shape == (2, 3, 4) and tensor.ne == (4, 3, 2, 1)
        np.testing.assert_array_equal(tensor.numpy(), values)
        np.testing.assert_array_equal(np.asarray(tensor), values)
        assert tensor.nb[:3] == tuple(reversed(values.strides))


def test_what_else_makes_a_tensor() -> None:
    with Ggml.Context() as ctx:
        assert ctx.tensor(np.zeros(3)).type is Ggml.Type.F32  # 64-bit floats are for Python
        assert ctx.tensor(np.zeros(3), Ggml.Type.F64).type is Ggml.Type.F64
        assert ctx.tensor([True, False]).type is Ggml.Type.I32
        assert ctx.tensor(array("h", [1, 2])).numpy().tolist() == [1, 2]
        assert ctx.tensor([[1.5, 2.5]]).numpy().tolist() == [1.5, 2.5]
        assert ctx.tensor(2.5).numpy().tolist() == [2.5]
        assert ctx.tensor(np.arange(6, dtype=np.float32).reshape(2, 3).T).numpy().tolist() == [[0, 3], [1, 4], [2, 5]]
        assert ctx.newI32(7).numpy().tolist() == [7] and ctx.newF32(1.5).numpy().tolist() == [1.5]


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantizing_stays_within_the_error_of_the_type(name: str) -> None:
    values = np.random.default_rng(7).normal(size=(3, 512)).astype(np.float32)
    with Ggml.Context() as ctx:
        tensor = ctx.tensor(values, Ggml.Type[name])
        assert tensor.type is Ggml.Type[name] and tensor.shape == (3, 512)
        assert tensor.nBytes == 3 * Ggml.getRowSize(tensor.type, 512)
        back = tensor.numpy()
        assert back.dtype == np.float32
        assert np.abs(back - values).max() <= QUANTIZED[name] * np.abs(values).max()
        assert np.corrcoef(back.reshape(-1), values.reshape(-1))[0, 1] > 0.7
        again = ctx.tensor(back, tensor.type).numpy()
        assert np.abs(again - back).max() <= QUANTIZED[name] * np.abs(values).max()


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_NL", "IQ2_XXS", "IQ3_S"])
def test_a_product_with_quantized_weights_is_that_of_the_dequantized(name: str) -> None:
    weights, data = RNG.normal(size=(5, 256)).astype(np.float32), RNG.normal(size=(3, 256)).astype(np.float32)
    with Ggml.Context() as ctx:
        w = ctx.tensor(weights, Ggml.Type[name])
        expected = data @ np.asarray(w.numpy(), np.float32).T
        result = Ggml.compute(ctx.mulMat(w, ctx.tensor(data)))
        assert np.abs(result - expected).max() <= 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["Q4_K", "Q2_K", "IQ3_XXS", "IQ4_NL"])
def test_an_imatrix_says_which_columns_matter(name: str) -> None:
    values = np.random.default_rng(7).normal(size=(4, 256)).astype(np.float32)
    weights = np.where(np.arange(256) % 2 == 0, 100.0, 0.01)
    with Ggml.Context() as ctx:
        plain = ctx.tensor(values, Ggml.Type[name]).numpy()
        told = ctx.tensor(values, Ggml.Type[name], imatrix=weights).numpy()
        assert np.abs(told - values)[:, ::2].mean() < 0.95 * np.abs(plain - values)[:, ::2].mean()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda c: c.tensor(np.zeros((2, 33)), Ggml.Type.Q4_0), ValueError, r"Q4_0.*32.*33"),
        (lambda c: c.tensor(np.full((1, 32), np.nan), Ggml.Type.Q4_0), ValueError, "Q4_0"),
        (lambda c: c.tensor(np.zeros(256), Ggml.Type.Q8_K), ValueError, "Q8_K"),
        (lambda c: c.tensor(np.zeros(256), Ggml.Type.IQ1_S, imatrix=[1.0]), ValueError, r"imatrix.*256"),
        (lambda c: c.tensor(np.zeros(4), Ggml.Type.I32), TypeError, "I32"),
        (lambda c: c.tensor([1 << 40], Ggml.Type.I32), ValueError, "2147483647"),
        (lambda c: c.tensor("text"), TypeError, "str"),
        (lambda c: c.tensor(None), TypeError, "None"),
        (lambda c: c.tensor(["a"]), TypeError, "array"),
        (lambda c: c.tensor(np.zeros(3, complex)), TypeError, "complex128"),
        (lambda c: c.tensor(np.zeros((1,) * 5)), ValueError, r"4 dimensions"),
        (lambda c: c.tensor(np.zeros((0, 3))), ValueError, r"\(0, 3\)"),
        (lambda c: c.tensor(np.zeros(3, "u8")), TypeError, "uint64"),
        (lambda c: c.tensor([1.0], 4), ValueError, "4"),
        (lambda c: c.tensor([1.0], "F32"), ValueError, "F32"),
        (lambda c: c.newTensor(Ggml.Type.COUNT, 3), ValueError, "COUNT"),
        (lambda c: c.newTensor(Ggml.Type.F32, 0), ValueError, r"ne0.*1"),
        (lambda c: c.newTensor(Ggml.Type.F32, -5), ValueError, r"ne0.*-5"),
        (lambda c: c.newTensor(Ggml.Type.F32), ValueError, "dimensions"),
        (lambda c: c.newTensor(Ggml.Type.Q4_0, 33), ValueError, "block"),
        (lambda c: c.newTensor(Ggml.Type.F32, 1 << 40, 1 << 10), ValueError, r"2\*\*44"),
        (lambda c: c.newTensor(Ggml.Type.F32, 1 << 40), NativeMemoryError, "memory"),
        (lambda c: c.view(c.newTensor(Ggml.Type.F32, 4), 2, 12), NativeAssertionError, "view_src"),
        (lambda c: c.view(c.newTensor(Ggml.Type.F32, 4, 4), 2, 4, 400, 0), ValueError, "end"),
        (lambda c: c.view(c.newTensor(Ggml.Type.F32, 4), 2, 1), ValueError, "multiples"),
        (lambda c: c.view(c.newTensor(Ggml.Type.F32, 4), 1, 4, 0, 0), ValueError, "strides"),
        (lambda c: c.view(c.newTensor(Ggml.Type.F32, 4), 1), TypeError, "2, 4, 6 or 8"),
        (lambda c: c.reshape(c.newTensor(Ggml.Type.F32, 4), 5), NativeAssertionError, "ggml_nelements"),
        (lambda c: c.add(c.newTensor(Ggml.Type.F32, 4), None), TypeError, "b: expected a Ggml.Tensor"),
        (lambda c: c.scale(c.newTensor(Ggml.Type.F32, 4), "x"), TypeError, "s must be a number"),
        (lambda c: c.newGraph(0), ValueError, "size"),
    ],
)
def test_what_is_refused(make: Any, kind: type[Exception], words: str) -> None:
    with Ggml.Context() as ctx:
        with pytest.raises(kind, match=words):
            make(ctx)
        assert Ggml.compute(ctx.scale(ctx.tensor([1.0, 2.0]), 2.0)).tolist() == [2.0, 4.0]


def test_views_share_the_memory_and_keep_their_strides() -> None:
    with Ggml.Context() as ctx:
        tensor = ctx.tensor(np.arange(12, dtype=np.float32).reshape(3, 4))
        part = ctx.view(tensor, 2, 2, tensor.nb[1], tensor.nb[1] + 4)
        assert part.numpy().tolist() == [[5, 6], [9, 10]] and part.numpy().strides == (16, 4)
        part.numpy()[0, 0] = 50
        assert tensor.numpy()[1, 1] == 50
        part.set([[1, 2], [3, 4]])
        assert tensor.numpy()[1:, 1:3].tolist() == [[1, 2], [3, 4]]
        turned = ctx.transpose(tensor)
        assert turned.shape == (4, 3) and turned.numpy().strides == (4, 16)
        np.testing.assert_array_equal(turned.numpy(), tensor.numpy().T)
        tensor.dataF32[0] = 7
        assert turned.numpy()[0, 0] == 7 and len(tensor.data) == 48


def test_set_converts_and_checks_the_shape() -> None:
    with Ggml.Context() as ctx:
        half = ctx.newTensor(Ggml.Type.F16, 3, 2)
        assert half.set([[1, 2, 3], [4, 5, 6]]).numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
        assert half.set(2).numpy().tolist() == [[2] * 3] * 2
        assert half.setF32(0.5).numpy().tolist() == [[0.5] * 3] * 2
        assert half.setZero().numpy().tolist() == [[0] * 3] * 2
        with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
            half.set(np.zeros((3, 2)))
        quantized = ctx.newTensor(Ggml.Type.Q8_0, 32, 2).set(np.full((2, 32), 3.0))
        np.testing.assert_allclose(quantized.numpy(), 3.0, rtol=0.01)
        with pytest.raises(ValueError, match="F32"):
            half.dataF32  # noqa: B018


def test_bytes_go_in_and_out_within_the_tensor() -> None:
    with Ggml.Context() as ctx:
        tensor = ctx.tensor([1.0, 2.0, 3.0])
        assert tensor.backendGet() == np.array([1, 2, 3], np.float32).tobytes()
        assert tensor.backendGet(offset=4, size=4) == np.float32(2).tobytes()
        tensor.backendSet(np.float32(9).tobytes(), 8)
        assert tensor.numpy().tolist() == [1, 2, 9]
        for call in (
            lambda: tensor.backendSet(b"12345678", 8),
            lambda: tensor.backendSet(b"1234", 0, 8),
            lambda: tensor.backendSet(b"1234", -4),
            lambda: tensor.backendGet(offset=13),
            lambda: tensor.backendGet(bytearray(4), 0, 8),
            lambda: tensor.backendGet(size=-1),
        ):
            with pytest.raises(ValueError, match="must be between"):
                call()
        with pytest.raises(TypeError, match="data.*writable"):
            tensor.backendGet(b"1234", 0, 4)
        for wrong in (ffi.new("int *"), ffi.NULL, 5, "text", np.array([object()])):
            with pytest.raises(TypeError, match="data"):
                tensor.backendGet(wrong, 0, 4)
            with pytest.raises(TypeError, match="data"):
                tensor.backendSet(wrong, 0, 4)
        numbers = ffi.new("float[3]")
        tensor.backendGet(numbers)
        assert list(numbers) == [1, 2, 9]


def test_without_memory_there_is_nothing_to_read() -> None:
    with Ggml.Context(noAlloc=True) as ctx:
        tensor = ctx.newTensor(Ggml.Type.F32, 4)
        assert not tensor.isAllocated
        for call in (tensor.numpy, tensor.backendGet, tensor.setZero, lambda: tensor.data, lambda: tensor.set(1)):
            with pytest.raises(ValueError, match="no memory"):
                call()
        with pytest.raises(ValueError, match="noAlloc"):
            ctx.newF32(1.0)
        graph = ctx.newGraph()
        Ggml.buildForwardExpand(graph, ctx.sqr(tensor))
        with pytest.raises(ValueError, match="no memory"):
            ctx.graphCompute(graph)


# Operators

X = RNG.uniform(0.5, 2, (2, 3)).astype(np.float32)
Y = RNG.uniform(0.5, 2, (2, 3)).astype(np.float32)
ROW, COLUMN = X[:1], X[:, :1]

EXPRESSIONS: list[tuple[Any, tuple[Any, ...]]] = [
    (lambda a, b: a + b, (X, Y)),
    (lambda a, b: a - b, (X, Y)),
    (lambda a, b: a * b, (X, Y)),
    (lambda a, b: a / b, (X, Y)),
    (lambda a, b: a + b, (ROW, Y)),
    (lambda a, b: a - b, (ROW, Y)),
    (lambda a, b: a / b, (X, COLUMN)),
    (lambda a, b: a * b, (ROW, COLUMN)),
    (lambda a: a + 2, (X,)),
    (lambda a: 2 + a, (X,)),
    (lambda a: a - 2, (X,)),
    (lambda a: 2 - a, (X,)),
    (lambda a: a * 2, (X,)),
    (lambda a: np.float32(2) * a, (X,)),
    (lambda a: a / 3, (X,)),
    (lambda a: 3 / a, (X,)),
    (lambda a: -a, (X,)),
    (lambda a: abs(-a), (X,)),
    (lambda a: a**2, (X,)),
    (lambda a: a**0.5, (X,)),
    (lambda a: a.T, (X,)),
    (lambda a, b: a @ b, (X, Y.T.copy())),
    (lambda a, b: a @ b.T, (X, Y)),
    (lambda a, b: a.T @ b, (X, Y)),
    (lambda a, b: a @ b, (X, Y[0])),
    (
        lambda a, b: a @ b,
        (RNG.normal(size=(4, 2, 3)).astype(np.float32), RNG.normal(size=(4, 3, 5)).astype(np.float32)),
    ),
]


@pytest.mark.parametrize("number", range(len(EXPRESSIONS)))
def test_an_operator_means_what_it_means_in_numpy(number: int) -> None:
    expression, arrays = EXPRESSIONS[number]
    expected = expression(*arrays)
    with Ggml.Context() as ctx:
        result = Ggml.compute(expression(*(ctx.tensor(one) for one in arrays)))
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "expression",
    [
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: a**3,
        lambda a, b: np.exp(a),
        lambda a, b: a + "x",
        lambda a, b: a @ 2,
        lambda a, b: a + np.ones(3),
    ],
)
def test_what_an_operator_refuses(expression: Any) -> None:
    with Ggml.Context() as ctx, pytest.raises((TypeError, ValueError)):
        expression(ctx.tensor(np.zeros((2, 3))), ctx.tensor(np.zeros((2, 2))))


def test_several_results_of_one_graph() -> None:
    with Ggml.Context() as ctx:
        a = ctx.tensor(X)
        middle = a * 2
        one, two = Ggml.compute([middle, middle + 1], backend="cpu", nThreads=1)
        np.testing.assert_allclose(one, X * 2, rtol=1e-6)
        np.testing.assert_allclose(two, X * 2 + 1, rtol=1e-6)
        with Ggml.Backend.cpuInit() as backend:
            np.testing.assert_allclose(Ggml.compute(middle, backend), X * 2, rtol=1e-6)
        device = Ggml.BackendDevice.byName("CPU")
        assert device is not None
        np.testing.assert_allclose(Ggml.compute(middle, device), X * 2, rtol=1e-6)
        for wrong, kind in (("nothing", ValueError), (5, TypeError)):
            with pytest.raises(kind):
                Ggml.compute(middle, wrong)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            Ggml.compute(5)  # type: ignore[call-overload]
        with pytest.raises(ValueError):
            Ggml.compute([])


def test_a_context_without_a_size_grows_and_one_with_a_size_says_when_it_is_full() -> None:
    with Ggml.Context() as ctx:
        tensors = [ctx.tensor(np.full(1000, i, np.float32)) for i in range(200)]
        assert ctx.memSize > 800_000 and ctx.usedMem > 800_000
        assert [t.numpy()[0] for t in tensors] == list(range(200))
        total = tensors[0]
        for tensor in tensors[1:]:
            total = total + tensor
        assert Ggml.compute(total)[0] == sum(range(200))
        assert len(ctx.tensors) == 399
    with Ggml.Context(4096) as ctx:
        ctx.newTensor(Ggml.Type.F32, 500)
        with pytest.raises(NativeMemoryError, match=r"\d+ bytes are needed and \d+ are left"):
            ctx.newTensor(Ggml.Type.F32, 500)
        with pytest.raises(NativeMemoryError):
            ctx.newGraph()
        ctx.newTensor(Ggml.Type.F32, 10)


def test_a_deep_graph_and_one_that_is_too_small() -> None:
    with Ggml.Context(noAlloc=True) as ctx:
        result = ctx.tensor([1.0])
        for _ in range(20_000):
            result = result + 1
        graph = ctx.newGraph(100)
        with pytest.raises(ValueError, match=r"100.*20000"):
            Ggml.buildForwardExpand(graph, result)
        assert graph.nNodes == 0
        assert Ggml.compute(result).tolist() == [20001.0]
