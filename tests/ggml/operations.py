"""Each constructor of `Ggml.Context` beside numpy: how to call it, and what comes out.

`CASES` has a row for each; a test compares it with the generated methods. A constructor that has no row yet stands in
`UNTESTED`, which may only become shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cffi import Ggml

Array = Any


@dataclass(frozen=True)
class Case:
    """A call `call(ctx, *tensors)` whose result is `expected(*arrays)`, within `tolerance` relative to the largest."""

    arrays: tuple[Array, ...]
    call: Callable[..., Any]
    expected: Callable[..., Array]
    tolerance: float = 1e-5


CASES: dict[str, Case] = {}


def case(
    name: str,
    arrays: tuple[Array, ...],
    expected: Callable[..., Array],
    call: Callable[..., Any] | None = None,
    tolerance: float = 1e-5,
) -> None:
    assert name not in CASES, name
    CASES[name] = Case(arrays, call or (lambda ctx, *tensors: getattr(ctx, name)(*tensors)), expected, tolerance)


def both(
    name: str,
    arrays: tuple[Array, ...],
    expected: Callable[..., Array],
    args: tuple[Any, ...] = (),
    tolerance: float = 1e-5,
) -> None:
    """A constructor and the one that computes in place."""
    for one in (name, f"{name}Inplace"):
        case(one, arrays, expected, lambda ctx, *t, one=one: getattr(ctx, one)(*t, *args), tolerance)


def numbers(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


A = numbers(3, 4)
B = numbers(3, 4, seed=1)
POSITIVE = numbers(3, 4, seed=2, low=0.1, high=3.0)
WIDE = numbers(3, 8, seed=3)
CUBE = numbers(2, 3, 4, seed=4)
FOUR = numbers(2, 3, 4, 8, seed=5)


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))


def gelu_erf(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def gelu_quick(x: Array) -> Array:
    return x * sigmoid(1.702 * x)


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# One tensor, element by element. gelu goes through tables of half-precision numbers.

for _name, _function, _error in (
    ("abs", np.abs, 0.0),
    ("neg", np.negative, 0.0),
    ("sgn", np.sign, 0.0),
    ("step", lambda x: (x > 0).astype(np.float32), 0.0),
    ("tanh", np.tanh, 1e-5),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(x)), 1e-5),
    ("relu", lambda x: np.maximum(x, 0), 0.0),
    ("sigmoid", sigmoid, 1e-5),
    ("gelu", gelu, 2e-3),
    ("geluErf", gelu_erf, 1e-5),
    ("geluQuick", gelu_quick, 2e-3),
    ("silu", silu, 1e-5),
    ("exp", np.exp, 1e-5),
    ("expm1", np.expm1, 1e-5),
    ("softplus", lambda x: np.log1p(np.exp(x)), 1e-5),
    ("floor", np.floor, 0.0),
    ("ceil", np.ceil, 0.0),
    ("round", np.round, 0.0),
    ("trunc", np.trunc, 0.0),
    ("sqr", np.square, 1e-6),
    ("sin", np.sin, 1e-5),
    ("cos", np.cos, 1e-5),
):
    both(_name, (A,), _function, tolerance=_error)
both("sqrt", (POSITIVE,), np.sqrt)
both("log", (POSITIVE,), np.log)
case("hardswish", (A,), lambda x: x * np.clip((x + 3) / 6, 0, 1))
case("hardsigmoid", (A,), lambda x: np.clip((x + 3) / 6, 0, 1))
case("leakyRelu", (A,), lambda x: np.where(x > 0, x, 0.1 * x), lambda ctx, a: ctx.leakyRelu(a, 0.1, False))
for _name in ("unary", "unaryInplace"):
    case(_name, (A,), np.tanh, lambda ctx, a, n=_name: getattr(ctx, n)(a, Ggml.UnaryOp.TANH))
both("clamp", (A,), lambda x: np.clip(x, -0.5, 1), (-0.5, 1.0))
both("scale", (A,), lambda x: x * np.float32(1.5), (1.5,))
both("scaleBias", (A,), lambda x: x * np.float32(1.5) + 2, (1.5, 2.0))
both("fill", (A,), lambda x: np.full_like(x, 7), (7.0,))


def _xielu(x: Array) -> Array:
    n, p = 0.5 + np.log1p(np.exp(0.3)), np.log1p(np.exp(0.2))
    return np.where(x > 0, p * x * x + 0.5 * x, (np.expm1(np.minimum(x, -1e-6)) - x) * n + 0.5 * x)


case("xielu", (A,), _xielu, lambda ctx, a: ctx.xielu(a, 0.3, 0.2, 0.5, -1e-6))


# Two tensors, element by element

both("add", (A, B), np.add)
both("sub", (A, B), np.subtract)
both("mul", (A, B), np.multiply)
both("div", (A, POSITIVE), np.divide)
both("add1", (A, np.array([2.5], np.float32)), lambda a, b: a + b)
_HALF = A.astype(np.float16)
case(
    "addCast",
    (_HALF, B),
    lambda a, b: a.astype(np.float32) + b,
    lambda ctx, a, b: ctx.addCast(a, b, Ggml.Type.F32),
    1e-3,
)
_IDS = np.array([[2, 0, 1], [1, 1, 0]], np.int32)
case("addId", (CUBE, A, _IDS), lambda a, b, ids: a + b[ids])
case("siluBack", (A, B), lambda dy, x: dy * sigmoid(x) * (1 + x * (1 - sigmoid(x))))
case("countEqual", (_IDS, np.array([[2, 1, 1], [1, 0, 0]], np.int32)), lambda a, b: np.array([(a == b).sum()]))


# Gated linear units: half of each row gates the other half

_GATES: dict[str, Callable[[Array], Array]] = {
    "reglu": lambda x: np.maximum(x, 0),
    "geglu": gelu,
    "swiglu": silu,
    "gegluErf": gelu_erf,
    "gegluQuick": gelu_quick,
}
for _name, _gate in _GATES.items():
    case(_name, (WIDE,), lambda x, g=_gate: g(x[:, :4]) * x[:, 4:], tolerance=2e-3)
    case(f"{_name}Swapped", (WIDE,), lambda x, g=_gate: g(x[:, 4:]) * x[:, :4], tolerance=2e-3)
    case(f"{_name}Split", (A, B), lambda a, b, g=_gate: g(a) * b, tolerance=2e-3)
case(
    "glu",
    (WIDE,),
    lambda x: np.maximum(x[:, 4:], 0) * x[:, :4],
    lambda ctx, a: ctx.glu(a, Ggml.GluOp.REGLU, True),
)
case(
    "gluSplit",
    (A, B),
    lambda a, b: np.maximum(a, 0) * b,
    lambda ctx, a, b: ctx.gluSplit(a, b, Ggml.GluOp.REGLU),
)


def _swiglu_oai(a: Array, b: Array) -> Array:
    x, y = np.minimum(a, 1.0), np.clip(b, -1.0, 1.0)
    return x * sigmoid(1.7 * x) * (y + 1)


case("swigluOai", (A, B), _swiglu_oai, lambda ctx, a, b: ctx.swigluOai(a, b, 1.7, 1.0))


# Rows

case("sum", (A,), lambda x: np.array([x.sum()]))
case("sumRows", (A,), lambda x: x.sum(1, keepdims=True))
case("mean", (A,), lambda x: x.mean(1, keepdims=True))
case("cumsum", (A,), lambda x: np.cumsum(x, 1))
case("argmax", (A,), lambda x: x.argmax(1).astype(np.int32))
both("softMax", (A,), softmax)
for _name in ("softMaxExt", "softMaxExtInplace"):
    case(
        _name,
        (A, B),
        lambda a, m: softmax(a * np.float32(0.7) + m),
        lambda ctx, a, m, n=_name: getattr(ctx, n)(a, m, 0.7, 0.0),
    )
for _name in ("softMaxExtBack", "softMaxExtBackInplace"):
    case(
        _name,
        (A, B),
        lambda dy, y: 0.5 * y * (dy - (dy * y).sum(1, keepdims=True)),
        lambda ctx, a, b, n=_name: getattr(ctx, n)(a, b, 0.5, 0.0),
    )


def _norm(x: Array, eps: float = 1e-5) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def _rms(x: Array, eps: float = 1e-5) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


both("norm", (A,), _norm, (1e-5,))
both("rmsNorm", (A,), _rms, (1e-5,))
both("l2Norm", (A,), lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)), (1e-12,))
_GROUPS = numbers(4, 3, 5, seed=6)
both("groupNorm", (_GROUPS,), lambda x: _norm(x.reshape(2, -1)).reshape(x.shape), (2, 1e-5))


def _rms_back(dy: Array, x: Array) -> Array:
    n = x.shape[-1]
    square = (x * x).mean(-1, keepdims=True) + 1e-5
    return (dy - x * (x * dy).sum(-1, keepdims=True) / (square * n)) / np.sqrt(square)


case("rmsNormBack", (B, A), _rms_back, lambda ctx, a, b: ctx.rmsNormBack(a, b, 1e-5), 1e-4)
case(
    "argsort",
    (A,),
    lambda x: np.argsort(-x, 1).astype(np.int32),
    lambda ctx, a: ctx.argsort(a, Ggml.SortOrder.DESC),
)
case("argsortTopK", (A,), lambda x: np.argsort(-x, 1)[:, :2].astype(np.int32), lambda ctx, a: ctx.argsortTopK(a, 2))
case("topK", (A,), lambda x: np.argsort(-x, 1)[:, :2].astype(np.int32), lambda ctx, a: ctx.topK(a, 2))
case("crossEntropyLoss", (A, softmax(B)), lambda a, p: np.array([-(p * np.log(softmax(a))).sum() / a.shape[0]]))


# Matrices

case("mulMat", (A, B), lambda a, b: b @ a.T, tolerance=1e-3)
case("outProd", (A, B), lambda a, b: b.T @ a, tolerance=1e-5)
_EXPERTS = numbers(4, 5, 8, seed=7)  # four matrices of five rows
_TOKENS = numbers(3, 2, 8, seed=8)
_CHOSEN = np.array([[0, 3], [1, 2], [3, 3]], np.int32)
case("mulMatId", (_EXPERTS, _TOKENS, _CHOSEN), lambda e, x, i: np.einsum("tuok,tuk->tuo", e[i], x), tolerance=1e-3)
case("transpose", (A,), lambda x: x.T)
case("permute", (CUBE,), lambda x: x.transpose(0, 2, 1), lambda ctx, a: ctx.permute(a, 1, 0, 2, 3))
case("diag", (A[:1],), lambda x: np.diag(x[0]))
_SQUARE = numbers(4, 4, seed=9)


def _above(x: Array, fill: float, past: int) -> Array:
    rows, columns = np.indices(x.shape)
    return np.where(columns > rows + past, np.float32(fill), x)


both("diagMaskInf", (_SQUARE,), lambda x: _above(x, -np.inf, 1), (1,))
both("diagMaskZero", (_SQUARE,), lambda x: _above(x, 0.0, 0), (0,))
case("tri", (_SQUARE,), np.tril, lambda ctx, a: ctx.tri(a, Ggml.TriType.LOWER_DIAG))
_LOWER = np.tril(numbers(4, 4, seed=10, low=0.5, high=1.5))
case(
    "solveTri",
    (_LOWER, _SQUARE),
    np.linalg.solve,
    lambda ctx, a, b: ctx.solveTri(a, b, True, True, False),
    1e-4,
)


# Shapes

case("dupData", (A,), lambda x: x)
case("dupInplace", (A,), lambda x: x)
case("dup", (A,), lambda x: np.zeros_like(x), lambda ctx, a: ctx.fillInplace(ctx.dup(a), 0.0))
case("viewTensor", (A,), lambda x: x)
case("cont", (A,), lambda x: x.T, lambda ctx, a: ctx.cont(ctx.transpose(a)))
for _n, _shape in ((1, (24,)), (2, (4, 6)), (3, (2, 3, 4)), (4, (2, 3, 2, 2))):
    _ne = tuple(reversed(_shape))
    for _kind in ("cont", "reshape"):
        case(
            f"{_kind}{_n}d",
            (CUBE,),
            lambda x, s=_shape: x.reshape(s),
            lambda ctx, a, k=f"{_kind}{_n}d", ne=_ne: getattr(ctx, k)(a, *ne),
        )
    case(
        f"newTensor{_n}d",
        (),
        lambda s=_shape: np.full(s, 3, np.float32),
        lambda ctx, k=f"newTensor{_n}d", ne=_ne: ctx.fillInplace(getattr(ctx, k)(Ggml.Type.F32, *ne), 3.0),
    )
case("view1d", (A,), lambda x: x.reshape(-1)[2:7], lambda ctx, a: ctx.view1d(a, 5, 8))
case("view2d", (A,), lambda x: x[1:, 1:3], lambda ctx, a: ctx.view2d(a, 2, 2, 16, 20))
case("view3d", (CUBE,), lambda x: x[:, 1:, :2], lambda ctx, a: ctx.view3d(a, 2, 2, 2, 16, 48, 16))
case("view4d", (FOUR,), lambda x: x[:, :, 1:, :3], lambda ctx, a: ctx.view4d(a, 3, 3, 3, 2, 32, 128, 384, 32))
case("cast", (A,), lambda x: x.astype(np.float16), lambda ctx, a: ctx.cast(a, Ggml.Type.F16), 1e-3)
case("cpy", (A, _HALF), lambda a, b: a.astype(np.float16), tolerance=1e-3)
case("concat", (A, B), lambda a, b: np.concatenate([a, b], 0), lambda ctx, a, b: ctx.concat(a, b, 1))
case("repeat", (A[:1], B), lambda a, b: np.tile(a, (3, 1)))
case("repeat4d", (A,), lambda x: np.tile(x, (2, 1, 3)), lambda ctx, a: ctx.repeat4d(a, 12, 3, 2, 1))
case("repeatBack", (A, B[:1]), lambda a, b: a.sum(0, keepdims=True))
case("pad", (A,), lambda x: np.pad(x, ((0, 1), (0, 2))), lambda ctx, a: ctx.pad(a, 2, 1, 0, 0))
case(
    "padExt",
    (A,),
    lambda x: np.pad(x, ((2, 1), (1, 2))),
    lambda ctx, a: ctx.padExt(a, 1, 2, 2, 1, 0, 0, 0, 0),
)
case(
    "padCircular",
    (A,),
    lambda x: np.pad(x, ((0, 1), (0, 2)), "wrap"),
    lambda ctx, a: ctx.padCircular(a, 2, 1, 0, 0),
)
case(
    "padExtCircular",
    (A,),
    lambda x: np.pad(x, ((2, 1), (1, 2)), "wrap"),
    lambda ctx, a: ctx.padExtCircular(a, 1, 2, 2, 1, 0, 0, 0, 0),
)
case(
    "padReflect1d",
    (A,),
    lambda x: np.pad(x, ((0, 0), (2, 1)), "reflect"),
    lambda ctx, a: ctx.padReflect1d(a, 2, 1),
)
case("roll", (A,), lambda x: np.roll(x, (1, -1), (0, 1)), lambda ctx, a: ctx.roll(a, -1, 1, 0, 0))
case("arange", (), lambda: np.arange(1, 6, 0.5, dtype=np.float32), lambda ctx: ctx.arange(1.0, 6.0, 0.5))


# Parts

case("getRows", (A, np.array([2, 0, 2, 1], np.int32)), lambda a, i: a[i])


def _rows_back(a: Array, i: Array, c: Array) -> Array:
    out = np.zeros_like(c)
    np.add.at(out, i, a)
    return out


case("getRowsBack", (A, np.array([1, 0, 1], np.int32), B), _rows_back)


def _put_rows(a: Array, b: Array, i: Array) -> Array:
    out = a.copy()
    out[i] = b
    return out


case("setRows", (A, B[:2], np.array([2, 0], np.int64)), _put_rows)
_PART = numbers(2, 2, seed=11)


def _put(a: Array, b: Array, add: bool = False) -> Array:
    out = a.copy()
    out[1:, 1:3] = out[1:, 1:3] + b if add else b
    return out


both("set", (A, _PART), _put, (16, 48, 48, 20))
both("acc", (A, _PART), lambda a, b: _put(a, b, True), (16, 48, 48, 20))
both("set2d", (A, _PART), _put, (16, 20))


def _put_1d(a: Array, b: Array) -> Array:
    out = a.reshape(-1).copy()
    out[3:7] = b
    return out.reshape(a.shape)


both("set1d", (A, numbers(4, seed=12)), _put_1d, (12,))


# Convolutions, pooling, scaling

_LINE, _KERNEL = numbers(2, 12, seed=13), numbers(3, 2, 5, seed=14)  # channels, length; out, in, width


def _conv_1d(kernel: Array, line: Array, stride: int = 1, pad: int = 0, dilation: int = 1) -> Array:
    padded = np.pad(line, ((0, 0), (pad, pad)))
    width = (kernel.shape[2] - 1) * dilation + 1
    starts = range(0, padded.shape[1] - width + 1, stride)
    return np.stack([np.einsum("oiw,iw->o", kernel, padded[:, s : s + width : dilation]) for s in starts], 1)


case(
    "conv1d",
    (_KERNEL.astype(np.float16), _LINE),
    lambda k, x: _conv_1d(k.astype(np.float32), x, 2, 2, 2),
    lambda ctx, k, x: ctx.conv1d(k, x, 2, 2, 2),
    5e-3,
)
case(
    "conv1dPh",
    (_KERNEL.astype(np.float16), _LINE),
    lambda k, x: _conv_1d(k.astype(np.float32), x, 1, 2, 1),
    lambda ctx, k, x: ctx.conv1dPh(k, x, 1, 1),
    5e-3,
)
_IMAGE, _FILTER = numbers(2, 6, 7, seed=15), numbers(3, 2, 3, 3, seed=16)  # channels, height, width; out, in, h, w


def _conv_2d(f: Array, image: Array, stride: int = 1, pad: int = 0) -> Array:
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    h, w = f.shape[2:]
    rows, columns = range(0, padded.shape[1] - h + 1, stride), range(0, padded.shape[2] - w + 1, stride)
    return np.stack(
        [[np.einsum("oihw,ihw->o", f, padded[:, y : y + h, x : x + w]) for x in columns] for y in rows], 0
    ).transpose(2, 0, 1)


for _name in ("conv2d", "conv2dDirect"):
    case(
        _name,
        (_FILTER.astype(np.float16) if _name == "conv2d" else _FILTER, _IMAGE),
        lambda f, x: _conv_2d(f.astype(np.float32), x, 2, 1),
        lambda ctx, f, x, n=_name: getattr(ctx, n)(f, x, 2, 2, 1, 1, 1, 1),
        5e-3,
    )
case(
    "conv2dS1Ph",
    (_FILTER.astype(np.float16), _IMAGE),
    lambda f, x: _conv_2d(f.astype(np.float32), x, 1, 1),
    tolerance=5e-3,
)
case(
    "conv2dSkP0",
    (_FILTER.astype(np.float16), numbers(2, 6, 6, seed=17)),
    lambda f, x: _conv_2d(f.astype(np.float32), x, 3, 0),
    tolerance=5e-3,
)


def _im2col(f: Array, image: Array) -> Array:
    h, w = f.shape[2:]
    return np.stack(
        [
            [image[:, y : y + h, x : x + w].reshape(-1) for x in range(image.shape[2] - w + 1)]
            for y in range(image.shape[1] - h + 1)
        ]
    )


case(
    "im2col",
    (_FILTER, _IMAGE),
    _im2col,
    lambda ctx, f, x: ctx.im2col(f, x, 1, 1, 0, 0, 1, 1, True, Ggml.Type.F32),
)


def _transposed_1d(kernel: Array, line: Array) -> Array:
    channels, out, width = kernel.shape
    made = np.zeros((out, (line.shape[1] - 1) * 2 + width), np.float32)
    for c in range(channels):
        for x in range(line.shape[1]):
            made[:, 2 * x : 2 * x + width] += kernel[c] * line[c, x]
    return made


case(
    "convTranspose1d",
    (numbers(2, 3, 4, seed=18), _LINE),
    _transposed_1d,
    lambda ctx, k, x: ctx.convTranspose1d(k, x, 2, 0, 1),
    5e-3,
)
case(
    "pool1d",
    (WIDE,),
    lambda x: x.reshape(3, 4, 2).max(2),
    lambda ctx, a: ctx.pool1d(a, Ggml.OpPool.MAX, 2, 2, 0),
)
case(
    "pool2d",
    (_SQUARE,),
    lambda x: x.reshape(2, 2, 2, 2).mean((1, 3)),
    lambda ctx, a: ctx.pool2d(a, Ggml.OpPool.AVG, 2, 2, 2, 2, 0.0, 0.0),
)
case(
    "upscale",
    (A,),
    lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1),
    lambda ctx, a: ctx.upscale(a, 2, Ggml.ScaleMode.NEAREST),
)
case(
    "upscaleExt",
    (A,),
    lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1),
    lambda ctx, a: ctx.upscaleExt(a, 12, 6, 1, 1, Ggml.ScaleMode.NEAREST),
)
case(
    "interpolate",
    (A,),
    lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1),
    lambda ctx, a: ctx.interpolate(a, 12, 6, 1, 1, Ggml.ScaleMode.NEAREST),
)


# Transformers

_HEADS = numbers(5, 2, 8, seed=19)  # tokens, heads, width
_PLACES = np.array([0, 1, 2, 3, 10], np.int32)


def rotated(x: Array, places: Array, base: float = 10000.0, neox: bool = False, sign: float = 1.0) -> Array:
    half = x.shape[-1] // 2
    angles = sign * places[:, None, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = (x[..., :half], x[..., half:]) if neox else (x[..., ::2], x[..., 1::2])
    one, two = first * cos - second * sin, first * sin + second * cos
    if neox:
        return np.concatenate([one, two], -1)
    return np.stack([one, two], -1).reshape(x.shape)


for _name in ("rope", "ropeInplace"):
    case(_name, (_HEADS, _PLACES), rotated, lambda ctx, a, b, n=_name: getattr(ctx, n)(a, b, 8, 0), 1e-4)
_YARN = (1.0, 0.0, 1.0, 32.0, 1.0)
for _name, _sign in (("ropeExt", 1.0), ("ropeExtInplace", 1.0), ("ropeExtBack", -1.0)):
    case(
        _name,
        (_HEADS, _PLACES),
        lambda x, p, s=_sign: rotated(x, p, 500.0, True, s),
        lambda ctx, a, b, n=_name: getattr(ctx, n)(a, b, None, 8, 2, 0, 500.0, *_YARN),
        1e-4,
    )
for _name in ("ropeCustom", "ropeCustomInplace"):
    case(
        _name,
        (_HEADS, _PLACES),
        lambda x, p: rotated(x, p, 500.0, True),
        lambda ctx, a, b, n=_name: getattr(ctx, n)(a, b, 8, 2, 0, 500.0, *_YARN),
        1e-4,
    )


def _attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    scores = softmax(np.einsum("hqd,hkd->hqk", q, k) * 0.25 + mask.astype(np.float32))
    return np.einsum("hqk,hkd->qhd", scores, v)


_MASK = np.triu(np.full((4, 4), -np.inf, np.float16), 1)
case(
    "flashAttnExt",
    (numbers(2, 4, 32, seed=20), numbers(2, 4, 32, seed=21), numbers(2, 4, 32, seed=22), _MASK),
    _attention,
    lambda ctx, q, k, v, m: ctx.flashAttnExt(q, k, v, m, 0.25, 0.0, 0.0),
    1e-2,
)


def _timesteps(t: Array) -> Array:
    frequencies = np.exp(-math.log(100) * np.arange(4) / 4)
    angles = t[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


case("timestepEmbedding", (numbers(3, seed=23),), _timesteps, lambda ctx, t: ctx.timestepEmbedding(t, 8, 100))


# Training


def _sgd(a: Array, g: Array, p: Array) -> Array:
    return a * (1 - p[0] * p[1]) - p[0] * g


case(
    "optStepSgd",
    (A, B, np.array([0.1, 0.01], np.float32)),
    _sgd,
    lambda ctx, a, g, p: ctx.optStepSgd(a.setParam(), g, p),
)

# No row yet. This list may only become shorter.
UNTESTED = {
    "addRelPos",
    "addRelPosInplace",
    "col2im1d",
    "conv1dDw",
    "conv1dDwPh",
    "conv2dDw",
    "conv2dDwDirect",
    "conv3d",
    "conv3dDirect",
    "convTranspose2dP0",
    "crossEntropyLossBack",
    "dsv4HcComb",
    "dsv4HcPost",
    "dsv4HcPre",
    "dsv4HcPreGated",
    "flashAttnBack",
    "gatedDeltaNet",
    "gatedLinearAttn",
    "getRelPos",
    "im2col3d",
    "im2colBack",
    "lightningIndexer",
    "optStepAdamw",
    "pool2dBack",
    "ropeMulti",
    "ropeMultiBack",
    "ropeMultiInplace",
    "rwkvWkv6",
    "rwkvWkv7",
    "ssmConv",
    "ssmScan",
    "swigluClamp",
    "winPart",
    "winUnpart",
}
