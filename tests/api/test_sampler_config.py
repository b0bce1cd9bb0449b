"""Samplers that a context runs together with the model."""

from __future__ import annotations

import gc

import pytest

from llama_cffi import Batch, ClosedError, Context, Model, Sampler, SamplerSeqConfig, TokenDataArray

PROMPT = [5, 600, 7000]


def chain_of(*members: Sampler) -> Sampler:
    chain = Sampler.chainInit()
    for member in members:
        chain.chainAdd(member)
    return chain


def params(samplers: object, **more: int) -> Context.Params:
    made = Context.Params(nCtx=256, nOutputsMaxPerSeq=1, **more)
    made.samplers = samplers  # type: ignore[assignment]
    return made


def generate(ctx: Context, sampler: Sampler, n: int = 12) -> list[int]:
    batch, found = PROMPT, []
    for _ in range(n):
        ctx.decode(Batch.getOne(batch))
        found.append(sampler.sample(ctx))
        batch = found[-1:]
    return found


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
@pytest.mark.parametrize("kind", ["greedy", "dist", "penalties", "half", "custom"])
def test_the_same_tokens_as_afterwards(tiny: Model, kind: str) -> None:
    class First:
        def apply(self, candidates: TokenDataArray) -> None:
            candidates.sort()
            candidates.selected = 0

    def make() -> Sampler:
        if kind == "greedy":
            return chain_of(Sampler.initGreedy())
        if kind == "dist":
            return chain_of(Sampler.initTopK(20), Sampler.initTemp(0.8), Sampler.initDist(4))
        if kind == "penalties":
            return chain_of(Sampler.initPenalties(16, 1.0, 0.0, 100.0), Sampler.initGreedy())
        if kind == "half":
            return chain_of(Sampler.initTopK(40), Sampler.initTypical(0.9), Sampler.initGreedy())
        return chain_of(Sampler.initTopK(40), Sampler.init(First()))

    with Context.initFromModel(tiny, Context.Params(nCtx=256)) as ctx:
        expected = generate(ctx, make())
    chain = make()
    with Context.initFromModel(tiny, params([SamplerSeqConfig(0, chain)])) as ctx:
        assert chain.chainGet(0).name.startswith("+")
        found = generate(ctx, chain)
        # The device rounds probabilities in its own way, which moves a pick by chance once in a while.
        assert found[:4] == expected[:4] if kind == "dist" else found == expected


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_penalties_that_were_told_tokens_before(tiny: Model) -> None:
    for last_n in (8, -1):
        with Context.initFromModel(tiny, Context.Params(nCtx=256)) as ctx:
            best = generate(ctx, chain_of(Sampler.initGreedy()), 1)[0]
        chain = chain_of(Sampler.initPenalties(last_n, 1.0, 0.0, 1000.0), Sampler.initGreedy())
        chain.accept(best)
        with Context.initFromModel(tiny, params({0: chain})) as ctx:
            assert generate(ctx, chain, 1) != [best]
            with pytest.raises(IndexError, match="31999"):
                chain.accept(32000)  # would end the process in the next decode


@pytest.mark.needs("llama_context_params.samplers")
def test_samplers_as_a_field(tiny: Model) -> None:
    first, second = chain_of(Sampler.initGreedy()), chain_of(Sampler.initGreedy())
    made = Context.Params(nSeqMax=2)
    made.samplers = [SamplerSeqConfig(0, first), (1, second)]  # type: ignore[assignment]
    assert made.samplers == (SamplerSeqConfig(0, first), SamplerSeqConfig(1, second))
    assert made.nSamplers == 2 and "samplers=" in repr(made)
    made.nSamplers = 1
    with pytest.raises(ValueError, match="between 0 and 2"):
        made.nSamplers = 3
    with Context.initFromModel(tiny, made) as ctx:
        assert not second.closed
        second.chainAdd(Sampler.initGreedy())  # it was not given away
        assert ctx.nSeqMax == 2
    made.samplers = ()
    assert made.nSamplers == 0 and made.samplers == ()


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_a_chain_belongs_to_its_context(tiny: Model) -> None:
    chain = chain_of(Sampler.initGreedy())
    ctx = Context.initFromModel(tiny, params([(0, chain)]))
    other = Context.initFromModel(tiny, Context.Params(nCtx=64))
    other.decode(Batch.getOne(PROMPT))
    for call, words in (
        (lambda: chain.chainAdd(Sampler.initGreedy()), "clone"),
        (lambda: chain.chainRemove(0), "clone"),
        (lambda: Sampler.chainInit().chainAdd(chain), "clone"),
        (lambda: chain.apply(TokenDataArray(3)), "clone"),
        (lambda: chain.sample(other), "another context"),
        (lambda: Context.initFromModel(tiny, params([(0, chain)])), "once"),
        (lambda: other.setSampler(0, chain), "once"),
        (chain.free, "free the context first"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    twin = chain.clone()
    twin.apply(TokenDataArray(3))
    assert twin.sample(other) >= 0
    ctx.free()
    with pytest.raises(ValueError, match="another context"):
        chain.sample(other)
    chain.free()


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_the_context_keeps_its_chains(tiny: Model) -> None:
    ctx = Context.initFromModel(tiny, params([(0, chain_of(Sampler.initGreedy()))]))
    gc.collect()
    ctx.decode(Batch.getOne(PROMPT))
    with Sampler.initGreedy() as greedy:
        assert greedy.sample(ctx) >= 0
    ctx.free()
    gc.collect()


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_a_vocabulary_of_a_chain_that_was_given(tiny_path: object) -> None:
    model = Model.load(tiny_path)  # type: ignore[arg-type]
    chain = chain_of(Sampler.initGrammar(model.vocab, 'root ::= "yes" | "no"'), Sampler.initGreedy())
    ctx = Context.initFromModel(model, params([(0, chain)]))
    assert {model.vocab.tokenToPiece(t) for t in generate(ctx, chain, 1)} <= {"y", "ye", "yes", "n", "no"}
    model.free()
    assert ctx.closed and chain.closed
    with pytest.raises(ClosedError, match="model was freed"):
        chain.reset()


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_set_sampler(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nOutputsMaxPerSeq=1)) as ctx:
        plain = generate(ctx, chain_of(Sampler.initGreedy()))
        ctx.getMemory().clear(True)
        chain = chain_of(Sampler.initPenalties(-1, 1.0, 0.0, 100.0), Sampler.initGreedy())
        assert ctx.setSampler(0, chain) is True
        found = generate(ctx, chain)
        assert len(set(found)) == len(found)
        assert ctx.setSampler(0, None) is True
        ctx.getMemory().clear(True)
        assert generate(ctx, chain_of(Sampler.initGreedy())) == plain
        with pytest.raises(ValueError, match="between 0 and 0"):
            ctx.setSampler(1, None)


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_what_cannot_be(tiny: Model) -> None:
    chain = chain_of(Sampler.initGreedy())
    inner = chain_of(Sampler.initGreedy())
    outer = chain_of(inner)
    closed = chain_of(Sampler.initGreedy())
    wide = chain_of(Sampler.initLogitBias(99, {1: 1.0}), Sampler.initGreedy())
    for samplers, error, words in (
        ([(0, Sampler.initGreedy())], TypeError, "greedy.*Sampler.chain"),
        ([(0, Sampler.chainInit())], ValueError, "empty"),
        ([(0, None)], TypeError, "NoneType"),
        ([("0", chain)], TypeError, "seqId.*got '0'"),
        ([(-1, chain)], ValueError, "seqId.*0, got -1"),
        ([(0, chain), (0, inner)], ValueError, "two samplers"),
        ([(0, chain), (1, chain)], ValueError, "one sequence"),
    ):
        with pytest.raises(error, match=words):
            params(samplers)
    for samplers, error, words in (
        ([(1, chain)], ValueError, "0 and 0, got 1.*nSeqMax"),
        ([(0, inner)], ValueError, "inside another chain"),
        ([(0, wide)], ValueError, "99 tokens"),
        ([(0, chain_of(Sampler.initTopK(99_999), Sampler.initGreedy()))], ValueError, "99999.*32000"),
        ([(0, chain_of(*map(Sampler.initTopK, (5, 6))))], ValueError, r"initTopK\(6\).*at most 5"),
    ):
        made = params(samplers)
        with pytest.raises(error, match=words):
            Context.initFromModel(tiny, made)
    made = params([(0, closed)])
    closed.free()
    with pytest.raises(ClosedError):
        Context.initFromModel(tiny, made)
    assert outer.chainCount == 1
    with Context.initFromModel(tiny, params([(0, chain)])) as ctx:  # refused before, it is still free to go
        assert generate(ctx, chain, 1)
