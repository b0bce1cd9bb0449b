"""Speculation: the text is the one without guesses, fewer decodes write it, and nothing is left of wrong guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from llama_cffi import (
    BusyError,
    ChatSession,
    Constraint,
    Context,
    DraftModel,
    Generation,
    Model,
    PromptLookup,
    Sampler,
    StopReason,
    defaultSampler,
    detokenize,
    tokenize,
)
from llama_cffi.generation.prompt_lookup import LookupGuesser
from llama_cffi.generation.speculation import Guesser, Speculation
from tests.generate.conftest import Counted, Kind

PROMPT = "Once upon a time there was a cat. Once upon a time there was a"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 12}}}


def one_thread(size: int = 512) -> Context.Params:
    return Context.Params(nCtx=size, nThreads=1, nThreadsBatch=1)


class Oracle(Speculation):
    """Knows the text, and is wrong in a part of the places."""

    def __init__(self, text: Sequence[int], wrong: float = 0.0, most: int = 6, seed: int = 1) -> None:
        self._most, self._adapts = most, False
        self.text, self.wrong, self.rng = list(text), wrong, Random(seed)

    def _start(self, ctx: Context) -> Guesser:
        return Knows(self)

    def _start_in_engine(self, vocab: object) -> Guesser:
        return Knows(self)


class Knows(Guesser):
    kinds = (0.5,)

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.seen, self.closed = oracle, 0, False

    def add(self, tokens: Sequence[int]) -> None:
        self.seen += len(tokens)

    def find(self) -> int:
        return 0 if self.seen < len(self.oracle.text) else -1

    def guess(self, count: int) -> list[int]:
        right, rng = self.oracle.text[self.seen : self.seen + count], self.oracle.rng
        return [token if rng.random() >= self.oracle.wrong else (token + 1) % 100 for token in right]

    def close(self) -> None:
        self.closed = True


def _without_end(model: Model) -> Sampler:
    vocab = model.vocab
    ends = [(token, -1e9) for token in range(vocab.nTokens) if vocab.isEog(token)]
    return Sampler.initLogitBias(vocab.nTokens, ends)


SAMPLERS: dict[str, Callable[[Model], Sampler]] = {
    "greedy": lambda model: Sampler.chain(_without_end(model), Sampler.initGreedy()),
    "dist": lambda model: Sampler.chain(
        _without_end(model), Sampler.initTopK(40), Sampler.initTemp(0.9), Sampler.initDist(7)
    ),
    "penalties": lambda model: Sampler.chain(
        _without_end(model), Sampler.initPenalties(64, 1.3, 0.1, 0.1), Sampler.initTopP(0.9), Sampler.initDist(11)
    ),
    "mirostat": lambda model: Sampler.chain(_without_end(model), Sampler.initTemp(1.0), Sampler.initMirostatV2(3)),
}


def _written(ctx: Context, prompt: Any, sampler: Sampler, limit: int = 48, **options: Any) -> Generation:
    generation = Generation(ctx, prompt, sampler=sampler, maxTokens=limit, **options)
    generation.result()
    return generation


def _in_memory(ctx: Context, seq: int = 0) -> list[int]:
    tokens: list[int] = ctx.getMemory()._contents[seq].tokens
    assert ctx.getMemory().seqPosMax(seq) == len(tokens) - 1
    return tokens


# The text


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_text_is_the_one_without_guesses(kind: Kind, name: str, wrong: float) -> None:
    with kind.context() as ctx, SAMPLERS[name](kind.model) as sampler:
        tokens = tokenize(kind.model.vocab, PROMPT)
        plain = _written(ctx, tokens, sampler)
        speculation = Oracle(tokens + plain.tokens, wrong)
        found = _written(ctx, tokens, sampler, speculation=speculation)
        assert found.tokens == plain.tokens and found.text == plain.text
        assert found.usage.guessedTokens > 30
        if wrong == 1:
            assert found.usage.acceptedTokens == 0
        elif wrong == 0:
            assert found.usage.acceptedTokens == found.usage.guessedTokens
        assert _in_memory(ctx) == tokens + found.tokens[:-1]
        looked_up = _written(ctx, tokens, sampler, speculation=PromptLookup(1, adapt=False))
        assert looked_up.tokens == plain.tokens
        assert looked_up.usage.guessedTokens > 0 or name == "penalties"


@pytest.mark.parametrize("form", ["grammar", "schema"])
@pytest.mark.parametrize("seed", range(6))
def test_constraints_follow_the_text_and_not_the_guesses(tiny: Model, ctx: Context, form: str, seed: int) -> None:
    constraint = (
        Constraint.fromGbnf('root ::= ("ab" | "cd" [0-9]){3,20} "."')
        if form == "grammar"
        else Constraint.fromJsonSchema(SCHEMA)
    )
    with Sampler.chain(constraint.sampler(tiny.vocab), Sampler.initTemp(1.2), Sampler.initDist(seed)) as sampler:
        tokens = tokenize(tiny.vocab, PROMPT)
        plain = _written(ctx, tokens, sampler)
        for wrong in (0.0, 0.25):
            found = _written(ctx, tokens, sampler, speculation=Oracle(tokens + plain.tokens, wrong, seed=seed))
            assert (found.text, found.stopReason) == (plain.text, plain.stopReason)


@pytest.mark.parametrize("seed", range(3))
def test_a_draft_model_changes_nothing(tiny: Model, ctx: Context, seed: int) -> None:
    with SAMPLERS["dist"](tiny) as sampler, DraftModel(tiny, params=one_thread(), adapt=False) as draft:
        tokens = tokenize(tiny.vocab, PROMPT)[seed:]
        plain = _written(ctx, tokens, sampler)
        found = _written(ctx, tokens, sampler, speculation=draft)
        assert found.tokens == plain.tokens
        assert found.usage.guessedTokens > found.usage.acceptedTokens >= 0


def test_a_draft_that_is_the_model_itself_is_always_right(tiny: Model, ctx: Context, counted: Counted) -> None:
    with SAMPLERS["greedy"](tiny) as sampler, DraftModel(tiny, most=4, params=one_thread(), adapt=False) as draft:
        plain = _written(ctx, PROMPT, sampler, 40)
        found = _written(ctx, PROMPT, sampler, 40, speculation=draft)
        assert found.tokens == plain.tokens
        assert (
            found.usage.acceptedTokens == found.usage.guessedTokens == 31
        )  # 39 after the first: 7 times 4 of 5, 3 of 4
        assert _written(ctx, PROMPT, sampler, 40, speculation=draft).tokens == plain.tokens


def test_log_probabilities_are_those_of_each_token(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)

    def steps(speculation: Speculation | None) -> list[tuple[Any, ...]]:
        with SAMPLERS["greedy"](tiny) as sampler:
            generation = Generation(ctx, tokens, sampler=sampler, maxTokens=24, logProbs=2, speculation=speculation)
            return [
                (step.token, step.logProb, *(each.token for each in step.alternatives)) for step in generation.steps()
            ]

    plain = steps(None)
    found = steps(Oracle(tokens + [step[0] for step in plain], 0.3))
    assert [step[0] for step in found] == [step[0] for step in plain]
    assert [step[2:] for step in found] == [step[2:] for step in plain]
    assert [step[1] for step in found] == pytest.approx([step[1] for step in plain], abs=2e-2)


# How much is computed


def test_right_guesses_save_decodes(tiny: Model, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    compute = Context._compute

    def counting(self: Context, batch: Any, encode: bool) -> int:
        batches.append(batch.nTokens)
        return compute(self, batch, encode)

    tokens = tokenize(tiny.vocab, PROMPT)
    with SAMPLERS["greedy"](tiny) as sampler:
        plain = _written(ctx, tokens, sampler, 41)
        monkeypatch.setattr(Context, "_compute", counting)
        _written(ctx, tokens, sampler, 41, speculation=Oracle(tokens + plain.tokens, most=7))
        # The last token of a prompt is decoded again; 40 tokens follow the first one.
        assert batches == [1, 8, 8, 8, 8, 8]


def test_no_more_is_guessed_than_the_text_may_have(tiny: Model, ctx: Context, counted: Counted) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)
    with SAMPLERS["greedy"](tiny) as sampler:
        plain = _written(ctx, tokens, sampler, 20)
        for limit in range(1, 8):
            before = counted.tokens
            found = _written(ctx, tokens, sampler, limit, speculation=Oracle(tokens + plain.tokens, most=100))
            assert found.tokens == plain.tokens[:limit]
            assert counted.tokens - before == limit  # one of the prompt, and all but the last one
            assert found.usage.guessedTokens == max(limit - 2, 0)


# Ends


def test_what_ends_a_text_among_guesses(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)
    with SAMPLERS["greedy"](tiny) as sampler:
        plain = _written(ctx, tokens, sampler, 40)
        known = tokens + plain.tokens
        text = detokenize(tiny.vocab, plain.tokens)
        for options in ({"stop": [text[20:24]]}, {"stopTokens": [plain.tokens[9]]}):
            expected = _written(ctx, tokens, sampler, 40, **options)
            found = _written(ctx, tokens, sampler, 40, speculation=Oracle(known), **options)
            assert (found.text, found.tokens, found.stopReason) == (expected.text, expected.tokens, expected.stopReason)
            assert len(_in_memory(ctx)) <= len(tokens) + len(found.tokens)
        chain = Sampler.chain(Sampler.initLogitBias(tiny.vocab.nTokens, [(tiny.vocab.eos, 0.0)]), Sampler.initGreedy())
        with chain:
            assert (
                _written(ctx, tokens, chain, 40, speculation=Oracle(known)).text
                == _written(ctx, tokens, chain, 40).text
            )


def test_a_generation_that_is_left_takes_its_guesses_back(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)
    with SAMPLERS["greedy"](tiny) as sampler:
        plain = _written(ctx, tokens, sampler, 40)
        oracle = Oracle(tokens + plain.tokens, most=20)
        for count in (1, 2, 3, 9, 25):
            with Generation(ctx, tokens, sampler=sampler, maxTokens=40, speculation=oracle) as generation:
                steps = generation.steps()
                for _ in range(count):
                    next(steps)
            assert generation.stopReason is StopReason.CANCELLED
            assert generation.tokens == plain.tokens[:count]  # those that were asked for, not what was guessed
            assert _in_memory(ctx) == (tokens + plain.tokens)[: len(tokens) + count - 1]
        assert _written(ctx, tokens, sampler, 40).tokens == plain.tokens


def test_the_context_window(tiny: Model) -> None:
    params = Context.Params(nCtx=256, nThreads=1, nThreadsBatch=1)
    with Context.initFromModel(tiny, params) as ctx, SAMPLERS["greedy"](tiny) as sampler:
        tokens = (tokenize(tiny.vocab, PROMPT) * 30)[:200]
        for overflow in ("stop", "shift"):
            plain = _written(ctx, tokens, sampler, 90, overflow=overflow)
            found = _written(
                ctx, tokens, sampler, 90, overflow=overflow, speculation=Oracle(tokens + plain.tokens, 0.2)
            )
            assert found.tokens[:50] == plain.tokens[:50]
            assert found.stopReason is plain.stopReason
            assert len(found.tokens) == len(plain.tokens)


def test_cells_that_only_the_guesses_would_need(tiny: Model) -> None:
    params = Context.Params(nCtx=256, nSeqMax=2, kvUnified=True, nThreads=1, nThreadsBatch=1)
    with Context.initFromModel(tiny, params) as ctx, SAMPLERS["greedy"](tiny) as sampler:
        tokens = tokenize(tiny.vocab, PROMPT)
        plain = _written(ctx, tokens, sampler, 30)
        filler = (tokens * 30)[: ctx.nCtx - len(tokens) - 31]
        _written(ctx, filler, sampler, 1, seqId=1)
        found = _written(ctx, tokens, sampler, 30, speculation=Oracle(tokens + plain.tokens, 1.0, most=16))
        assert found.tokens == plain.tokens


# Others who use the context


def test_two_generations_alternate(tiny: Model) -> None:
    params = Context.Params(nCtx=512, nSeqMax=2, nThreads=1, nThreadsBatch=1)
    with Context.initFromModel(tiny, params) as ctx:
        prompts = [tokenize(tiny.vocab, text) for text in (PROMPT, "The sea is")]
        samplers = [SAMPLERS["dist"](tiny), SAMPLERS["penalties"](tiny)]
        plain = [_written(ctx, prompts[i], samplers[i], 30, seqId=i).tokens for i in range(2)]
        both = [
            Generation(
                ctx,
                prompts[i],
                sampler=samplers[i],
                maxTokens=30,
                seqId=i,
                speculation=Oracle(prompts[i] + plain[i], 0.2, seed=i),
            )
            for i in range(2)
        ]
        order = Random(5)
        while not all(each.done for each in both):
            next(both[order.randrange(2)], None)
        assert [each.tokens for each in both] == plain


def test_outputs_of_another_batch_are_not_taken_for_those_of_guesses(tiny: Model) -> None:
    params = Context.Params(nCtx=512, nSeqMax=2, nThreads=1, nThreadsBatch=1)
    with Context.initFromModel(tiny, params) as ctx, SAMPLERS["greedy"](tiny) as sampler:
        tokens = tokenize(tiny.vocab, PROMPT)
        plain = _written(ctx, tokens, sampler, 30).tokens
        generation = Generation(ctx, tokens, sampler=sampler, maxTokens=30, speculation=Oracle(tokens + plain, most=12))
        for _ in generation.steps():
            _written(ctx, [5, 6, 7, 8, 9, 10, 11, 12], SAMPLERS["greedy"](tiny), 1, seqId=1)
        assert generation.tokens == plain


def test_a_memory_that_others_changed(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)
    with SAMPLERS["greedy"](tiny) as sampler:
        plain = _written(ctx, tokens, sampler, 30).tokens
        generation = Generation(ctx, tokens, sampler=sampler, maxTokens=30, speculation=Oracle(tokens + plain))
        steps = generation.steps()
        for _ in range(4):
            next(steps)
        ctx.getMemory().clear()
        with pytest.raises(BusyError):
            next(steps)
        assert _written(ctx, tokens, sampler, 30).tokens == plain


def test_a_draft_is_for_one_thread_at_a_time(tiny: Model, ctx: Context) -> None:
    with SAMPLERS["greedy"](tiny) as sampler, DraftModel(tiny, params=one_thread(), adapt=False) as draft:
        _written(ctx, PROMPT, sampler, 10, speculation=draft)
        assert draft._context is not None
        lock = draft._context.getMemory()._decode_lock
        with lock, pytest.raises(BusyError, match="DraftModel"):
            _written(ctx, PROMPT, sampler, 10, speculation=draft)
        assert _written(ctx, PROMPT, sampler, 10, speculation=draft).usage.acceptedTokens == 8
        draft.close()
        draft.close()
        assert _written(ctx, PROMPT, sampler, 10, speculation=draft).usage.acceptedTokens == 8


def test_a_draft_with_a_smaller_window_helps_as_long_as_it_can(tiny: Model) -> None:
    with Context.initFromModel(tiny, one_thread(512)) as ctx, SAMPLERS["greedy"](tiny) as sampler:
        prompt = (tokenize(tiny.vocab, PROMPT) * 20)[:220]
        plain = _written(ctx, prompt, sampler, 90)
        with DraftModel(tiny, params=one_thread(256), adapt=False) as draft:
            found = _written(ctx, prompt, sampler, 90, speculation=draft)
        assert found.tokens == plain.tokens
        assert 20 < found.usage.acceptedTokens <= 36  # up to token 256


# Conversations


def test_a_conversation(chatty: Model) -> None:
    def talk(speculation: Speculation | None) -> list[dict[str, Any]]:
        with Context.initFromModel(chatty, Context.Params(nCtx=1024, nThreads=1, nThreadsBatch=1)) as ctx:
            session = ChatSession(ctx, system="You repeat.", sampler=defaultSampler(0), speculation=speculation)
            for text in ("Hello there, hello there", "Hello there, hello there again"):
                session.send(text, maxTokens=40).result()
            return session.messages

    with DraftModel(chatty, params=one_thread(1024), adapt=False) as draft:
        assert talk(None) == talk(PromptLookup(1, adapt=False)) == talk(draft)


# What is refused


def test_wrong_arguments(tiny: Model, ctx: Context, tiny_embd: Any = None) -> None:
    with pytest.raises(TypeError, match=r"speculation.*PromptLookup.*got str"):
        Generation(ctx, PROMPT, speculation="lookup")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a PromptLookup"):
        ChatSession(ctx, template="chatml", speculation=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n must be between 1 and 16, got 0"):
        PromptLookup(0)
    with pytest.raises(ValueError, match=r"most must be between 1 and 128, got 0"):
        PromptLookup(most=0)
    with pytest.raises(TypeError, match=r"text.*got bytes"):
        PromptLookup(text=b"abc")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a token of text"):
        PromptLookup(text=["a"])  # type: ignore[list-item]
    with pytest.raises(IndexError, match=r"the last of the vocabulary, got 99999999"):
        Generation(ctx, PROMPT, speculation=PromptLookup(text=[5, 99999999]))
    with pytest.raises(TypeError, match=r"adapt must be True or False"):
        PromptLookup(adapt="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model.*expected a Model, got str"):
        DraftModel("model.gguf")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Context.Params"):
        DraftModel(tiny, params=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"most must be between 1 and 128, got 129"):
        DraftModel(tiny, 129)


def test_a_draft_of_another_vocabulary(tiny: Model, ctx: Context, kind: Kind) -> None:
    if kind.model.vocab.nTokens == tiny.vocab.nTokens:
        assert Generation(ctx, PROMPT, speculation=DraftModel(tiny)) is not None
    else:
        with pytest.raises(ValueError, match=r"draft model"):
            Generation(ctx, PROMPT, speculation=DraftModel(kind.model))


# Lookups


def _guesses(guesser: LookupGuesser, count: int) -> list[int] | None:
    return guesser.guess(count) if guesser.find() >= 0 else None


def test_the_longest_match_is_taken_and_the_last_of_the_longest() -> None:
    guesser = LookupGuesser(2, ())
    guesser.add([1, 2, 3, 10, 9, 2, 3, 20, 7, 1, 2, 3, 30, 8, 2, 3, 40, 6])
    assert _guesses(guesser, 3) is None
    guesser.add([1, 2, 3])
    assert _guesses(guesser, 3) == [30, 8, 2]
    guesser.add([50, 5, 2, 3])
    assert _guesses(guesser, 2) == [50, 5]


def test_a_text_that_repeats_itself_goes_on() -> None:
    guesser = LookupGuesser(2, ())
    guesser.add([4, 1, 2, 3, 1, 2, 3, 1, 2])
    assert _guesses(guesser, 7) == [3, 1, 2, 3, 1, 2, 3]


def test_longer_matches_are_another_kind() -> None:
    text = list(range(100, 140))
    guesser = LookupGuesser(2, text)
    kinds = []
    for token in text[:-1]:
        guesser.add([token])
        kinds.append(guesser.find())
    assert kinds[0] == -1 and kinds == sorted(kinds) and len(set(kinds)) == 8


def test_a_given_text_is_searched(tiny: Model, ctx: Context, counted: Counted) -> None:
    with SAMPLERS["greedy"](tiny) as sampler:
        tokens = tokenize(tiny.vocab, "The sea is")
        plain = _written(ctx, tokens, sampler, 30)
        for text in (plain.tokens, list(plain.tokens)):
            found = _written(ctx, tokens, sampler, 30, speculation=PromptLookup(2, text=text, adapt=False))
            assert found.tokens == plain.tokens
            assert found.usage.acceptedTokens > 20
        assert PromptLookup(text="some text")._start(ctx) is not None
