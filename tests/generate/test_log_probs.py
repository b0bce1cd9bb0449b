"""Log-probabilities in C: the same numbers as numpy's, and no numpy."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Batch, Context
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.generation.log_probs import log_probs


def _by_c(logits: np.ndarray, token: int, count: int) -> tuple[float, list[int], list[float]]:
    best, values = ffi.new("int32_t[]", count), ffi.new("double[]", count)
    row = ffi.from_buffer("float[]", logits)
    found = lib.shim_log_probs(row, len(logits), token, count, best, values)
    return found, list(best), list(values)


def _by_numpy(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    return exact - exact.max() - math.log(np.exp(exact - exact.max()).sum())


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 262_144])
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
def test_they_are_numpys(n: int, scale: float) -> None:
    rng = np.random.default_rng(n)
    logits = (rng.standard_normal(n) * scale).astype(np.float32)
    expected = _by_numpy(logits)
    for count in {0, 1, min(5, n), n if n <= 1000 else 50}:
        token = int(rng.integers(n))
        found, best, values = _by_c(logits, token, count)
        assert found == pytest.approx(expected[token], rel=1e-6, abs=1e-6)
        assert best == np.argsort(-logits, kind="stable")[:count].tolist()  # equal ones by number
        assert values == pytest.approx(expected[best].tolist(), rel=1e-6, abs=1e-6)


def test_many_small_probabilities_add_up() -> None:
    """A float would lose them one by one: 2 ** 24 + 1 is 2 ** 24 there."""
    n = 20_000_000
    logits = np.zeros(n, np.float32)
    assert _by_c(logits, 3, 2) == (pytest.approx(-math.log(n), abs=1e-9), [0, 1], [pytest.approx(-math.log(n))] * 2)


def test_equal_logits_are_in_the_order_of_tokens() -> None:
    assert _by_c(np.zeros(9, np.float32), 0, 4)[1] == [0, 1, 2, 3]
    assert _by_c(np.array([1, 2, 1, 2], np.float32), 0, 4)[1] == [1, 3, 0, 2]


def test_what_is_impossible() -> None:
    infinite = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    found, best, values = _by_c(infinite, 0, 3)
    assert found == -math.inf and best == [1, 3, 0] and values[:2] == pytest.approx([-math.log(2)] * 2)
    nan = np.array([0, np.nan, 1, np.nan], np.float32)
    found, best, values = _by_c(nan, 0, 4)
    assert math.isnan(found) and best == [2, 0, 1, 3] and all(map(math.isnan, values))
    zeros = np.zeros(4, np.float32)
    for token in (-1, 4):
        assert math.isnan(_by_c(zeros, token, 0)[0])


def test_of_an_output_of_a_context(ctx: Context) -> None:
    ctx.decode(Batch.getOne([1, 2, 3]))
    expected = _by_numpy(np.array(ctx.getLogitsIth(-1)))
    found, alternatives = log_probs(ctx, 7, 3)
    assert found == pytest.approx(expected[7], abs=1e-6)
    assert [other.token for other in alternatives] == np.argsort(-expected)[:3].tolist()
    assert [other.logProb for other in alternatives] == pytest.approx(np.sort(expected)[-3:][::-1].tolist(), abs=1e-6)
    with pytest.raises(IndexError, match="entry 0 "):
        log_probs(ctx, 7, 3, 0)


def test_without_numpy(tiny_path: Path) -> None:
    program = """
import sys
sys.modules["numpy"] = None
from llama_cffi import Context, Engine, Generation, Model
model = Model.load(sys.argv[1])
with Context.initFromModel(model, Context.Params(nCtx=128, nThreads=1)) as ctx:
    steps = list(Generation(ctx, "Once", maxTokens=4, logProbs=2).steps())
assert all(step.logProb < 0 and len(step.alternatives) == 2 for step in steps), steps
with Engine(model, nCtx=128, nThreads=1) as engine:
    steps = list(engine.submit("Once", maxTokens=4, logProbs=2).steps())
assert all(step.logProb < 0 and len(step.alternatives) == 2 for step in steps), steps
"""
    result = subprocess.run([sys.executable, "-c", program, str(tiny_path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
