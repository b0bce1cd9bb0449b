"""Sampling ignores candidates that cannot be picked, and picks the same tokens as llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from llama_cffi import Batch, Context, Sampler, lib

Array = npt.NDArray[np.float32]

chain, greedy, top_k, penalties = Sampler.chain, Sampler.initGreedy, Sampler.initTopK, Sampler.initPenalties


# name: (constructor, n if only the n largest logits can be picked, 0 if any)
NARROW: dict[str, tuple[Callable[[], Sampler], int]] = {
    "greedy": (greedy, 1),
    "a chain of greedy": (lambda: chain(greedy()), 1),
    "a chain in a chain": (lambda: chain(chain(penalties(3, 1.5)), greedy()), 4),
    "penalties, greedy": (lambda: chain(penalties(64, 1.3, 0.1, 0.2), greedy()), 65),
    "top-k": (lambda: chain(top_k(40), Sampler.initTopP(0.9), Sampler.initTemp(0.8), Sampler.initDist(3)), 40),
    "penalties, top-k": (lambda: chain(penalties(20, 1.1), top_k(5), Sampler.initDist(3)), 25),
    "penalties twice": (lambda: chain(penalties(9, 1.1), penalties(4, 1.0, 2.0), greedy()), 14),
    "penalties that are off": (lambda: chain(penalties(0, 1.1), top_k(3), Sampler.initDist(3)), 3),
}
WIDE: dict[str, Callable[[], Sampler]] = {
    "dist": lambda: Sampler.initDist(3),
    "top-k of all": lambda: chain(top_k(0), Sampler.initDist(3)),
    "temperature first": lambda: chain(Sampler.initTemp(0.5), top_k(3), Sampler.initDist(3)),
    "top-p first": lambda: chain(Sampler.initTopP(0.5), top_k(3), Sampler.initDist(3)),
    "a penalty that raises": lambda: chain(penalties(4, 0.5), greedy()),
    "a frequency that raises": lambda: chain(penalties(4, 1.0, -1.0), greedy()),
    "a presence that raises": lambda: chain(penalties(4, 1.0, 0.0, -1.0), greedy()),
    "a bias": lambda: chain(Sampler.initLogitBias(32000, {5: 50.0}), greedy()),
}


@pytest.fixture
def decoded(ctx: Context) -> Context:
    ctx.decode(Batch.getOne([1]))
    return ctx


def distinct(rng: np.random.Generator, n: int) -> Array:
    """Numbers without equals, of which some are -inf."""
    values = rng.permutation(np.linspace(-9, 9, n, dtype=np.float32))
    values[rng.permutation(n)[: n // 3]] = -np.inf
    return values


def orders(n: int) -> Iterator[Array]:
    """Distinct logits in orders that are hard on a search."""
    rng = np.random.default_rng(1)
    for _ in range(12):
        yield distinct(rng, n)
    rising = np.linspace(-5, 5, n, dtype=np.float32)
    yield rising
    yield rising[::-1]
    yield np.concatenate([rising[::2], rising[1::2]])
    yield np.roll(rising, n // 2)


def pick(decoded: Context, ours: Sampler, theirs: Sampler, logits: Array) -> tuple[int, int]:
    np.asarray(decoded.getLogitsIth(-1))[:] = logits
    return ours.sample(decoded), lib.llama_sampler_sample(theirs._c, decoded._c, -1)


@pytest.mark.parametrize("name", [*NARROW])
def test_what_is_picked_is_what_llama_cpp_picks(decoded: Context, name: str) -> None:
    make, top_n = NARROW[name]
    n = decoded.getModel().vocab.nTokens
    with make() as ours, make() as theirs:
        picks = [pick(decoded, ours, theirs, logits) for logits in orders(n)]
        assert ours._top_n == top_n
    assert [ours for ours, _ in picks] == [theirs for _, theirs in picks]
    assert len({ours for ours, _ in picks}) > 4


@pytest.mark.parametrize("name", [*WIDE])
def test_what_can_pick_any_token_sees_them_all(decoded: Context, name: str) -> None:
    n = decoded.getModel().vocab.nTokens
    with WIDE[name]() as ours, WIDE[name]() as theirs:
        picks = [pick(decoded, ours, theirs, logits) for logits in orders(n)]
        assert ours._top_n == 0
    assert [ours for ours, _ in picks] == [theirs for _, theirs in picks]


@pytest.mark.parametrize("name", ["greedy", "penalties, greedy", "penalties twice"])
def test_among_equals_the_first_is_picked(decoded: Context, name: str) -> None:
    rng = np.random.default_rng(2)
    n = decoded.getModel().vocab.nTokens
    make, _ = NARROW[name]
    with make() as ours, make() as theirs:
        for _ in range(30):
            first, second = pick(decoded, ours, theirs, rng.integers(0, 3, n).astype(np.float32))
            assert first == second


def test_among_equals_top_k_keeps_some_of_the_largest(decoded: Context) -> None:
    rng = np.random.default_rng(3)
    n = decoded.getModel().vocab.nTokens
    with chain(top_k(10), Sampler.initDist(3)) as sampler:
        for _ in range(30):
            logits = rng.integers(0, 9, n).astype(np.float32)
            np.asarray(decoded.getLogitsIth(-1))[:] = logits
            assert logits[sampler.sample(decoded)] == 8


@pytest.mark.parametrize("name", ["greedy", "top-k", "penalties, greedy", "dist"])
@pytest.mark.parametrize("place", [0, 7, 16, 31_983, 31_999])
def test_a_nan_is_found_wherever_it_is(decoded: Context, name: str, place: int) -> None:
    make = NARROW[name][0] if name in NARROW else WIDE[name]
    np.asarray(decoded.getLogitsIth(-1))[place] = np.nan
    with make() as sampler, pytest.raises(ValueError, match="NaN"):
        sampler.sample(decoded)


@pytest.mark.parametrize("finite", [1, 3, 39, 40, 41])
def test_few_logits_above_minus_infinity(decoded: Context, finite: int) -> None:
    n = decoded.getModel().vocab.nTokens
    logits = np.full(n, -np.inf, dtype=np.float32)
    logits[np.random.default_rng(4).permutation(n)[:finite]] = np.linspace(1, 2, finite, dtype=np.float32)
    with NARROW["top-k"][0]() as ours, NARROW["top-k"][0]() as theirs:
        first, second = pick(decoded, ours, theirs, logits)
    assert first == second and np.isfinite(logits[first])


def test_a_chain_that_changes_is_looked_at_again(decoded: Context) -> None:
    with chain(greedy()) as sampler:
        sampler.sample(decoded)
        assert sampler._top_n == 1
        sampler.chainRemove(0).free()
        sampler.chainAdd(top_k(7))
        sampler.chainAdd(Sampler.initDist(1))
        sampler.sample(decoded)
        assert sampler._top_n == 7
