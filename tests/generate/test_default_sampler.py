"""`defaultSampler` makes a chain of the usual numbers, in llama.cpp's order."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llama_cffi import Context, Generation, GrammarError, Model, Sampler, defaultSampler

PROMPT = "The quick brown fox jumps over the lazy dog. The quick brown fox"
END = ["top-k", "top-p", "min-p", "temp", "dist"]
FULL: dict[str, Any] = {
    "logitBias": {5: 1.0},
    "grammar": 'root ::= "a"*',
    "repeatPenalty": 1.1,
    "dryMultiplier": 0.8,
    "typicalP": 0.9,
    "xtcProbability": 0.5,
}


def names(chain: Sampler) -> list[str]:
    return [chain.chainGet(i).name.lstrip("?") for i in range(chain.chainCount)]


def write(ctx: Context, sampler: Sampler, n: int = 16) -> list[int]:
    generation = Generation(ctx, PROMPT, maxTokens=n, sampler=sampler)
    generation.result()
    return generation.tokens


def test_the_default_is_as_it_was(ctx: Context) -> None:
    by_hand = Sampler.chain(
        Sampler.initTopK(40), Sampler.initTopP(0.95, 1), Sampler.initMinP(0.05, 1), Sampler.initTemp(0.8)
    )
    by_hand.chainAdd(Sampler.initDist(7))
    assert names(defaultSampler()) == END and names(defaultSampler(0)) == ["greedy"]
    assert write(ctx, defaultSampler(seed=7)) == write(ctx, by_hand) != write(ctx, defaultSampler(seed=8))


def test_all_numbers_in_order(tiny: Model) -> None:
    first = ["logit-bias", "grammar", "penalties", "dry"]
    assert names(defaultSampler(vocab=tiny.vocab, **FULL)) == [
        *first,
        *("top-k", "min-p", "typical", "top-p", "min-p", "xtc", "temp", "dist"),
    ]
    assert names(defaultSampler(0, vocab=tiny.vocab, **FULL)) == [*first, "greedy"]
    assert names(defaultSampler(vocab=tiny.vocab, mirostat=1, **FULL)) == [*first, "temp", "min-p", "mirostat"]
    assert names(defaultSampler(vocab=tiny.vocab, mirostat=2, **FULL)) == [*first, "temp", "mirostat-v2"]


@pytest.mark.parametrize(
    ("options", "members"),
    [
        ({"topK": 3, "topP": 1.0, "minP": 0.0}, lambda v: [Sampler.initTopK(3)]),
        ({"topK": 0, "topP": 0.5, "minP": 0.0}, lambda v: [Sampler.initTopP(0.5)]),
        ({"topK": 0, "topP": 1.0, "minP": 0.3}, lambda v: [Sampler.initMinP(0.3)]),
        ({"topK": 0, "topP": 1.0, "minP": 0.0, "typicalP": 0.4}, lambda v: [Sampler.initTypical(0.4)]),
        (
            {"topK": 40, "topP": 1.0, "minP": 0.0, "presencePenalty": 2.0, "frequencyPenalty": 0.5, "penaltyLastN": 32},
            lambda v: [Sampler.initPenalties(32, 1.0, 0.5, 2.0), Sampler.initTopK(40)],
        ),
        (
            {"topK": 40, "topP": 1.0, "minP": 0.0, "xtcProbability": 1.0, "xtcThreshold": 0.01},
            lambda v: [Sampler.initTopK(40), Sampler.initXtc(1.0, 0.01, 1, 7)],
        ),
        (
            {"topK": 40, "topP": 1.0, "minP": 0.0, "dryMultiplier": 2.0, "drySequenceBreakers": ["."]},
            lambda v: [Sampler.initDry(v, 2.0, seqBreakers=["."]), Sampler.initTopK(40)],
        ),
        (
            {"topK": 40, "topP": 1.0, "minP": 0.0, "logitBias": [(300, 50.0)]},
            lambda v: [Sampler.initLogitBias(v, {300: 50.0}), Sampler.initTopK(40)],
        ),
    ],
)
def test_each_number_is_its_sampler(ctx: Context, options: dict[str, Any], members: Any) -> None:
    vocab = ctx.getModel().vocab
    by_hand = Sampler.chain(*members(vocab), Sampler.initTemp(0.8), Sampler.initDist(7))
    assert write(ctx, defaultSampler(seed=7, vocab=vocab, **options)) == write(ctx, by_hand)


@pytest.mark.parametrize("more", [{}, {"mirostat": 1}, {"mirostat": 2}, {"temperature": 0}, {"typicalP": 0.9}, FULL])
def test_with_a_grammar_and_a_bias(ctx: Context, more: dict[str, Any]) -> None:
    vocab = ctx.getModel().vocab
    grammar = 'root ::= ("yes" | "no") "!"'
    options = {**more, "grammar": grammar, "logitBias": {5: -math.inf}}
    for seed in range(3):
        sampler = defaultSampler(seed=seed, vocab=vocab, **options)
        assert Generation(ctx, PROMPT, maxTokens=16, sampler=sampler).result() in ("yes!", "no!")


def test_the_same_seed_makes_the_same_text(ctx: Context) -> None:
    vocab = ctx.getModel().vocab
    for more in ({}, {"mirostat": 1}, {"mirostat": 2}):
        options = {**FULL, "grammar": None, **more}
        texts = [write(ctx, defaultSampler(1.0, seed, vocab=vocab, **options)) for seed in (5, 5, 6)]
        assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"logitBias": {}}, TypeError, "vocab.*logitBias.*model.vocab"),
        ({"grammar": 'root ::= "a"'}, TypeError, "vocab.*grammar"),
        ({"dryMultiplier": 1.0}, TypeError, "vocab.*dryMultiplier"),
        ({"mirostat": 1}, TypeError, "vocab.*mirostat"),
        ({"mirostat": 3}, ValueError, "mirostat.* 2.*3"),
        ({"mirostat": "2"}, TypeError, "mirostat.*'2'"),
        ({"topP": math.nan}, ValueError, "nan"),
        ({"typicalP": math.nan}, ValueError, "nan"),
        ({"repeatPenalty": 0}, ValueError, "repeatPenalty.*0"),
        ({"xtcProbability": 2}, ValueError, "2"),
        ({"topK": "40"}, TypeError, "40"),
    ],
)
def test_wrong_numbers(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        defaultSampler(**options)


def test_wrong_grammars_and_biases(tiny: Model) -> None:
    with pytest.raises(GrammarError):
        defaultSampler(grammar="root ::= (", vocab=tiny.vocab)
    with pytest.raises(IndexError, match="99999"):
        defaultSampler(logitBias={99999: 1.0}, vocab=tiny.vocab)
