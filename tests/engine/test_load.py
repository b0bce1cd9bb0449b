"""What an engine says about its requests; the bound of its queue; and how it ends in order."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from llama_cffi import (
    BusyError,
    ClosedError,
    Engine,
    EngineTotals,
    Model,
    QueueFullError,
    Sampler,
    StopReason,
)
from tests.engine.conftest import Gate, Texts, running
from tests.engine.test_engine import PROMPTS, _endless, _greedy, _settled

# The bound of the queue


def test_a_full_queue_refuses(plain: Model, gate: Gate) -> None:
    with running(plain, nSeqMax=2, maxWaiting=3) as engine:
        held = engine.submit("first", sampler=gate.sampler(), maxTokens=3)
        assert gate.reached.wait(30)
        others = [_greedy(engine, f"number {k}", 2) for k in range(4)]
        sampler = Sampler.initGreedy()
        with pytest.raises(QueueFullError, match="5 requests.*nSeqMax 2.*maxWaiting 3"):
            engine.submit("one more", sampler=sampler)
        with pytest.raises(BusyError):
            engine.chat([{"role": "user", "content": "x"}], template="chatml")
        assert len(engine.requests()) == 5
        others[3].cancel()
        gate.opened.set()
        for request in (held, *others):
            request.result(30)
        again = [engine.submit("again", sampler=sampler, maxTokens=2), *(_greedy(engine, "b", 2) for _ in range(4))]
        assert all(request.result(30) for request in again)
        assert engine.totals.ended in ({"length": 9, "cancelled": 1}, {"length": 10})


def test_a_place_is_free_as_soon_as_a_text_is_complete(plain: Model) -> None:
    with running(plain, nSeqMax=1, maxWaiting=0) as engine:
        for k in range(60):
            assert _greedy(engine, f"number {k % 3}", 2).result(30) is not None


def test_many_threads_never_exceed_the_bound(plain: Model) -> None:
    most: list[int] = []
    refused: list[int] = []
    with running(plain, nSeqMax=2, maxWaiting=2) as engine:

        def client() -> None:
            for k in range(15):
                try:
                    request = _greedy(engine, f"number {k}", 2)
                except QueueFullError:
                    refused.append(k)
                    continue
                most.append(engine._scheduler._n_open)
                request.result(60)

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused and max(most) <= 4
        _settled(engine)
        assert engine._scheduler._n_open == 0 and engine.requests() == []
        assert engine.totals.ended == {"length": 8 * 15 - len(refused)}


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), ("1", TypeError), (1.5, TypeError)])
def test_a_wrong_bound(plain: Model, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="maxWaiting"):
        Engine(plain, maxWaiting=value)


# The requests


def test_the_state_of_each_request(plain: Model, gate: Gate) -> None:
    gate.at = 2
    begun = Gate()
    with running(plain, nSeqMax=2, nBatch=8, keepPrefixes=False) as engine:
        held = engine.submit("first", sampler=Sampler.chain(begun.sampler(), gate.sampler()), maxTokens=6)
        assert begun.reached.wait(30)
        long = _greedy(engine, "alpha " * 60, 3)
        last = _greedy(engine, "last", 3)
        begun.opened.set()
        assert gate.reached.wait(30)
        assert engine.requests() == [held, long, last]  # while a step is held
        assert [request.state for request in engine.requests()] == ["generating", "prompt", "waiting"]
        assert [request.id for request in engine.requests()] == [1, 2, 3]
        first = last.seconds
        time.sleep(0.01)
        assert last.seconds >= first + 0.01
        gate.opened.set()
        for request in (held, long, last):
            assert request.result(30) and request.state == "ended"
            assert request.seconds == request.usage.seconds > 0
        _settled(engine)
        assert engine.requests() == []


def test_a_preempted_request_waits(plain: Model) -> None:
    states: list[str] = []
    with running(plain, nCtx=256, nSeqMax=4) as engine:
        put_back = engine._scheduler._queue.put_back

        def noting(job: Any) -> None:
            states.append(job.request.state)
            put_back(job)

        engine._scheduler._queue.put_back = noting  # type: ignore[method-assign]
        requests = [engine.submit(prompt, sampler=_endless(plain)) for prompt in PROMPTS[:3]]
        for request in requests:
            request.result(120)
        totals = engine.totals
    assert states and set(states) == {"waiting"}
    assert totals.promptTokens == sum(len(request.prompt) for request in requests)  # once
    assert totals.generatedTokens == sum(len(request.tokens) for request in requests)


# The totals


def test_the_totals_add_up(plain: Model) -> None:
    class Broken:
        def apply(self, candidates: Any) -> None:
            raise LookupError("no such thing")

    with running(plain) as engine:
        assert engine.totals == EngineTotals({}, 0, 0, 0, 0, 0.0)
        requests = [_greedy(engine, PROMPTS[k % 4], 5 + k) for k in range(8)]
        broken = engine.submit("x", sampler=Sampler.init(Broken()))
        stopped = _greedy(engine, PROMPTS[0], 300)
        next(iter(stopped))
        stopped.cancel()
        for request in (*requests, stopped):
            request.result(30)
        with pytest.raises(LookupError):
            broken.result(30)
        _settled(engine)
        totals, every = engine.totals, [*requests, broken, stopped]
        assert totals.ended == {"length": 8, "error": 1, "cancelled": 1}
        assert totals.promptTokens == sum(len(request.prompt) for request in every)
        assert totals.reusedTokens == sum(request.usage.reusedTokens for request in every) > 0
        assert totals.generatedTokens == sum(len(request.tokens) for request in every)
        assert totals.steps >= 12 and totals.seconds > 0
        ended = totals.ended
        ended["length"] = 0
        assert engine.totals.ended["length"] == 8, "a snapshot"
    assert engine.totals.promptTokens == totals.promptTokens  # after the end too


def test_the_totals_only_grow(plain: Model) -> None:
    seen: list[EngineTotals] = []
    with running(plain, nSeqMax=3) as engine:
        requests = [_greedy(engine, PROMPTS[k], 12) for k in range(12)]
        while not all(request.done for request in requests):
            seen.append(engine.totals)
    for a, b in zip(seen, seen[1:], strict=False):
        assert a.generatedTokens <= b.generatedTokens and a.promptTokens <= b.promptTokens
        assert a.reusedTokens <= b.reusedTokens and a.steps <= b.steps and a.seconds <= b.seconds
        assert all(count <= b.ended[reason] for reason, count in a.ended.items())
    assert any(one.generatedTokens and not one.ended for one in seen), "tokens of requests that run are counted"


def test_reading_does_not_wait_for_a_step(plain: Model, gate: Gate) -> None:
    with running(plain) as engine:
        engine.submit("x", sampler=gate.sampler(), maxTokens=1)
        assert gate.reached.wait(30)  # the engine's thread is inside a step until the gate opens
        assert engine.totals.promptTokens > 0 and len(engine.requests()) == 1
        gate.opened.set()


# The end


def test_draining_completes_what_is_there(plain: Model, alone: Texts, gate: Gate) -> None:
    engine = Engine(plain, nCtx=512, nSeqMax=2, nThreads=1)
    held = engine.submit("first", sampler=gate.sampler(), maxTokens=2)
    assert gate.reached.wait(30)
    others = [_greedy(engine, PROMPTS[k], 4) for k in range(5)]
    closing = threading.Thread(target=engine.close, kwargs={"drain": True})
    closing.start()
    while not engine.closed:
        time.sleep(0.001)
    for call in (lambda: engine.submit("x"), lambda: engine.chat([{"role": "user", "content": "x"}])):
        with pytest.raises(ClosedError, match="no more requests"):
            call()
    assert not held.done and closing.is_alive()
    gate.opened.set()
    closing.join(60)
    assert not closing.is_alive() and not engine._scheduler.thread.is_alive()
    for request in (held, *others):
        assert request.result(0) is not None and request.stopReason is StopReason.LENGTH
    with pytest.raises(ClosedError):
        engine.submit("x")


def test_draining_ends_at_its_deadline(plain: Model) -> None:
    with running(plain, nCtx=512) as engine:
        long = engine.submit("x", sampler=_endless(plain))
        began = time.monotonic()
        engine.close(drain=True, timeout=0.05)
        assert time.monotonic() - began < 20
        if not long.stopReason:  # a fast machine may have filled the window by then
            with pytest.raises(ClosedError):
                long.result(0)
            assert long.text
        assert not engine._scheduler.thread.is_alive()
        engine.close(drain=True)  # again is harmless
        engine.close()


def test_draining_without_requests_ends_at_once(plain: Model) -> None:
    engine = Engine(plain, nCtx=256, nThreads=1)
    engine.close(drain=True)
    assert engine.closed and not engine._scheduler.thread.is_alive()


def test_close_during_a_drain_ends_both(plain: Model, gate: Gate) -> None:
    engine = Engine(plain, nCtx=512, nThreads=1)
    held = engine.submit("first", sampler=gate.sampler(), maxTokens=400)
    assert gate.reached.wait(30)
    draining = threading.Thread(target=engine.close, kwargs={"drain": True})
    draining.start()
    while not engine.closed:
        time.sleep(0.001)
    gate.opened.set()
    engine.close()
    draining.join(30)
    assert not draining.is_alive() and held.done


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"drain": True, "timeout": -1}, ValueError, "timeout.* 0 .*-1"),
        ({"drain": True, "timeout": float("nan")}, ValueError, "timeout.*nan"),
        ({"drain": True, "timeout": "1"}, TypeError, "timeout.*'1'"),
        ({"drain": 5}, TypeError, "drain.*5"),
        ({"timeout": 5}, ValueError, "timeout.*drain"),
    ],
)
def test_wrong_arguments(engine: Engine, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        engine.close(**options)
    assert not engine.closed and _greedy(engine, "x", 2).result(30)
