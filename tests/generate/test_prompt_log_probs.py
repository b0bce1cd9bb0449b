"""`promptLogProbs` of a generation, and prompts without a text."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    ChatSession,
    Context,
    DecodeError,
    Generation,
    Model,
    Sampler,
    StopReason,
    defaultSampler,
    tokenize,
)
from tests import tiny_models

PROMPT = "The quick brown fox jumps over the lazy dog. " * 6


def expected(ctx: Context, i: int) -> np.ndarray[Any, Any]:
    """The log-softmax of the output of a token."""
    logits = np.array(ctx.getLogitsIth(i), dtype=np.float64)
    found: np.ndarray[Any, Any] = logits - np.log(np.exp(logits).sum())
    return found


@pytest.mark.parametrize("n_batch", [512, 16])
def test_each_token_has_its_log_probability(tiny: Model, n_batch: int) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=n_batch, nUbatch=n_batch, nThreads=1)) as ctx:
        generation = Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=2)
        assert generation.promptLogProbs == []
        assert generation.result() == "" and generation.stopReason is StopReason.LENGTH
        tokens, steps = generation.prompt, generation.promptLogProbs
        assert len(steps) == len(tokens) > 60 and steps[0] is None
        assert generation.usage.generatedTokens == 0 and generation.tokens == []
    # Decoded by hand in the same pieces: the weights are quantized, so others have other rounding errors.
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=n_batch, nUbatch=n_batch, nThreads=1)) as ctx:
        for start in range(0, len(tokens), n_batch):
            piece = tokens[start : start + n_batch]
            batch = Batch.init(len(piece))
            batch.extend(piece, start, (0,), "all")
            ctx.decode(batch)
            for i, step in enumerate(steps[start + 1 : start + 1 + n_batch]):
                right = expected(ctx, i)
                assert step is not None and step.token == tokens[start + i + 1]
                assert step.logProb == pytest.approx(right[step.token], abs=1e-4)
                assert [a.logProb for a in step.alternatives] == pytest.approx(
                    np.sort(right)[:-3:-1].tolist(), abs=1e-4
                )


def test_the_text_goes_on_as_without(ctx: Context) -> None:
    plain = Generation(ctx, PROMPT, maxTokens=6, sampler=defaultSampler(0))
    plain.result()
    scored = Generation(ctx, PROMPT, maxTokens=6, sampler=defaultSampler(0), promptLogProbs=0, logProbs=1)
    steps = list(scored.steps())
    assert scored.tokens == plain.tokens and len(steps) == 6
    assert scored.usage.reusedTokens == 0 and len(scored.promptLogProbs) == len(scored.prompt)
    again = Generation(ctx, PROMPT, maxTokens=6, sampler=defaultSampler(0))
    assert again.result() == plain.text and again.usage.reusedTokens == len(again.prompt) - 1
    assert plain.promptLogProbs == again.promptLogProbs == []


def test_few_rows_of_logits_at_a_time(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=1)
    whole.result()
    monkeypatch.setattr("llama_cffi.generation.log_probs._ROW_BYTES", 3 * 4 * ctx.getModel().vocab.nTokens)
    sizes: list[int] = []
    compute = Context._compute

    def noting(self: Context, batch: Batch, encode: bool) -> int:
        sizes.append(batch.nTokens)
        return compute(self, batch, encode)

    monkeypatch.setattr(Context, "_compute", noting)
    pieces = Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=1)
    pieces.result()
    assert max(sizes) == 3 and sum(sizes) == len(pieces.prompt)
    for a, b in zip(whole.promptLogProbs[1:], pieces.promptLogProbs[1:], strict=True):
        assert a is not None and b is not None and a.logProb == pytest.approx(b.logProb, abs=0.1)


@pytest.mark.needs("llama_context_params.n_outputs_max")
def test_as_many_outputs_as_the_context_allows(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nOutputsMax=4, nThreads=1)) as ctx:
        generation = Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=0)
        assert generation.result() == "" and len(generation.promptLogProbs) == len(generation.prompt)


def test_cancelling_in_the_prompt(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cffi.generation.log_probs._ROW_BYTES", 3 * 4 * ctx.getModel().vocab.nTokens)
    generation = Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=0)
    compute, left = Context._compute, [4]

    def cancelling(self: Context, batch: Batch, encode: bool) -> int:
        left[0] -= 1
        if not left[0]:
            thread = threading.Thread(target=generation.cancel)
            thread.start()
            thread.join()
        return compute(self, batch, encode)

    monkeypatch.setattr(Context, "_compute", cancelling)
    assert generation.result() == "" and generation.stopReason is StopReason.CANCELLED
    assert 9 <= len(generation.promptLogProbs) < 15 < len(generation.prompt)
    monkeypatch.undo()
    after = Generation(ctx, PROMPT, maxTokens=4, sampler=defaultSampler(0))
    assert after.result() and len(after.tokens) == 4


def test_a_decode_that_fails(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx.setAbortCallback(lambda: True)
    generation = Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=0)
    with pytest.raises(DecodeError):
        generation.result()
    ctx.setAbortCallback(None)
    assert Generation(ctx, PROMPT, maxTokens=0, promptLogProbs=0).result() == ""


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"promptLogProbs": -1}, ValueError, "promptLogProbs.* 0 .*-1"),
        ({"promptLogProbs": 2.5}, TypeError, "promptLogProbs.*2.5"),
        ({"maxTokens": -1}, ValueError, "maxTokens.* 0 .*-1"),
    ],
)
def test_wrong_arguments(ctx: Context, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Generation(ctx, "x", **options)


def test_a_prompt_for_an_encoder_has_no_scores(tmp_path: Any) -> None:
    with Model.load(tiny_models.write_t5(tmp_path / "t5.gguf")) as model, Context.initFromModel(model) as ctx:
        with pytest.raises(ValueError, match="promptLogProbs.*encoder"):
            Generation(ctx, [5, 6, 7], promptLogProbs=1)
        assert Generation(ctx, [5, 6, 7], maxTokens=0).result() == ""


@pytest.mark.needs("llama_context_params.n_outputs_max_per_seq")
def test_a_context_with_samplers_has_no_scores(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nOutputsMaxPerSeq=1, nThreads=1)) as ctx:
        ctx.setSampler(0, Sampler.chain(Sampler.initGreedy()))
        with pytest.raises(ValueError, match="promptLogProbs.*setSampler"):
            Generation(ctx, "x", promptLogProbs=1)


# Without a text


def test_a_prompt_alone_is_decoded_for_the_next_one(ctx: Context) -> None:
    class Never:
        def apply(self, candidates: Any) -> None:
            raise AssertionError("nothing is sampled")

    first = Generation(ctx, PROMPT, maxTokens=0, sampler=Sampler.init(Never()))
    assert list(first) == [] and first.text == "" and first.stopReason is StopReason.LENGTH and first.done
    assert list(Generation(ctx, PROMPT, maxTokens=0).steps()) == []
    second = Generation(ctx, PROMPT, maxTokens=2)
    assert second.result() is not None and second.usage.reusedTokens == len(second.prompt) - 1


def test_an_answer_without_tokens(ctx: Context) -> None:
    session = ChatSession(ctx, template="chatml")
    answer = session.send("Hello", maxTokens=0)
    assert answer.result() == "" and answer.stopReason is StopReason.LENGTH
    assert session.send("Hello", maxTokens=2, sampler=defaultSampler(0)).result() is not None
    assert len(tokenize(ctx.getModel().vocab, "Hello")) > 0
