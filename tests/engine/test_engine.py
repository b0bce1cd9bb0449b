"""An engine writes what each request alone would get, whoever else comes and goes."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    BusyError,
    ClosedError,
    Context,
    ContextFullError,
    DecodeError,
    Engine,
    Generation,
    Model,
    Request,
    Sampler,
    StopReason,
    defaultSampler,
    tokenize,
)
from llama_cffi._core.ownership import n_owned
from llama_cffi.engine.job import Job
from llama_cffi.engine.priority import precedence
from llama_cffi.engine.step import Step
from tests import tiny_archs, tiny_models
from tests.engine.conftest import Gate, Texts, exact, running, write_alone

PROMPTS = [f"{'The quick brown fox ' * (k % 9)}number {k}" for k in range(24)]


def _greedy(engine: Engine, prompt: str, n: int, **options: Any) -> Request:
    return engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=n, **options)


def _cells(engine: Engine) -> list[int]:
    """The last position of each sequence. The engine must have nothing to do."""
    memory = engine._scheduler._context.getMemory()
    return [memory.seqPosMax(seq) for seq in range(engine.nSeqMax)]


# The text


@pytest.mark.parametrize(("nSeqMax", "nBatch", "keep"), [(6, 32, True), (3, 16, False), (24, 512, True)])
def test_each_text_is_the_same_as_alone(plain: Model, alone: Texts, nSeqMax: int, nBatch: int, keep: bool) -> None:
    with running(plain, nSeqMax=nSeqMax, nBatch=nBatch, keepPrefixes=keep) as engine:
        requests = [_greedy(engine, prompt, 10 + k) for k, prompt in enumerate(PROMPTS)]
        for k, request in enumerate(requests):
            assert "".join(request) == request.result(30) == request.text
            assert request.tokens == alone(PROMPTS[k], 10 + k)
            assert request.stopReason is StopReason.LENGTH and request.done
        assert len({tuple(request.tokens[:10]) for request in requests}) > 12, "the texts are too much alike"


def test_a_request_that_joins_later_changes_nothing(engine: Engine, alone: Texts, gate: Gate) -> None:
    gate.at = 5
    first = engine.submit(PROMPTS[8], sampler=gate.sampler(), maxTokens=30)
    assert gate.reached.wait(30)
    others = [_greedy(engine, prompt, 7) for prompt in PROMPTS[:4]]
    gate.opened.set()
    assert [request.result(30) and request.tokens for request in others] == [alone(p, 7) for p in PROMPTS[:4]]
    late = _greedy(engine, PROMPTS[5], 40)
    assert first.result(30) and first.tokens == alone(PROMPTS[8], 30)
    assert late.result(30) and late.tokens == alone(PROMPTS[5], 40)


def test_the_probabilities_are_those_of_a_context_alone(plain: Model, engine: Engine) -> None:
    requests = [_greedy(engine, prompt, 12, logProbs=3) for prompt in PROMPTS[:6]]
    for request in requests:
        request.result(30)
        assert [step.token for step in request.steps()] == request.tokens
        assert "".join(step.text for step in request.steps()) == request.text
        with Context.initFromModel(plain, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx:
            ctx.decode(Batch.getOne(request.prompt))
            for step in request.steps():
                logits = np.array(ctx.getLogitsIth(-1), dtype=np.float64)
                expected = logits - np.log(np.exp(logits).sum())
                assert step.token is not None
                assert step.logProb == pytest.approx(expected[step.token], abs=1e-3)
                best = [alternative.token for alternative in step.alternatives]
                assert best == np.argsort(-logits)[:3].tolist()
                ctx.decode(Batch.getOne([step.token]))


def test_the_same_seed_gives_the_same_text(engine: Engine) -> None:
    texts = [engine.submit(PROMPTS[3], maxTokens=20, seed=seed).result(30) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_tokens_for_a_prompt(plain: Model, engine: Engine, alone: Texts) -> None:
    request = engine.submit(tokenize(plain.vocab, PROMPTS[2]), sampler=Sampler.initGreedy(), maxTokens=5)
    assert request.result(30) and request.tokens == alone(PROMPTS[2], 5)


def test_a_stop_string_and_a_stop_token(engine: Engine, plain: Model, alone: Texts) -> None:
    tokens = alone(PROMPTS[7], 20)
    pieces = [plain.vocab.tokenToPiece(token) for token in tokens]
    end = next(i for i in range(5, 20) if pieces[i].strip() and pieces[i] not in "".join(pieces[:i]))
    by_text = _greedy(engine, PROMPTS[7], 20, stop=["no such text", pieces[end]])
    by_token = _greedy(engine, PROMPTS[7], 20, stopTokens=[tokens[end]] if tokens.index(tokens[end]) == end else [])
    assert by_text.result(30) == "".join(pieces[:end])
    assert by_text.stopReason is StopReason.STOP_STRING and by_text.stopString == pieces[end]
    assert by_token.result(30) == "".join(pieces[:end])
    assert by_token.stopReason is StopReason.STOP_TOKEN and by_token.stopToken == tokens[end]
    assert by_token.tokens == tokens[:end]


def test_the_model_ends_a_text(engine: Engine, plain: Model) -> None:
    class End:
        def apply(self, candidates: Any) -> None:
            candidates.selected = next(i for i, c in enumerate(candidates) if c.id == plain.vocab.eos)

    request = engine.submit(PROMPTS[1], sampler=Sampler.init(End()))
    assert request.result(30) == "" and request.tokens == []
    assert request.stopReason is StopReason.END and request.stopToken == plain.vocab.eos


def test_ctrl_c_while_the_thread_starts_ends_it(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has the engine then, so nobody could close it."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    gc.collect()
    before, owned = set(threading.enumerate()), n_owned()
    with pytest.raises(KeyboardInterrupt):
        Engine(plain, nCtx=64, nThreads=1)
    end = time.monotonic() + 60
    while ({*threading.enumerate()} - before or n_owned() > owned) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert {*threading.enumerate()} - before == set()
    assert n_owned() <= owned


# Who goes first


def _order(engine: Engine, gate: Gate, priorities: list[int]) -> list[int]:
    """The order in which requests of these priorities begin, one at a time."""
    begun: list[int] = []

    class Mark:
        def __init__(self, number: int) -> None:
            self.number = number

        def apply(self, candidates: Any) -> None:
            begun.append(self.number)
            candidates.selected = 0

    first = engine.submit("first", sampler=gate.sampler(), maxTokens=1)
    assert gate.reached.wait(30)
    requests = [
        engine.submit(f"number {k}", sampler=Sampler.init(Mark(k)), maxTokens=1, priority=priority)
        for k, priority in enumerate(priorities)
    ]
    gate.opened.set()
    for request in (first, *requests):
        request.result(30)
    return begun


def test_higher_priorities_begin_first(plain: Model, gate: Gate) -> None:
    with running(plain, nSeqMax=1) as engine:
        assert _order(engine, gate, [0, 1, -3, 1, 5, 0]) == [4, 1, 3, 0, 5, 2]


def test_priorities_that_are_numbers_of_numpy(plain: Model, gate: Gate) -> None:
    """Minus an unsigned one is a large number; and the engine's thread must not meet an object that raises."""

    class Index:
        def __index__(self) -> int:
            return 2

    with running(plain, nSeqMax=1) as engine:
        assert _order(engine, gate, [0, np.uint8(1), np.int8(-3), Index(), np.uint64(1)]) == [3, 1, 4, 0, 2]  # type: ignore[list-item]
        for wrong in (np.zeros(2), "1", 1.5):
            with pytest.raises(TypeError, match="priority must be an integer"):
                engine.submit("x", priority=wrong)  # type: ignore[arg-type]
        engine.submit("x", maxTokens=1).result(30)


def test_no_request_waits_without_end(plain: Model, gate: Gate) -> None:
    with running(plain, nSeqMax=1) as engine:
        order = _order(engine, gate, [0, *([1] * 50)])
        assert order.index(0) == 32
        assert [number for number in order if number] == list(range(1, 51))


def test_prompts_of_a_higher_priority_are_decoded_first(plain: Model, gate: Gate) -> None:
    """Both have a sequence; a batch has room for one prompt at a time."""
    with running(plain, nBatch=8, keepPrefixes=False) as engine:
        first = engine.submit("first", sampler=gate.sampler(), maxTokens=2)
        assert gate.reached.wait(30)
        low = _greedy(engine, "alpha " * 40, 2)
        high = _greedy(engine, "omega " * 40, 2, priority=1)
        gate.opened.set()
        for request in (first, low, high):
            request.result(30)
        assert high.usage.promptSeconds < low.usage.promptSeconds


@pytest.mark.slow
def test_a_request_that_fits_goes_before_one_that_does_not(plain: Model, gate: Gate) -> None:
    with running(plain, nCtx=256, keepPrefixes=False) as engine:
        holder = engine.submit("first", sampler=gate.sampler(), maxTokens=150)
        assert gate.reached.wait(30)
        large = _greedy(engine, "a", 200)
        small = _greedy(engine, "b", 20)
        gate.opened.set()
        assert small.result(30)
        assert holder.result(30) and large.result(30)
        assert large.usage.queueSeconds > small.usage.queueSeconds
        assert len(large.tokens) == 200 and len(small.tokens) == 20


# What is shared


def test_a_live_prefix_is_not_decoded_again(engine: Engine, plain: Model, alone: Texts, gate: Gate) -> None:
    common = "The quick brown fox " * 8
    gate.at = 3
    first = engine.submit(common + "number one", sampler=gate.sampler(), maxTokens=8)
    assert gate.reached.wait(30)
    second, twin = (_greedy(engine, common + end, 9) for end in ("and two", "number one"))
    gate.opened.set()
    n = len(tokenize(plain.vocab, common))
    assert second.result(30) and twin.result(30) and first.result(30)
    assert n - 2 <= second.usage.reusedTokens < len(second.prompt)
    assert twin.usage.reusedTokens == len(twin.prompt) - 1
    assert second.tokens == alone(common + "and two", 9) and twin.tokens == alone(common + "number one", 9)
    assert first.tokens == twin.tokens[:8]


def test_a_request_may_decode_its_whole_prompt(engine: Engine, alone: Texts) -> None:
    prompt = "The quick brown fox " * 8
    assert _greedy(engine, prompt, 4).result(30)
    again = engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=4, sharePrefix=False)
    assert again.result(30) and again.usage.reusedTokens == 0 and again.tokens == alone(prompt, 4)
    assert _greedy(engine, prompt, 4).result(30)
    with pytest.raises(TypeError, match="sharePrefix"):
        engine.submit(prompt, sharePrefix="no")  # type: ignore[arg-type]


def test_requests_that_come_together_decode_what_they_share_once(engine: Engine, alone: Texts) -> None:
    common = "The quick brown fox " * 40
    requests = [_greedy(engine, f"{common}number {k}", 5) for k in range(6)]
    for k, request in enumerate(requests):
        assert request.result(30) and request.tokens == alone(f"{common}number {k}", 5)
    assert requests[0].usage.reusedTokens == 0
    assert all(request.usage.reusedTokens > len(request.prompt) - 40 for request in requests[1:])


def test_a_conversation_goes_on_from_what_was_kept(engine: Engine, plain: Model) -> None:
    first = _greedy(engine, PROMPTS[6], 20)
    first.result(30)
    longer = first.prompt + first.tokens + tokenize(plain.vocab, " and so on", addSpecial=False)
    second = engine.submit(longer, sampler=Sampler.initGreedy(), maxTokens=10)
    assert second.result(30) and second.usage.reusedTokens == len(first.prompt) + 19
    assert second.tokens == write_alone(plain, longer, 10)
    assert sum(last >= 0 for last in _cells(engine)) == 1  # the kept sequence was gone on with


def test_nothing_is_kept_where_that_is_not_wanted(plain: Model) -> None:
    with running(plain, keepPrefixes=False) as engine:
        for request in [_greedy(engine, prompt, 5) for prompt in PROMPTS]:
            request.result(30)
        _settled(engine)
        assert _cells(engine) == [-1] * 6 and engine.load.usedCells == engine.load.keptCells == 0


def _settled(engine: Engine) -> None:
    """Wait until the thread waits for work."""
    scheduler = engine._scheduler
    for _ in range(3000):
        with scheduler._lock:
            if scheduler._idle and not (scheduler.jobs() or scheduler._notified):
                return
        threading.Event().wait(0.01)
    raise AssertionError("the engine does not come to rest")


def test_what_is_kept_gives_way(plain: Model, alone: Texts) -> None:
    with running(plain, nCtx=256, nSeqMax=4) as engine:
        for _ in range(2):
            for k, prompt in enumerate(PROMPTS):
                request = _greedy(engine, prompt, 30 + k)
                assert request.result(30) and request.tokens == alone(prompt, 30 + k)
        _settled(engine)
        load = engine.load
        assert load.nCells == 256 and load.usedCells == 0 and 0 < load.keptCells <= 256


@pytest.mark.parametrize("arch", ["gemma2", "gemma3", "gpt-oss", "mamba2", "rwkv7"])
def test_other_memories_share_what_they_can(tmp_path: Path, arch: str) -> None:
    with Model.load(tiny_archs.write(tmp_path / "model.gguf", arch)) as model, running(model, nSeqMax=3) as engine:
        prompt = [k % 50 + 5 for k in range(60)]
        for prompts in ([prompt, prompt + [9, 8, 7]], [prompt[:40] + [11, 12]], [prompt[:20]]):
            requests = [engine.submit(p, sampler=Sampler.initGreedy(), maxTokens=24) for p in prompts]
            for p, request in zip(prompts, requests, strict=True):
                request.result(30)
                assert request.tokens == write_alone(model, p, 24)
        whole = request.prompt + request.tokens  # goes on exactly where a kept sequence ends
        last = engine.submit(whole, sampler=Sampler.initGreedy(), maxTokens=5)
        assert last.result(30) is not None and last.tokens == write_alone(model, whole, 5)
        if len(request.tokens) == 24:
            assert last.usage.reusedTokens == len(whole) - 1


# Without maxTokens


def _endless(model: Model) -> Sampler:
    """Greedy, but never an end-of-generation token."""
    ends = [(token, -1e9) for token in range(model.vocab.nTokens) if model.vocab.isEog(token)]
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initLogitBias(model.vocab.nTokens, ends))
    chain.chainAdd(Sampler.initGreedy())
    return chain


def _until_full(model: Model, prompt: str, n_ctx: int) -> list[int]:
    """What a generation writes until a window of that size is full."""
    with Context.initFromModel(model, exact(nCtx=n_ctx, nThreads=1, nThreadsBatch=1)) as ctx:
        generation = Generation(ctx, prompt, sampler=_endless(model))
        generation.result()
        assert generation.stopReason is StopReason.CONTEXT_FULL
        return generation.tokens


def test_without_a_limit_a_text_fills_the_window_as_a_generation_does(plain: Model) -> None:
    with running(plain, nCtx=256) as engine:
        request = engine.submit(PROMPTS[1], sampler=_endless(plain))
        request.result(60)
        assert request.stopReason is StopReason.CONTEXT_FULL
        assert request.tokens == _until_full(plain, PROMPTS[1], 256)
        assert len(request.prompt) + len(request.tokens) == 257  # the last one is not decoded
        exactly = engine.submit([5] * 256, sampler=_endless(plain))
        exactly.result(60)
        assert exactly.stopReason is StopReason.CONTEXT_FULL and len(exactly.tokens) == 1


def test_requests_without_a_limit_run_together(plain: Model, gate: Gate) -> None:
    """None of them reserves the whole window."""
    with running(plain, nCtx=1024, nSeqMax=6) as engine:
        first = Gate()  # none begins before the last one is there: a slow machine would let them grow meanwhile
        engine.submit("x", sampler=first.sampler(), maxTokens=1)
        assert first.reached.wait(30)
        gate.at = 3
        held = [engine.submit(PROMPTS[k], sampler=_endless(plain)) for k in range(5)]
        last = engine.submit("a", sampler=gate.sampler())
        first.opened.set()
        assert gate.reached.wait(30)
        assert engine.load.running == 6 and engine.load.waiting == 0
        for request in (*held, last):
            request.cancel()
        gate.opened.set()


@pytest.mark.parametrize("keep", [True, False])
def test_requests_that_outgrow_the_cells_together_take_turns(plain: Model, keep: bool) -> None:
    """Each alone fills the window: all but one are preempted, go on later, and write what they write alone."""
    with running(plain, nCtx=256, nSeqMax=4, keepPrefixes=keep) as engine:
        preempted: list[Request] = []
        put_back = engine._scheduler._queue.put_back

        def noting(job: Job) -> None:
            preempted.append(job.request)
            put_back(job)

        engine._scheduler._queue.put_back = noting  # type: ignore[method-assign]
        prompts = PROMPTS[:5]
        requests = [engine.submit(prompt, sampler=_endless(plain)) for prompt in prompts]
        bounded = _greedy(engine, PROMPTS[6], 20)  # is never preempted
        for prompt, request in zip(prompts, requests, strict=True):
            request.result(120)
            assert request.stopReason is StopReason.CONTEXT_FULL
            assert request.tokens == _until_full(plain, prompt, 256)
        assert bounded.result(30) and len(bounded.tokens) == 20
        assert preempted and bounded not in preempted
        assert requests[0] not in preempted, "the first one keeps its cells"
        _settled(engine)
        assert engine.load.usedCells == 0


def test_short_requests_do_not_starve_a_long_one(plain: Model) -> None:
    """Two long ones do not fit together. The one that is preempted goes on after 32 others at the latest."""
    started: list[Request] = []
    preempted: list[tuple[Request, int]] = []  # and how many requests had started then
    with running(plain, nCtx=256, nSeqMax=3) as engine:
        queue = engine._scheduler._queue
        remove, put_back = queue.remove, queue.put_back

        def noting_start(job: Job) -> None:
            started.append(job.request)
            remove(job)

        def noting_preemption(job: Job) -> None:
            preempted.append((job.request, len(started)))
            put_back(job)

        queue.remove, queue.put_back = noting_start, noting_preemption  # type: ignore[method-assign]
        long = [engine.submit(prompt, sampler=_endless(plain)) for prompt in PROMPTS[:2]]
        short = [_greedy(engine, f"{k} and more", 10) for k in range(80)]
        for request in (*long, *short):
            request.result(120)
        assert [len(request.prompt) + len(request.tokens) for request in long] == [257, 257]
        assert all(len(request.tokens) == 10 for request in short)
    assert preempted and {request for request, _ in preempted} == {long[1]}, (
        "it came last, and the short ones have limits"
    )
    for request, at in preempted:
        assert started[at:].index(request) <= 32 + 3


def test_who_keeps_the_cells() -> None:
    """First those that were preempted often, then by priority, then by arrival."""

    def job(serial: int, priority: int = 0, preemptions: int = 0) -> Any:
        request = SimpleNamespace(priority=priority)
        return SimpleNamespace(serial=serial, request=request, preemptions=preemptions)

    order = [job(9, -1, 4), job(5, 2), job(7, 2, 3), job(1), job(2, 0, 1), job(0, -1)]
    assert sorted(order[::-1], key=precedence) == order


def test_a_higher_priority_keeps_its_cells(plain: Model) -> None:
    with running(plain, nCtx=256, nSeqMax=2) as engine:
        low = engine.submit(PROMPTS[0], sampler=_endless(plain))
        high = engine.submit(PROMPTS[1], sampler=_endless(plain), priority=1)
        assert high.result(60) is not None and low.result(60) is not None
        assert high.usage.generationSeconds < low.usage.generationSeconds
        assert low.tokens == _until_full(plain, PROMPTS[0], 256)


# Cancelling


def test_cancelling_in_the_queue(plain: Model, gate: Gate) -> None:
    with running(plain, nSeqMax=1) as engine:
        first = engine.submit("first", sampler=gate.sampler(), maxTokens=3)
        assert gate.reached.wait(30)
        second = _greedy(engine, "second", 5)
        second.cancel()
        gate.opened.set()
        assert second.result(30) == "" and second.stopReason is StopReason.CANCELLED
        assert second.usage.generatedTokens == 0
        assert first.result(30) and len(first.tokens) == 3


def test_cancelling_in_the_prompt(plain: Model, gate: Gate) -> None:
    """A batch has room for seven tokens of it, and the other request is held at its first and at its fifth token."""
    second = Gate(4)

    class Both:
        def apply(self, candidates: Any) -> None:
            gate.apply(candidates)
            second.apply(candidates)

    with running(plain, nBatch=8, keepPrefixes=False) as engine:
        held = engine.submit("first", sampler=Sampler.init(Both()), maxTokens=6)
        assert gate.reached.wait(30)
        long = _greedy(engine, "alpha " * 100, 5)
        gate.opened.set()
        assert second.reached.wait(30)
        assert engine._scheduler._cells.used_by_live > 20 and "waiting" in repr(long)
        long.cancel()
        second.opened.set()
        assert long.result(30) == "" and long.stopReason is StopReason.CANCELLED
        assert held.result(30) and len(held.tokens) == 6
        _settled(engine)
        assert _cells(engine) == [-1] * 6


def test_cancelling_in_the_text(engine: Engine, alone: Texts) -> None:
    request = _greedy(engine, PROMPTS[2], 500)
    pieces = []
    with request:
        for piece in request:
            pieces.append(piece)
            if len(pieces) == 4:
                break
    text = request.result(30)
    assert request.stopReason is StopReason.CANCELLED and text.startswith("".join(pieces))
    assert 4 <= len(request.tokens) < 500
    request.cancel()
    n = len(request.tokens)
    assert request.tokens == alone(PROMPTS[2], n)


# What goes wrong


def test_a_sampler_that_raises_ends_its_request_alone(engine: Engine, alone: Texts) -> None:
    class Broken:
        left = 3

        def apply(self, candidates: Any) -> None:
            self.left -= 1
            if self.left < 0:
                raise LookupError("no such thing")
            candidates.selected = 0

    broken = engine.submit(PROMPTS[1], sampler=Sampler.init(Broken()), maxTokens=30)
    others = [_greedy(engine, prompt, 12) for prompt in PROMPTS[:4]]
    pieces = []
    with pytest.raises(LookupError, match="no such thing"):
        for piece in broken:
            pieces.append(piece)
    with pytest.raises(LookupError, match="no such thing"):
        broken.result(30)
    assert "".join(pieces) == broken.text and len(broken.tokens) == 3 and broken.stopReason is None
    for prompt, request in zip(PROMPTS, others, strict=False):
        assert request.result(30) and request.tokens == alone(prompt, 12)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_sampler_that_raises_what_is_no_error(engine: Engine, error: type[BaseException]) -> None:
    class Broken:
        def apply(self, candidates: Any) -> None:
            raise error

    request = engine.submit(PROMPTS[1], sampler=Sampler.init(Broken()))
    with pytest.raises(error):
        request.result(30)
    assert _greedy(engine, "a", 3).result(30)


def test_a_callback_that_raises_ends_what_was_in_the_step(plain: Model) -> None:
    armed = []

    def abort() -> bool:
        if armed:
            raise LookupError("no such thing")
        return False

    with running(plain, params=exact(abortCb=abort)) as engine:
        assert _greedy(engine, "a", 3).result(30)
        armed.append(1)
        with pytest.raises(LookupError):
            _greedy(engine, "b", 3).result(30)
        armed.clear()
        assert _greedy(engine, "a", 3).result(30)


def test_an_error_inside_ends_the_engine(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(plain, nCtx=512, nThreads=1)

    def broken(*_: object) -> None:
        raise AssertionError("a mistake")

    monkeypatch.setattr(engine._scheduler._cells, "grow", broken)
    with pytest.raises(AssertionError):
        _greedy(engine, "a", 3).result(30)
    engine._scheduler.thread.join(30)
    with pytest.raises(ClosedError, match="an error ended it") as caught:
        engine.submit("a")
    assert isinstance(caught.value.__cause__, AssertionError)
    engine.close()


def test_a_sampler_that_picks_nothing(engine: Engine) -> None:
    with pytest.raises(ValueError, match="picked.*initDist"):
        engine.submit("a", sampler=Sampler.initTopK(3)).result(30)


def test_a_request_that_cannot_fit(engine: Engine) -> None:
    assert engine.nCtx == 1024
    with pytest.raises(ContextFullError, match=r"6 tokens and maxTokens is 1020.*1024"):
        engine.submit("The quick brown fox", maxTokens=1020)
    with pytest.raises(ContextFullError, match=r"1025 tokens.*1024"):
        engine.submit([5] * 1025)
    assert _greedy(engine, "a", 3).result(30)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"prompt": []}, ValueError, "empty"),
        ({"prompt": b"text"}, TypeError, "prompt.*got bytes"),
        ({"prompt": 5}, TypeError, "prompt.*str.*got int"),
        ({"prompt": None}, TypeError, "prompt.*str.*got NoneType"),
        ({"prompt": [1, 99999]}, ValueError, "99999"),
        ({"maxTokens": -1}, ValueError, "maxTokens.* 0 .*-1"),
        ({"maxTokens": "1"}, TypeError, "maxTokens"),
        ({"priority": "high"}, TypeError, "priority"),
        ({"sampler": "greedy"}, TypeError, "Sampler"),
        ({"stop": [""]}, ValueError, "stop"),
        ({"stopTokens": [-1]}, ValueError, "stopTokens"),
        ({"stopTokens": 5}, TypeError, "stopTokens.*got int"),
        ({"stopTokens": "a"}, TypeError, "stopTokens.*got str"),
        ({"stop": 5}, TypeError, "stop.*got int"),
        ({"logProbs": -1}, ValueError, "logProbs"),
    ],
)
def test_a_wrong_argument(engine: Engine, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        engine.submit(**{"prompt": "a", **arguments})


def test_a_sampler_serves_one_request(engine: Engine, gate: Gate) -> None:
    sampler = gate.sampler()
    first = engine.submit("a", sampler=sampler, maxTokens=2)
    with pytest.raises(ValueError, match="one request"):
        engine.submit("b", sampler=sampler)
    gate.opened.set()
    first.result(30)
    assert engine.submit("b", sampler=sampler, maxTokens=2).result(30)
    chain = defaultSampler()
    with pytest.raises(ValueError, match="chain"):
        engine.submit("b", sampler=chain.chainGet(0))
    with pytest.raises(ValueError, match="seed"):
        engine.submit("b", sampler=chain, seed=3)


def test_no_wait_for_a_text_inside_its_own_sampler(engine: Engine) -> None:
    class Impatient:
        def apply(self, candidates: Any) -> None:
            other.result()

    other = _greedy(engine, "a", 400)
    with pytest.raises(BusyError, match="engine.s thread"):
        engine.submit("b", sampler=Sampler.init(Impatient())).result(30)
    other.cancel()


def test_no_close_inside_a_sampler(engine: Engine) -> None:
    class Closing:
        def apply(self, candidates: Any) -> None:
            engine.close()

    with pytest.raises(BusyError, match="cannot be closed"):
        engine.submit("b", sampler=Sampler.init(Closing())).result(30)
    assert _greedy(engine, "a", 3).result(30)


def test_a_full_memory_puts_requests_back(plain: Model, alone: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(plain) as engine:
        run, calls = Step.run, [0]

        def sometimes(step: Step) -> dict[int, BaseException]:
            calls[0] += 1
            if calls[0] % 5 == 0 and len(engine._scheduler._running) > 1:
                raise ContextFullError("full", operation="llama_decode", code=1)
            return run(step)

        monkeypatch.setattr(Step, "run", sometimes)
        requests = [_greedy(engine, prompt, 10 + k) for k, prompt in enumerate(PROMPTS)]
        for k, request in enumerate(requests):
            assert request.result(30) and request.tokens == alone(PROMPTS[k], 10 + k)


def test_one_request_that_finds_the_memory_full(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(step: Step) -> None:
        raise ContextFullError("full", operation="llama_decode", code=1)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "run", never)
        with pytest.raises(ContextFullError):
            _greedy(engine, "a", 3).result(30)
    assert _greedy(engine, "a", 3).result(30)


def test_a_failed_step_ends_what_was_in_it(engine: Engine, alone: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(step: Step) -> None:
        raise DecodeError("failed", operation="llama_decode", code=-3)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "run", fails)
        requests = [_greedy(engine, prompt, 3) for prompt in PROMPTS[:2]]
        for request in requests:
            with pytest.raises(DecodeError):
                request.result(30)
    assert _greedy(engine, PROMPTS[3], 9).result(30)
    _settled(engine)
    assert sum(last >= 0 for last in _cells(engine)) == 1


def test_a_model_that_is_freed(plain: Model, tiny_path: Path) -> None:
    model = Model.load(tiny_path)
    engine = Engine(model, nCtx=512, nThreads=1)
    request = engine.submit("a", maxTokens=300)
    next(iter(request))
    model.close()
    with pytest.raises(ClosedError):
        request.result(30)
    engine._scheduler.thread.join(30)
    with pytest.raises(ClosedError):
        engine.submit("b")
    engine.close()
    assert engine.closed


def test_models_that_write_no_text(tmp_path: Path) -> None:
    for write in (tiny_models.write_bert, tiny_models.write_t5):
        with Model.load(write(tmp_path / "model.gguf")) as model:
            with pytest.raises(ValueError, match="decoder alone"):
                Engine(model)


def test_parameters_that_cannot_be(plain: Model) -> None:
    with pytest.raises(TypeError, match="expected a Model"):
        Engine("model.gguf")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Context\.Params"):
        Engine(plain, params={"nCtx": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embeddings"):
        Engine(plain, params=Context.Params(embeddings=True))
    with pytest.raises(ValueError, match="nSeqMax"):
        Engine(plain, nSeqMax=0)
    given = Context.Params(nCtx=64, nSeqMax=2)
    with Engine(plain, nCtx=512, nThreads=1, params=given) as engine:
        assert engine.nCtx == 512
    assert given == Context.Params(nCtx=64, nSeqMax=2)


# The end


@pytest.fixture
def threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_closing_ends_what_runs(plain: Model, threads: None, gate: Gate) -> None:
    gate.at = 4
    engine = Engine(plain, nCtx=512, nSeqMax=2, nThreads=1)
    one = engine.submit(PROMPTS[0], sampler=gate.sampler(), maxTokens=100)
    others = [_greedy(engine, prompt, 100) for prompt in PROMPTS[1:4]]
    assert gate.reached.wait(30)
    timer = threading.Timer(0.1, gate.opened.set)
    timer.start()
    engine.close()
    timer.join()
    engine.close()
    assert engine.closed and repr(engine) == "<Engine closed>"
    for request in (one, *others):
        assert request.done and request.stopReason is None
        pieces = []
        with pytest.raises(ClosedError, match="it was closed"):
            for piece in request:
                pieces.append(piece)
        assert "".join(pieces) == request.text
    assert one.tokens
    with pytest.raises(ClosedError, match="it was closed"):
        engine.submit("c")


def test_an_engine_that_nobody_has_any_more(plain: Model, threads: None) -> None:
    engine = Engine(plain, nCtx=512, nThreads=1)
    request = engine.submit("a", maxTokens=20)
    thread = engine._scheduler.thread
    del engine
    assert request.result(30) and len(request.tokens) == 20  # a request keeps it
    thread.join(30)
    assert not thread.is_alive()


def test_a_text_that_takes_long(engine: Engine, gate: Gate) -> None:
    request = engine.submit("a", sampler=gate.sampler(), maxTokens=2)
    with pytest.raises(TimeoutError, match="cancel"):
        request.result(0.01)
    assert "waiting" in repr(request) and not request.done
    gate.opened.set()
    assert request.result(30)
    assert "length" in repr(request)


def test_what_it_took(engine: Engine) -> None:
    request = _greedy(engine, PROMPTS[4], 15)
    request.result(30)
    usage = request.usage
    assert usage.promptTokens == len(request.prompt) and usage.generatedTokens == 15 and usage.reusedTokens == 0
    assert usage.queueSeconds > 0 and usage.promptSeconds > 0 and usage.generationSeconds > 0
    assert usage.seconds == pytest.approx(usage.queueSeconds + usage.promptSeconds + usage.generationSeconds)


def test_many_threads_ask(engine: Engine, alone: Texts) -> None:
    found: dict[int, list[int]] = {}

    def ask(k: int) -> None:
        for round in range(3):
            request = _greedy(engine, PROMPTS[k], 8)
            text = "".join(request)
            assert text == request.text
            found[k * 3 + round] = request.tokens

    workers = [threading.Thread(target=ask, args=(k,)) for k in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(found) == 30
    assert all(tokens == alone(PROMPTS[n // 3], 8) for n, tokens in found.items())
