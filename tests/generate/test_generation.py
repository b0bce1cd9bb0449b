"""Streaming: the same tokens as the plain loop, every way to stop, and nothing computed twice."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    BusyError,
    Context,
    ContextFullError,
    Generation,
    Model,
    Sampler,
    StopReason,
    defaultSampler,
    detokenize,
    tokenize,
)
from tests import tiny_models
from tests.generate.conftest import Counted, Kind, plain

PROMPT = "Once upon a time"


def _greedy(ctx: Context, prompt: str | list[int], limit: int | None = 30, **options: object) -> Generation:
    return Generation(ctx, prompt, sampler=defaultSampler(0), maxTokens=limit, **options)  # type: ignore[arg-type]


def _endless(ctx: Context, prompt: str | list[int], limit: int, **options: object) -> Generation:
    """Whatever the model thinks of it."""
    vocab, chain = ctx.getModel().vocab, Sampler.chainInit()
    ends = [(token, -1e9) for token in range(vocab.nTokens) if vocab.isEog(token)]
    chain.chainAdd(Sampler.initLogitBias(vocab.nTokens, ends))
    chain.chainAdd(Sampler.initGreedy())
    return Generation(ctx, prompt, sampler=chain, maxTokens=limit, **options)  # type: ignore[arg-type]


@pytest.fixture
def pair(tiny: Model):  # type: ignore[no-untyped-def]
    """A context with two sequences."""
    with Context.initFromModel(tiny, Context.Params(nCtx=512, nSeqMax=2, nThreads=1)) as context:
        yield context


# The text


def test_it_is_the_text_of_the_plain_loop(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)
    expected = plain(ctx, tokens, 60)
    generation = _greedy(ctx, PROMPT, 60)
    pieces = list(generation)
    assert generation.tokens == expected and generation.prompt == tokens
    whole = detokenize(tiny.vocab, tokens + expected).removeprefix(detokenize(tiny.vocab, tokens))
    assert "".join(pieces) == generation.text == whole
    assert all(pieces) and len(pieces) > 20
    assert generation.stopReason is StopReason.LENGTH
    assert _greedy(ctx, tokens, 60).text == ""  # nothing happens before it is iterated
    assert "".join(_greedy(ctx, tokens, 60)) == whole


def test_on_every_kind_of_memory(kind: Kind) -> None:
    prompt = [5 + 11 * i % 240 for i in range(40)]
    with kind.context() as ctx:
        expected = plain(ctx, prompt, 25)
        generation = _greedy(ctx, prompt, 25)
        list(generation)
        assert generation.tokens == expected
        edited = prompt[:20] + [200, 201] + prompt[22:]
        again = _greedy(ctx, edited, 25)
        list(again)
        # The window has 16 tokens, but all of them are still there.
        assert again.usage.reusedTokens == (20 if kind.forgets_parts else 0)
        assert again.tokens == plain(ctx, edited, 25)


@pytest.mark.slow
def test_on_gemma(gemma: Model) -> None:
    with Context.initFromModel(gemma, Context.Params(nCtx=256, nThreads=2)) as ctx:
        tokens = tokenize(gemma.vocab, "The capital of France is")
        expected = plain(ctx, tokens, 16)
        generation = _greedy(ctx, "The capital of France is", 16)
        assert "capital" in "".join(generation)
        assert generation.tokens == expected


def test_prompts_longer_than_a_batch(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=16, nUbatch=16)) as ctx:
        prompt = tokenize(tiny.vocab, "word " * 100)
        assert len(prompt) > 64
        generation = _greedy(ctx, prompt, 5)
        list(generation)
        assert generation.tokens == plain(ctx, prompt, 5)


def test_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    with Model.load(tiny_models.write_t5(tmp_path / "t5.gguf")) as model, Context.initFromModel(model) as ctx:
        prompt = tokenize(model.vocab, "some words")
        ctx.encode(Batch.getOne(prompt))
        expected = plain(ctx, [model.decoderStartToken], 8)
        for _ in range(2):
            generation = _greedy(ctx, "some words", 8)
            list(generation)
            assert generation.tokens == expected and len(expected) > 1


def test_the_same_seed_gives_the_same_text(ctx: Context) -> None:
    def run(seed: int) -> str:
        with defaultSampler(seed=seed) as sampler:
            first = "".join(Generation(ctx, PROMPT, sampler=sampler, maxTokens=20))
            assert "".join(Generation(ctx, PROMPT, sampler=sampler, maxTokens=20)) == first  # it is reset
        return first

    assert run(7) == run(7) != run(8)
    assert "".join(Generation(ctx, PROMPT, maxTokens=20)) != "".join(Generation(ctx, PROMPT, maxTokens=20))


def test_a_grammar_begins_anew(tiny: Model, ctx: Context) -> None:
    with Sampler.chainInit() as chain:
        chain.chainAdd(Sampler.initGrammar(tiny.vocab, 'root ::= "yes" | "never"'))
        chain.chainAdd(Sampler.initGreedy())
        for _ in range(2):
            generation = Generation(ctx, PROMPT, sampler=chain)
            assert "".join(generation) in ("yes", "never")
            assert generation.stopReason is StopReason.END


# All of it


def test_the_result_is_the_whole_text(ctx: Context) -> None:
    whole = "".join(_greedy(ctx, PROMPT, 20))
    assert _greedy(ctx, PROMPT, 20).result() == whole
    generation = _greedy(ctx, PROMPT, 20)
    first = [next(generation), next(generation)]
    assert not generation.done
    assert generation.result() == generation.result() == whole and whole.startswith("".join(first))
    assert generation.done and generation.stopReason is StopReason.LENGTH
    by_steps = _greedy(ctx, PROMPT, 20)
    next(by_steps.steps())
    assert by_steps.result() == whole


def test_the_result_of_what_was_cancelled_is_what_there_was(ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT, 20)
    first = next(generation)
    generation.cancel()
    assert generation.result() == first and generation.stopReason is StopReason.CANCELLED and generation.done
    closed = _greedy(ctx, PROMPT, 20)
    closed.close()
    assert closed.result() == "" and closed.done


def test_an_incomplete_text_is_no_result(ctx: Context) -> None:
    class Broken:
        left = 3

        def apply(self, candidates: object) -> None:
            self.left -= 1
            if not self.left:
                raise LookupError("broken")
            candidates.selected = 0  # type: ignore[attr-defined]

    generation = Generation(ctx, PROMPT, sampler=Sampler.init(Broken()))
    with pytest.raises(LookupError, match="broken"):
        generation.result()
    assert generation.done and generation.stopReason is None and len(generation.tokens) == 2
    with pytest.raises(RuntimeError, match="LookupError.*incomplete"):
        generation.result()


def test_the_values_of_reasons_are_codes() -> None:
    assert {reason.name: reason.value for reason in StopReason} == {
        reason.name: reason.name.lower() for reason in StopReason
    }


# Reuse


def test_what_is_shared_is_decoded_once(ctx: Context, counted: Counted) -> None:
    first = _greedy(ctx, PROMPT, 10)
    list(first)
    n = len(first.prompt)
    assert counted.tokens == n + 9
    assert first.usage.reusedTokens == 0 and first.usage.promptTokens == n and first.usage.generatedTokens == 10
    assert first.usage.promptSeconds > 0 and first.usage.generationSeconds > 0
    counted.tokens = 0
    longer = _greedy(ctx, first.prompt + first.tokens + [77], 10)
    list(longer)
    assert longer.usage.reusedTokens == n + 9  # the last token was never decoded
    assert counted.tokens == 2 + 9


def test_a_memory_that_was_changed_is_not_reused(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, PROMPT)
    expected = plain(ctx, tokens, 20)
    assert "".join(_greedy(ctx, PROMPT, 20))
    ctx.getMemory().clear()
    ctx.decode(Batch.getOne(list(range(100, 124))))
    generation = _greedy(ctx, PROMPT, 20)
    list(generation)
    assert generation.tokens == expected


# Stopping


def test_stop_strings(ctx: Context) -> None:
    whole = "".join(_greedy(ctx, PROMPT, 40))
    middle = whole[len(whole) // 2 : len(whole) // 2 + 9]  # somewhere within tokens
    generation = _greedy(ctx, PROMPT, 40, stop=["never comes", middle])
    assert "".join(generation) == whole[: whole.index(middle)]
    assert generation.stopReason is StopReason.STOP_STRING and generation.stopString == middle
    assert len(generation.tokens) < 40


def test_what_was_held_back_comes_at_the_end(ctx: Context) -> None:
    whole = "".join(_greedy(ctx, PROMPT, 20))
    generation = _greedy(ctx, PROMPT, 20, stop=[whole[-5:] + "and more"])
    pieces = list(generation)
    assert "".join(pieces) == whole == generation.text and whole[-5:] in pieces[-1]
    assert generation.stopReason is StopReason.LENGTH and generation.stopString is None
    steps = list(_greedy(ctx, PROMPT, 20, stop=[whole[-5:] + "and more"]).steps())
    assert steps[-1].token is None and steps[-1].text == pieces[-1] and len(steps) == 21


def test_stop_tokens_and_the_end(tiny: Model, ctx: Context) -> None:
    first = _greedy(ctx, PROMPT, 20)
    list(first)
    stop = first.tokens[8]
    generation = _greedy(ctx, PROMPT, 20, stopTokens=[stop])
    list(generation)
    assert generation.tokens == first.tokens[: first.tokens.index(stop)]
    assert (generation.stopReason, generation.stopToken) == (StopReason.STOP_TOKEN, stop)

    eos = tiny.vocab.eos
    with Sampler.chainInit() as chain:
        chain.chainAdd(Sampler.initLogitBias(tiny.vocab.nTokens, [(eos, 1e9)]))
        chain.chainAdd(Sampler.initGreedy())
        generation = Generation(ctx, PROMPT, sampler=chain)
        assert list(generation) == [] and generation.tokens == []
        assert (generation.stopReason, generation.stopToken) == (StopReason.END, eos)


def test_the_context_becomes_full(kind: Kind) -> None:
    with kind.context(n_ctx=64) as ctx:
        room = ctx.nCtxSeq
        generation = _endless(ctx, list(range(5, 45)), 2 * room)
        list(generation)
        if kind.model.isRecurrent:
            assert generation.stopReason is StopReason.LENGTH
            return
        assert generation.stopReason is StopReason.CONTEXT_FULL
        assert 40 + len(generation.tokens) == room + 1  # the last one was not decoded any more
        assert ctx.getMemory().seqPosMax(0) == room - 1
        fitting = [5] * room
        short = _endless(ctx, fitting, 5)
        list(short)
        assert len(short.tokens) == 1
        with pytest.raises(ContextFullError, match=rf"{room + 1} tokens.* {room}: shorten .*nCtx"):
            _greedy(ctx, [*fitting, 5])


def test_error_is_another_word_for_stop(ctx: Context) -> None:
    with pytest.raises(ContextFullError, match="257 tokens.* 256"):
        _endless(ctx, [5] * 257, 5, overflow="error")
    generation = _endless(ctx, [5] * 250, 50, overflow="error")
    list(generation)
    assert generation.stopReason is StopReason.CONTEXT_FULL and len(generation.tokens) == 7


def test_a_shift_goes_on(kind: Kind) -> None:
    with kind.context(n_ctx=64) as ctx:
        room = ctx.nCtxSeq
        generation = _endless(ctx, list(range(5, 45)), 3 * room, overflow="shift", nKeep=4)
        list(generation)
        assert generation.stopReason is StopReason.LENGTH and len(generation.tokens) == 3 * room
        if not kind.model.isRecurrent:
            assert ctx.getMemory().seqPosMax(0) < room
        again = _greedy(ctx, list(range(5, 45)), 20)
        list(again)
        assert again.tokens == plain(ctx, list(range(5, 45)), 20)  # nothing that was moved is believed


def test_positions_that_a_model_does_not_know(tmp_path: Path) -> None:
    with Model.load(tiny_models.write_gpt2(tmp_path / "gpt2.gguf")) as model:  # it knows 32
        with Context.initFromModel(model, Context.Params(nCtx=256)) as ctx:
            generation = _endless(ctx, [5] * 20, 100)
            list(generation)
            assert generation.stopReason is StopReason.CONTEXT_FULL and len(generation.tokens) == 13
            with pytest.raises(ContextFullError, match="takes 32"):
                _greedy(ctx, [5] * 33)


def test_other_sequences_take_the_room(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nSeqMax=2, kvUnified=True)) as ctx:
        list(_greedy(ctx, [5] * 200, 1, seqId=1))
        generation = _greedy(ctx, PROMPT, 200)
        list(generation)
        assert generation.stopReason is StopReason.CONTEXT_FULL and 30 < len(generation.tokens) < 60
        with pytest.raises(ContextFullError, match="no room"):
            list(_greedy(ctx, [7] * 100, 5))


# Cancelling


def test_closing_it(ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT)
    first = next(generation)
    generation.close()
    generation.close()
    assert list(generation) == [] and generation.text == first
    assert generation.stopReason is StopReason.CANCELLED
    with _greedy(ctx, PROMPT) as generation:
        next(generation)
    assert generation.stopReason is StopReason.CANCELLED
    with _greedy(ctx, PROMPT) as generation:
        list(generation)
    assert generation.stopReason is StopReason.LENGTH
    generation = _greedy(ctx, PROMPT)
    generation.close()
    assert generation.stopReason is StopReason.CANCELLED and list(generation) == []


def test_letting_it_go_ends_it(ctx: Context) -> None:
    gc.disable()
    try:
        generation = _greedy(ctx, PROMPT)
        run = generation._run
        next(generation)
        del generation
        assert run.rules.reason is StopReason.CANCELLED
    finally:
        gc.enable()


def test_cancelled_between_tokens(ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT, 100)
    pieces = []
    for text in generation:
        pieces.append(text)
        if len(pieces) == 3:
            thread = threading.Thread(target=generation.cancel)
            thread.start()
            thread.join()
    assert len(pieces) <= 4 and generation.stopReason is StopReason.CANCELLED
    assert generation.text == "".join(pieces)
    other = _greedy(ctx, PROMPT, 5)
    assert len(list(other.steps())) == 5 and other.usage.reusedTokens > 0


@pytest.mark.parametrize("own", [False, True], ids=["", "with an abort callback of the user's"])
def test_cancelled_in_the_middle_of_a_long_prompt(tiny: Model, own: bool) -> None:
    asked = threading.Event()

    def reached(tensor: object, ask: bool) -> bool:
        asked.set()
        time.sleep(0.002)
        return False

    params = Context.Params(nCtx=2048, nBatch=2048, nUbatch=32, nThreads=1, nThreadsBatch=1, cbEval=reached)
    if own:
        params.abortCb = lambda: False
    with Context.initFromModel(tiny, params) as ctx:
        generation = _greedy(ctx, [5] * 1500)
        canceller = threading.Thread(target=lambda: (asked.wait(60), generation.cancel()))
        canceller.start()
        assert list(generation) == [] and generation.stopReason is StopReason.CANCELLED
        canceller.join()
        assert ctx.getMemory().seqPosMax(0) < 1499
        ctx.decode(Batch.getOne([5]))  # nothing of the cancellation is left


def test_cancelled_before_it_begins(ctx: Context, counted: Counted) -> None:
    generation = _greedy(ctx, PROMPT)
    generation.cancel()
    assert list(generation) == [] and generation.stopReason is StopReason.CANCELLED and counted.tokens == 0


def test_ctrl_c(tiny: Model, ctx: Context) -> None:
    generation = _endless(ctx, PROMPT, 1_000_000, overflow="shift")
    next(generation)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in generation:
            pass
    timer.join()
    generation.close()
    assert generation.stopReason is StopReason.CANCELLED and generation.tokens
    other = _greedy(ctx, PROMPT, 10)
    list(other)
    assert other.tokens == plain(ctx, tokenize(tiny.vocab, PROMPT), 10)


def test_an_exception_leaves_the_context_usable(tiny: Model, ctx: Context) -> None:
    class Broken:
        def apply(self, candidates: object) -> None:
            raise KeyboardInterrupt

    with Sampler.chainInit() as chain:
        chain.chainAdd(Sampler.init(Broken()))
        chain.chainAdd(Sampler.initGreedy())
        generation = Generation(ctx, PROMPT, sampler=chain)
        with pytest.raises(KeyboardInterrupt):
            next(generation)
    assert generation.stopReason is StopReason.CANCELLED
    other = _greedy(ctx, PROMPT, 10)
    list(other)
    assert other.tokens == plain(ctx, tokenize(tiny.vocab, PROMPT), 10)


def test_nothing_of_it_stays_with_the_context(ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT, 3)
    list(generation)
    run = weakref.ref(generation._run)
    del generation
    assert run() is None


def test_a_chain_that_belongs_to_the_context(tiny: Model) -> None:
    expected = _text_of(tiny, None)
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initGreedy())
    assert _text_of(tiny, chain) == expected


def _text_of(model: Model, chain: Sampler | None) -> str:
    with Context.initFromModel(model, Context.Params(nCtx=256)) as ctx:
        if chain is None:
            return "".join(_greedy(ctx, PROMPT, 8))
        ctx.setSampler(0, chain)
        return "".join(Generation(ctx, PROMPT, sampler=chain, maxTokens=8))


def test_a_context_that_gives_embeddings_too(tiny: Model, ctx: Context) -> None:
    expected = "".join(_greedy(ctx, PROMPT, 8))
    params = Context.Params(nCtx=256, embeddings=True, nThreads=1)
    with Context.initFromModel(tiny, params) as both:
        assert "".join(_greedy(both, PROMPT, 8)) == expected


# Several at once


def test_taking_turns_in_two_sequences(tiny: Model, pair: Context) -> None:
    prompts = [PROMPT, "Something else entirely"]
    expected = [plain(pair, tokenize(tiny.vocab, prompt), 20) for prompt in prompts]
    pair.getMemory().clear()
    generations = [_greedy(pair, prompt, 20, seqId=i) for i, prompt in enumerate(prompts)]
    for _ in zip(generations[0].steps(), generations[1].steps(), strict=True):
        pass
    assert [generation.tokens for generation in generations] == expected


def test_a_second_one_in_the_same_sequence_ends_the_first(ctx: Context) -> None:
    first, second = _greedy(ctx, PROMPT), _greedy(ctx, PROMPT)
    next(first)
    next(second)
    with pytest.raises(BusyError, match="another generation has begun"):
        list(first)
    assert first.stopReason is None
    assert list(second)


def test_a_memory_that_is_changed_meanwhile(ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT)
    next(generation)
    ctx.getMemory().clear()
    with pytest.raises(BusyError, match="memory was changed"):
        next(generation)


def test_two_threads(pair: Context) -> None:
    """One of them is told; neither samples from the other's outputs."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        def apply(self, candidates: object) -> None:
            inside.set()
            assert go_on.wait(60)

    with Sampler.chainInit() as chain:
        chain.chainAdd(Sampler.init(Slow()))
        chain.chainAdd(Sampler.initGreedy())
        slow = Generation(pair, PROMPT, sampler=chain, maxTokens=3)
        thread = threading.Thread(target=lambda: list(slow))
        thread.start()
        assert inside.wait(60)
        try:
            with pytest.raises(BusyError, match="a context for each thread"):
                next(_greedy(pair, "Hello", seqId=1))
            with pytest.raises(BusyError, match="another thread"):
                next(slow)
        finally:
            go_on.set()
            thread.join()
        assert slow.stopReason is StopReason.LENGTH
        assert list(_greedy(pair, "Hello", seqId=1))


# Steps


def test_probabilities(tiny: Model, ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT, 8, logProbs=4)
    steps = list(generation.steps())
    assert [step.token for step in steps] == generation.tokens
    ctx.getMemory().clear()
    ctx.decode(Batch.getOne(generation.prompt))
    logits = np.array(ctx.getLogitsIth(-1), dtype=np.float64)
    log_probs = np.log(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    first = steps[0]
    best = np.argsort(-log_probs)[:4]
    assert [other.token for other in first.alternatives] == best.tolist()
    assert first.logProb == pytest.approx(log_probs[first.token], abs=1e-4) == first.alternatives[0].logProb
    assert [other.logProb for other in first.alternatives] == pytest.approx(log_probs[best].tolist(), abs=1e-4)
    assert first.alternatives[0].text == tiny.vocab.tokenToPiece(int(best[0]), special=True)
    assert all(len(step.alternatives) == 4 and step.logProb is not None for step in steps)


def test_probabilities_of_the_token_alone_or_of_none(ctx: Context) -> None:
    alone = list(_greedy(ctx, PROMPT, 4, logProbs=0).steps())
    assert all(step.logProb is not None and step.logProb < 0 and step.alternatives == () for step in alone)
    plain_steps = list(_greedy(ctx, PROMPT, 4).steps())
    assert all(step.logProb is None and step.alternatives == () for step in plain_steps)
    assert [step.token for step in alone] == [step.token for step in plain_steps]


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"prompt": b"bytes"}, TypeError, "prompt.*got bytes.*decode it"),
        ({"prompt": None}, TypeError, "prompt.*got NoneType"),
        ({"prompt": 5}, TypeError, "prompt.*got int"),
        ({"prompt": [-1]}, ValueError, "a token of the prompt must be between 0 and 31999"),
        ({"prompt": ["a"]}, TypeError, "a token of the prompt must be an integer"),
        ({"prompt": []}, ValueError, "the prompt is empty"),
        ({"maxTokens": -1}, ValueError, "maxTokens.* 0 .*-1"),
        ({"maxTokens": 1 << 31}, ValueError, "maxTokens.*2147483647.*got 2147483648"),
        ({"maxTokens": 2.5}, TypeError, "maxTokens must be an integer"),
        ({"stop": "###"}, TypeError, r"write stop=\['###'\]"),
        ({"stop": [3]}, TypeError, "tokens go to stopTokens"),
        ({"stopTokens": ["###"]}, TypeError, "a token of stopTokens must be an integer"),
        ({"stopTokens": [99999]}, ValueError, "a token of stopTokens must be between 0"),
        ({"logProbs": -1}, ValueError, "logProbs must be between 0"),
        ({"stopTokens": 5}, TypeError, "stopTokens.*got int"),
        ({"overflow": "drop"}, ValueError, r'"stop", "error", "shift".*got \'drop\'.*ChatSession'),
        ({"overflow": "slide"}, ValueError, r'"stop", "error", "shift".*got \'slide\''),
        ({"overflow": ["stop"]}, ValueError, r'"stop", "error", "shift".*got \['),
        ({"nKeep": -1, "overflow": "shift"}, ValueError, "nKeep must be between 0 and 254"),
        ({"nKeep": 255, "overflow": "shift"}, ValueError, "nKeep must be between 0 and 254"),
        ({"seqId": 1}, ValueError, "nSeqMax"),
        ({"sampler": "greedy"}, TypeError, r"defaultSampler\(\) makes one"),
    ],
)
def test_wrong_arguments(ctx: Context, options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Generation(ctx, **{"prompt": PROMPT, **options})  # type: ignore[arg-type]


def test_an_empty_prompt(tmp_path: Path, ctx: Context) -> None:
    assert len(list(_greedy(ctx, "", 3).steps())) == 3  # this model begins every text with a token
    with Model.load(tiny_models.write_gpt2(tmp_path / "gpt2.gguf")) as model, Context.initFromModel(model) as other:
        with pytest.raises(ValueError, match="the prompt is empty, .* pass at least a word"):
            Generation(other, "")


def test_models_that_write_nothing(tmp_path: Path, tiny: Model) -> None:
    with Model.load(tiny_models.write_bert(tmp_path / "bert.gguf")) as model, Context.initFromModel(model) as ctx:
        with pytest.raises(ValueError, match="no decoder .*embeddings"):
            Generation(ctx, "Hello")
    with pytest.raises(TypeError, match=r"Context.initFromModel\(model\) makes one"):
        Generation(tiny, "Hello")  # type: ignore[arg-type]


def test_a_closed_context(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256)) as ctx:
        generation = _greedy(ctx, PROMPT)
        next(generation)
    with pytest.raises(ValueError, match="it was freed"):
        next(generation)
    with pytest.raises(ValueError, match="it was freed"):
        Generation(ctx, PROMPT)


def test_how_it_looks(ctx: Context) -> None:
    generation = _greedy(ctx, PROMPT, 2)
    assert repr(generation) == "<Generation, not started: iterate over it, or call result()>"
    list(generation)
    assert repr(generation) == "<Generation, 2 tokens, stopped: length>"
