"""Gradients of every operation that has one, against finite differences of ggml's own forward computation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llama_cffi import Ggml

Net = Callable[[Ggml.Context, Ggml.Tensor, Ggml.Tensor], Ggml.Tensor]

F32, I32 = Ggml.Type.F32, Ggml.Type.I32
STEP = 2.0**-7
ROWS, COLUMNS = 3, 4

# What is trained are `a` and `b`, both of shape (3, 4), with elements between 0.3 and 1.7, none near a kink.
NETS: dict[str, Net] = {
    "dup": lambda c, a, b: c.dupData(a),
    "add": lambda c, a, b: c.add(a, b),
    "add, broadcast": lambda c, a, b: c.add(a, c.view(b, COLUMNS, 0)),
    "add1": lambda c, a, b: c.add1(a, c.tensor([0.5])),  # ggml's gradient of the number itself is a mean, not a sum
    "acc": lambda c, a, b: c.acc(a, c.cont(c.view(b, 2, 2, 16, 0)), 16, 48, 48, 4),
    "sub": lambda c, a, b: c.sub(a, b),
    "mul": lambda c, a, b: c.mul(a, b),
    "mul, broadcast": lambda c, a, b: c.mul(a, c.view(b, COLUMNS, 16)),
    "div": lambda c, a, b: c.div(a, b),
    "sqr": lambda c, a, b: c.sqr(a),
    "sqrt": lambda c, a, b: c.sqrt(a),
    "log": lambda c, a, b: c.log(a),
    "sin": lambda c, a, b: c.sin(a),
    "cos": lambda c, a, b: c.cos(a),
    "sum": lambda c, a, b: c.mul(c.sum(a), c.sum(b)),
    "sumRows": lambda c, a, b: c.sumRows(c.mul(a, b)),
    "mean": lambda c, a, b: c.mean(c.sqr(a)),
    "repeat": lambda c, a, b: c.repeat(c.view(a, COLUMNS, 0), b),
    "repeatBack": lambda c, a, b: c.repeatBack(a, c.tensor(np.zeros((1, COLUMNS), np.float32))),
    "rmsNorm": lambda c, a, b: c.rmsNorm(a, 1e-6),
    "mulMat": lambda c, a, b: c.mulMat(a, b),
    "scale": lambda c, a, b: c.scale(a, -1.5),
    "scaleBias": lambda c, a, b: c.scaleBias(a, 2.0, 0.5),
    "set": lambda c, a, b: c.set(a, c.cont(c.view(b, 2, 2, 16, 0)), 16, 48, 48, 4),
    "cpy": lambda c, a, b: c.cpy(a, c.tensor(np.zeros((ROWS, COLUMNS), np.float32))),
    "cont": lambda c, a, b: c.cont(c.transpose(a)),
    "reshape": lambda c, a, b: c.reshape(a, 6, 2),
    "view": lambda c, a, b: c.view(a, 2, 2, 16, 4),
    "permute": lambda c, a, b: c.cont(c.permute(a, 1, 2, 0, 3)),
    "transpose": lambda c, a, b: c.mulMat(c.cont(c.transpose(a)), c.cont(c.transpose(b))),
    "getRows": lambda c, a, b: c.getRows(a, c.tensor([2, 0, 2], I32)),
    "diagMaskInf": lambda c, a, b: c.softMax(c.diagMaskInf(a, 1)),
    "diagMaskZero": lambda c, a, b: c.diagMaskZero(a, 0),
    "softMax": lambda c, a, b: c.softMax(a),
    "softMaxExt": lambda c, a, b: c.softMaxExt(a, None, 0.5, 0.0),
    "rope": lambda c, a, b: c.rope(c.reshape(a, COLUMNS, 1, ROWS), c.tensor([0, 1, 5], I32), COLUMNS, 0),
    "abs": lambda c, a, b: c.abs(c.sub(a, c.scale(b, 4.0))),
    "sgn": lambda c, a, b: c.mul(c.sgn(a), b),
    "neg": lambda c, a, b: c.neg(a),
    "step": lambda c, a, b: c.mul(c.step(a), b),
    "relu": lambda c, a, b: c.relu(c.sub(a, c.scale(b, 0.93))),
    "silu": lambda c, a, b: c.silu(a),
    "exp": lambda c, a, b: c.exp(a),
    "expm1": lambda c, a, b: c.expm1(a),
    "softplus": lambda c, a, b: c.softplus(a),
    "crossEntropyLoss": lambda c, a, b: c.crossEntropyLoss(a, c.tensor(np.eye(ROWS, COLUMNS, dtype=np.float32))),
    "swigluSplit": lambda c, a, b: c.swigluSplit(a, b),
    "a net": lambda c, a, b: c.mulMat(c.cont(c.transpose(a)), c.relu(c.add(c.mulMat(a, b), c.view(b, ROWS, 0)))),
    "operators": lambda c, a, b: (a * b + 2.0) / b - a,
}
# Their gradients are operations whose arguments nobody checks, so they are not computed.
NOT_OFFERED: dict[str, Net] = {
    "pool2d": lambda c, a, b: c.pool2d(a, Ggml.OpPool.AVG, 2, 1, 2, 1, 0, 0),
    "pool2d, max": lambda c, a, b: c.pool2d(a, Ggml.OpPool.MAX, 2, 1, 2, 1, 0, 0),
    "im2col": lambda c, a, b: c.im2col(
        c.tensor(np.ones((1, 1, 2, 2), np.float32)), c.reshape(a, COLUMNS, ROWS, 1, 1), 1, 1, 0, 0, 1, 1, True, F32
    ),
}


class Trial:
    """A net with a loss: the sum of its elements, each with a weight of its own."""

    def __init__(self, net: Net) -> None:
        rng = np.random.default_rng(11)
        self.ctx = Ggml.Context()
        self.params = [
            self.ctx.tensor(rng.permutation(np.linspace(0.3, 1.7, 12)).reshape(ROWS, COLUMNS).astype(np.float32))
            for _ in range(2)
        ]
        for param in self.params:
            param.setParam()
        result = net(self.ctx, *self.params)
        weights = self.ctx.tensor(rng.normal(size=result.ne[::-1]).astype(np.float32))
        self.loss = self.ctx.sum(self.ctx.mul(self.ctx.cont(result), weights)).setLoss()
        self.graph = self.ctx.newGraph(512, grads=True)
        self.graph.expand(self.loss)

    def value(self) -> float:
        return float(Ggml.compute(self.loss, nThreads=1)[0])

    def slopes(self, param: Ggml.Tensor) -> np.ndarray:
        """The gradient by central differences."""
        elements = param.numpy()
        found = np.zeros_like(elements)
        for place in np.ndindex(elements.shape):
            kept = elements[place]
            values = []
            for sign in (1, -1):
                elements[place] = kept + sign * STEP
                values.append(self.value())
            elements[place] = kept
            found[place] = (values[0] - values[1]) / (2 * STEP)
        return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of add1
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    trial = Trial(NETS[name])
    expected = [trial.slopes(param) for param in trial.params]
    assert any(np.abs(slope).max() > 0.05 for slope in expected)
    Ggml.buildBackwardExpand(trial.ctx, trial.graph)
    trial.graph.reset()
    trial.ctx.graphCompute(trial.graph, 1)
    for param, slope in zip(trial.params, expected, strict=True):
        grad = trial.graph.getGrad(param)
        if grad is None:  # the loss does not depend on it
            assert np.abs(slope).max() < 1e-3
        else:
            np.testing.assert_allclose(grad.numpy(), slope, rtol=0.02, atol=0.004)


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_gradients_that_are_not_computed_say_so(name: str) -> None:
    trial = Trial(NOT_OFFERED[name])
    trial.value()
    Ggml.buildBackwardExpand(trial.ctx, trial.graph)
    with pytest.raises(ValueError, match="not computed here yet"):
        trial.ctx.graphCompute(trial.graph, 1)
