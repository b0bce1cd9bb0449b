"""Samplers: what they pick, compared with numpy; chains and who owns their members."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from llama_cffi import Batch, ClosedError, Context, Model, Sampler, ffi, lib, tokenize


@pytest.fixture
def decoded(ctx: Context, tiny: Model) -> Context:
    ctx.decode(Batch.getOne(tokenize(tiny.vocab, "Once upon a time")))
    return ctx


def logits(ctx: Context) -> np.ndarray:
    n = ctx.getModel().vocab.nTokens
    return np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(ctx._c, -1), 4 * n), np.float32).copy()


def test_greedy_picks_the_largest(decoded: Context) -> None:
    with Sampler.initGreedy() as sampler:
        assert sampler.sample(decoded, -1) == int(logits(decoded).argmax())


def test_dist_follows_the_probabilities(decoded: Context) -> None:
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initTopK(4))
    chain.chainAdd(Sampler.initTemp(0.5))
    chain.chainAdd(Sampler.initDist(11))
    values = logits(decoded)
    top = np.argsort(values)[-4:]
    weights = np.exp((values[top] - values[top].max()) / 0.5)
    expected = dict(zip(top.tolist(), weights / weights.sum(), strict=True))
    counts = dict.fromkeys(expected, 0)
    for _ in range(4000):
        counts[chain.sample(decoded)] += 1  # a KeyError is a token outside of the top four
    for token, probability in expected.items():
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.04)


def test_top_p_keeps_the_head(decoded: Context) -> None:
    values = logits(decoded).astype(np.float64)
    order = np.argsort(values)[::-1]
    probabilities = np.exp(values[order] - values.max())
    probabilities /= probabilities.sum()
    p = float(probabilities[:3].sum() - 1e-4)
    chain = Sampler.chainInit(Sampler.ChainParams(noPerf=True))
    chain.chainAdd(Sampler.initTopP(p, 1))
    chain.chainAdd(Sampler.initDist(3))
    assert {chain.sample(decoded) for _ in range(300)} <= set(order[:3].tolist())


def test_penalties_push_the_last_token_away(decoded: Context) -> None:
    best = int(logits(decoded).argmax())
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initPenalties(8, 1.0, 0.0, 1000.0))
    chain.chainAdd(Sampler.initGreedy())
    assert chain.sample(decoded) == best  # and accepts it
    assert chain.sample(decoded) != best
    chain.reset()
    assert chain.sample(decoded) == best
    chain.reset()
    chain.accept(best)
    assert chain.sample(decoded) != best


def test_last_n_of_minus_one_is_the_context_size(tiny: Model) -> None:
    """Within the context size an accepted token counts; beyond it, it does not. So too when accepted beforehand."""
    with Context.initFromModel(tiny, Context.Params(nCtx=256)) as ctx:
        ctx.decode(Batch.getOne([5, 6, 7]))
        best = int(logits(ctx).argmax())
        for others, penalized in ((255, True), (256, False)):
            chain = Sampler.chainInit()
            chain.chainAdd(Sampler.initTopK(0))
            chain.chainAdd(Sampler.initPenalties(-1, 1.0, 0.0, 1000.0))
            chain.chainAdd(Sampler.initGreedy())
            chain.accept(best)
            for i in range(others):
                chain.accept(best + 1 + i if best < 16000 else best - 1 - i)
            twin = Sampler.clone(chain)
            assert (chain.sample(ctx) != best) == penalized
            assert (twin.sample(ctx) != best) == penalized
            assert [chain.chainGet(i).name for i in range(3)] == [twin.chainGet(i).name for i in range(3)]
            assert chain.chainGet(1).name == "penalties"
        alone = Sampler.initPenalties(-1, 1.1)
        with pytest.raises(ValueError, match="picked.*initDist"):
            alone.sample(ctx)


def test_chain_members(decoded: Context) -> None:
    chain, top_k, greedy = Sampler.chainInit(), Sampler.initTopK(40), Sampler.initGreedy()
    chain.chainAdd(top_k)
    chain.chainAdd(greedy)
    assert (chain.chainCount, chain.name) == (2, "chain")
    assert chain.chainGet(0) is top_k
    with pytest.raises(ValueError, match="belongs to a chain"):
        chain.chainAdd(top_k)
    with pytest.raises(ValueError, match="chainRemove it first"):
        top_k.free()
    assert chain.chainRemove(0) is top_k
    assert chain.chainCount == 1
    top_k.free()
    token = chain.sample(decoded)
    Sampler.free(chain)
    with pytest.raises(ClosedError, match="its chain was freed"):
        greedy.sample(decoded)
    with Sampler.initGreedy() as other:
        assert other.sample(decoded) == token


def test_chains_inside_chains(decoded: Context) -> None:
    outer, inner = Sampler.chainInit(), Sampler.chainInit()
    inner.chainAdd(Sampler.initGreedy())
    outer.chainAdd(inner)
    with pytest.raises(ValueError, match="chain.*itself"):
        inner.chainAdd(outer)
    with pytest.raises(ValueError, match="chain.*itself"):
        outer.chainAdd(outer)
    assert outer.sample(decoded) == int(logits(decoded).argmax())


def test_chains_are_not_nested_without_end() -> None:
    deepest = chain = Sampler.chainInit()
    for _ in range(31):
        outer = Sampler.chainInit()
        outer.chainAdd(chain)
        chain = outer
    for outer, inner in ((Sampler.chainInit(), chain), (deepest, Sampler.chainInit())):
        with pytest.raises(ValueError, match="32.*got 33"):
            outer.chainAdd(inner)
    deepest.chainAdd(Sampler.initGreedy())
    assert chain._can_pick()


def test_a_member_keeps_its_chain_alive(decoded: Context) -> None:
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initGreedy())
    member = chain.chainGet(0)
    del chain
    gc.collect()
    assert member.sample(decoded) == int(logits(decoded).argmax())


def test_sample_refuses_what_would_kill(ctx: Context) -> None:
    with Sampler.initGreedy() as greedy, Sampler.initTopK(5) as top_k, Sampler.chainInit() as empty:
        with pytest.raises(IndexError, match="decode a batch first"):
            greedy.sample(ctx, -1)
        ctx.decode(Batch.getOne([5, 6]))
        with pytest.raises(IndexError, match="entry 0"):
            greedy.sample(ctx, 0)
        with pytest.raises(IndexError, match="entry 99"):
            greedy.sample(ctx, 99)
        for sampler in (top_k, empty):
            with pytest.raises(ValueError, match="initDist or initGreedy"):
                sampler.sample(ctx)
        for call in (
            lambda: greedy.chainAdd(Sampler.initTopK(1)),
            lambda: greedy.chainGet(0),
            lambda: greedy.chainCount,
            lambda: greedy.chainRemove(0),
        ):
            with pytest.raises(TypeError, match="expected a chain.*greedy.*Sampler.chain"):
                call()
        for index in (-1, 0):
            with pytest.raises(IndexError, match="0 members"):
                empty.chainGet(index)
            with pytest.raises(IndexError, match="0 members"):
                empty.chainRemove(index)
        with pytest.raises(TypeError, match="expected a Sampler"):
            empty.chainAdd(None)  # type: ignore[arg-type]
        assert greedy.sample(ctx) >= 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampler.initPenalties(1 << 30),
        lambda: Sampler.initPenalties(-2),
        lambda: Sampler.initPenalties(64, 0.0),
        lambda: Sampler.initPenalties(64, float("nan")),
        lambda: Sampler.initPenalties(64, 1.0, float("inf")),
        lambda: Sampler.initTopP(float("nan")),
        lambda: Sampler.initTopP(0.5, -1),
        lambda: Sampler.initDist(-1),
        lambda: Sampler.initDist(1 << 32),
        lambda: Sampler.initTemp(float("inf")),
    ],
)
def test_parameters_that_cannot_be(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
