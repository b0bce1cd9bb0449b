"""`promptLogProbs` of an engine: as llama.cpp computes them for the prompt alone, whatever else is in the batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    Context,
    ContextFullError,
    Engine,
    GenerationStep,
    Model,
    Request,
    Sampler,
    StopReason,
    ffi,
    lib,
    tokenize,
)
from llama_cffi.engine.job import Job
from tests import tiny_archs
from tests.engine.conftest import Gate, Texts, exact, running
from tests.engine.test_engine import PROMPTS, _endless, _greedy, _settled, _until_full

LONG = PROMPTS[8] + " and " + PROMPTS[17] + " or " + PROMPTS[16]


def direct(model: Model, tokens: list[int]) -> np.ndarray[Any, Any]:
    """The log-softmax of every position, from one call of llama_decode."""
    params = exact(nCtx=1024, nBatch=1024, nThreads=1, nThreadsBatch=1)
    with Context.initFromModel(model, params) as ctx, Batch.init(len(tokens)) as batch:
        batch.extend(tokens, 0, (0,), "all")
        assert lib.llama_decode(ctx._c, batch._c[0]) == 0
        n = model.vocab.nTokens
        rows = [
            np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(ctx._c, i), 4 * n), np.float32).astype(np.float64)
            for i in range(len(tokens))
        ]
    logits = np.array(rows)
    top = logits.max(axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return found


def check(model: Model, tokens: list[int], steps: list[GenerationStep | None], count: int) -> None:
    expected = direct(model, tokens)
    assert len(steps) == len(tokens) and steps[0] is None
    for i, step in enumerate(steps[1:], 1):
        assert step is not None and step.token == tokens[i]
        assert step.text == model.vocab.tokenToPiece(tokens[i], special=True)
        assert step.logProb == pytest.approx(expected[i - 1][tokens[i]], abs=1e-3)
        assert len(step.alternatives) == count
        found = [alternative.logProb for alternative in step.alternatives]
        assert found == pytest.approx(np.sort(expected[i - 1])[::-1][:count].tolist(), abs=1e-3)
        assert found == sorted(found, reverse=True)
        for alternative in step.alternatives:
            assert alternative.logProb == pytest.approx(expected[i - 1][alternative.token], abs=1e-3)
            assert alternative.text == model.vocab.tokenToPiece(alternative.token, special=True)


@pytest.mark.parametrize("n_batch", [512, 16])
@pytest.mark.parametrize("unified", [None, True])
def test_as_llama_cpp_computes_them(plain: Model, n_batch: int, unified: bool | None) -> None:
    with running(plain, nBatch=n_batch, kvUnified=unified, nCtx=6 * 256) as engine:
        scored = engine.submit(LONG, promptLogProbs=3, maxTokens=0)
        assert scored.result(60) == "" and scored.tokens == []
        assert scored.stopReason is StopReason.LENGTH and len(scored.prompt) > 100
        check(plain, scored.prompt, scored.promptLogProbs, 3)
        assert scored.usage.promptSeconds > 0 and scored.usage.reusedTokens == 0


def test_in_a_batch_with_other_requests(plain: Model, alone: Texts) -> None:
    with running(plain, nBatch=16) as engine:
        requests = []
        for k in range(5):
            requests.append(_greedy(engine, PROMPTS[k], 10 + k))
            requests.append(_greedy(engine, PROMPTS[k + 5], 4 + k, promptLogProbs=k % 3))
        for k, request in enumerate(requests):
            n = len(request.result(60) and request.tokens)
            assert request.tokens == alone(PROMPTS[k // 2 + 5 * (k % 2)], n)
            if k % 2:
                check(plain, request.prompt, request.promptLogProbs, k // 2 % 3)
            else:
                assert request.promptLogProbs == []


def test_the_rows_of_logits_are_bounded(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for few rows, the prompt is decoded in pieces of that size."""
    monkeypatch.setattr("llama_cffi.generation.log_probs._ROW_BYTES", 3 * 4 * plain.vocab.nTokens)
    with running(plain, nSeqMax=2, nBatch=64) as engine:
        context = engine._scheduler._context
        most, sizes = engine._scheduler._runner._rows, []
        assert most == 2 + 3
        run_step = type(context)._run_step

        def noting(self: Context, batch: Batch, step: Any, vocab: Any) -> Any:
            assert batch.output is not None
            sizes.append(sum(batch.output[: batch.nTokens]))
            return run_step(self, batch, step, vocab)

        monkeypatch.setattr(Context, "_run_step", noting)
        requests = [engine.submit(LONG[k:], promptLogProbs=1, maxTokens=k) for k in range(3)]
        for request in requests:
            request.result(60)
        assert 3 < max(sizes) <= most
    monkeypatch.undo()
    for request in requests:
        check(plain, request.prompt, request.promptLogProbs, 1)


def test_no_prefix_is_reused_but_others_reuse_this_one(engine: Engine, plain: Model, alone: Texts) -> None:
    assert _greedy(engine, LONG, 3).result(30)
    scored = _greedy(engine, LONG, 3, promptLogProbs=0)
    assert scored.result(30) and scored.usage.reusedTokens == 0
    check(plain, scored.prompt, scored.promptLogProbs, 0)
    again = _greedy(engine, LONG, 3)
    assert again.result(30) and again.usage.reusedTokens == len(again.prompt) - 1
    assert scored.tokens == again.tokens == alone(LONG, 3)


def test_the_steps_after_the_prompt_go_on_from_it(engine: Engine, plain: Model) -> None:
    """Scoring prompt and text together is the same as scoring the text while it is generated."""
    first = _greedy(engine, PROMPTS[4], 12, logProbs=1)
    first.result(30)
    second = engine.submit(first.prompt + first.tokens, promptLogProbs=1, maxTokens=0)
    second.result(30)
    later = second.promptLogProbs[len(first.prompt) :]
    for step, scored in zip(first.steps(), later, strict=True):
        assert scored is not None and step.token == scored.token
        assert step.logProb == pytest.approx(scored.logProb, abs=1e-3)


def test_a_prompt_of_one_token(engine: Engine, plain: Model, alone: Texts) -> None:
    nothing = engine.submit([5], promptLogProbs=2, maxTokens=0)
    assert nothing.result(30) == "" and nothing.promptLogProbs == [None]
    some = _greedy(engine, tokenize(plain.vocab, "a")[:1], 4, promptLogProbs=2)  # type: ignore[arg-type]
    assert some.result(30) and some.promptLogProbs == [None] and len(some.tokens) == 4


@pytest.mark.parametrize("arch", ["gemma3", "mamba2"])
def test_other_memories(tmp_path: Path, arch: str) -> None:
    with Model.load(tiny_archs.write(tmp_path / "model.gguf", arch)) as model, running(model, nSeqMax=3) as engine:
        prompt = [k % 50 + 5 for k in range(90)]
        requests = [
            engine.submit(prompt[k:], sampler=Sampler.initGreedy(), promptLogProbs=1, maxTokens=k) for k in range(3)
        ]
        for request in requests:
            request.result(30)
            check(model, request.prompt, request.promptLogProbs, 1)


@pytest.mark.slow
def test_a_preempted_request_keeps_its_scores(plain: Model) -> None:
    with running(plain, nCtx=256, nSeqMax=4, keepPrefixes=False) as engine:
        preempted: list[Request] = []
        put_back = engine._scheduler._queue.put_back

        def noting(job: Job) -> None:
            preempted.append(job.request)
            put_back(job)

        engine._scheduler._queue.put_back = noting  # type: ignore[method-assign]
        requests = [engine.submit(prompt, sampler=_endless(plain), promptLogProbs=0) for prompt in PROMPTS[:4]]
        for prompt, request in zip(PROMPTS, requests, strict=False):
            request.result(120)
            assert request.tokens == _until_full(plain, prompt, 256)
            check(plain, request.prompt, request.promptLogProbs, 0)
        assert preempted


def test_no_kind_of_prompt_waits_without_end(plain: Model, gate: Gate) -> None:
    """A batch has room for one prompt at a time, and there are always others."""
    with running(plain, nBatch=8, nSeqMax=8, keepPrefixes=False) as engine:
        held = engine.submit("first", sampler=gate.sampler(), maxTokens=1)
        assert gate.reached.wait(30)
        requests = []
        for k in range(6):
            requests.append(engine.submit(f"{k} " * 40, promptLogProbs=0, maxTokens=0))
            requests.append(_greedy(engine, f"x {k} " * 40, 1))
        gate.opened.set()
        for request in (held, *requests):
            request.result(60)
        ends = [request.usage.queueSeconds + request.usage.promptSeconds for request in requests]
        assert ends[0] < ends[-1] and ends[1] < ends[-2]


def test_cancelling_keeps_what_was_scored(plain: Model, gate: Gate) -> None:
    gate.at = 4
    begun = Gate()
    with running(plain, nBatch=8, keepPrefixes=False) as engine:
        held = engine.submit("first", sampler=Sampler.chain(begun.sampler(), gate.sampler()), maxTokens=6)
        assert begun.reached.wait(30)
        long = engine.submit(LONG, promptLogProbs=1, maxTokens=0)
        begun.opened.set()
        assert gate.reached.wait(30)
        long.cancel()
        gate.opened.set()
        assert long.result(30) == "" and long.stopReason is StopReason.CANCELLED
        assert 1 < len(long.promptLogProbs) < len(long.prompt)
        held.result(30)
        _settled(engine)
        assert engine.load.usedCells == 0


def test_a_failure_ends_its_request_alone(engine: Engine, alone: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    score = Job.score

    def failing(self: Job, *arguments: Any) -> None:
        if len(self.request.prompt) > 100:
            raise MemoryError("none left")
        score(self, *arguments)

    monkeypatch.setattr(Job, "score", failing)
    broken = [_greedy(engine, LONG, n, promptLogProbs=1) for n in (0, 4)]
    others = [_greedy(engine, PROMPTS[k], 9, promptLogProbs=0) for k in range(3)]
    for request in broken:
        with pytest.raises(MemoryError, match="none left"):
            request.result(30)
        assert request.tokens == []
    for k, request in enumerate(others):
        assert request.result(30) and request.tokens == alone(PROMPTS[k], 9)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"promptLogProbs": -1}, ValueError, "promptLogProbs.* 0 .*-1"),
        ({"promptLogProbs": 1 << 20}, ValueError, r"promptLogProbs.*32000.*1048576"),
        ({"promptLogProbs": "1"}, TypeError, "promptLogProbs.*'1'"),
        ({"maxTokens": -1}, ValueError, "maxTokens.* 0 .*-1"),
    ],
)
def test_wrong_arguments(engine: Engine, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        engine.submit("x", **options)


# Without a text


def test_a_prompt_alone_is_there_for_the_next_request(engine: Engine, alone: Texts) -> None:
    class Never:
        def apply(self, candidates: Any) -> None:
            raise AssertionError("nothing is sampled")

    warm = engine.submit(PROMPTS[8], sampler=Sampler.init(Never()), maxTokens=0)
    assert warm.result(30) == "" and list(warm.steps()) == [] and warm.stopReason is StopReason.LENGTH
    assert warm.usage.generatedTokens == 0 and not math.isnan(warm.usage.seconds)
    request = _greedy(engine, PROMPTS[8], 6)
    assert request.result(30) and request.tokens == alone(PROMPTS[8], 6)
    assert request.usage.reusedTokens == len(request.prompt) - 1


def test_a_prompt_alone_needs_cells(plain: Model) -> None:
    with running(plain, nCtx=256) as engine:
        assert engine.submit([5] * 256, maxTokens=0, promptLogProbs=0).result(30) == ""
        with pytest.raises(ContextFullError, match="257.*256"):
            engine.submit([5] * 257, maxTokens=0)
