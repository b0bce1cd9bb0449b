"""Races between an engine's thread and others: who waits where, who holds a sampler, and who is told when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llama_cffi import BusyError, Context, ContextFullError, Engine, Model, Request, Sampler, TokenDataArray
from llama_cffi._core.ownership import Lock
from llama_cffi.engine.context_params import context_params
from llama_cffi.engine.job import Job
from llama_cffi.errors import NativeMemoryError
from tests.engine.conftest import Gate, Texts, refuse_layouts, running


def test_a_sampler_cannot_wait_for_a_request_that_it_submits(engine: Engine) -> None:
    found: list[BaseException] = []

    class Asks:
        def apply(self, candidates: TokenDataArray) -> None:
            inner = engine.submit("One", maxTokens=1)
            try:
                inner.result(5)
            except (BusyError, TimeoutError) as error:
                found.append(error)
            candidates.selected = 0

    engine.submit("One", sampler=Sampler.init(Asks()), maxTokens=1).result(30)
    assert [type(error) for error in found] == [BusyError]


def test_a_failed_step_returns_samplers_before_requests_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a request with the same sampler can follow at once."""
    run, end, held = Context._run_step, Request._end, []
    sampler = Sampler.initGreedy()

    def fails(self: Context, batch: Any, step: Any, vocab: Any) -> BaseException | None:
        if step.n and sampler._busy.locked():
            raise NativeMemoryError("the device failed", operation="llama_decode")
        return run(self, batch, step, vocab)

    def ends(self: Request, *rest: Any) -> None:
        held.append(sampler._busy.locked())
        end(self, *rest)

    monkeypatch.setattr(Context, "_run_step", fails)
    monkeypatch.setattr(Request, "_end", ends)
    with pytest.raises(NativeMemoryError):
        engine.submit("One", sampler=sampler, maxTokens=20).result(30)
    assert held == [False]


def test_a_handler_can_cancel_while_its_thread_submits(engine: Engine, gate: Gate) -> None:
    """A signal handler or a finalizer runs between any two instructions, and must not wait for its own thread."""
    request = engine.submit("One", sampler=gate.sampler(), maxTokens=5)
    assert gate.reached.wait(30)
    lock = engine._scheduler._lock
    with lock:
        assert lock.acquire(blocking=False)
        lock.release()
        request.cancel()
    gate.opened.set()
    request.result(30)
    assert request.stopReason is not None and request.stopReason.name == "CANCELLED"


def test_a_sampler_that_changes_before_it_is_lent() -> None:
    """Another thread changes a chain between the first look at it and the lock."""

    class Changing:
        _checked_for: int | None = 7
        _pointer = object()
        _busy = Lock()

        @property
        def _closing(self) -> str:  # asked for once the lock is held
            assert self._busy.locked()
            self._checked_for = None
            return ""

    sampler = Changing()
    job: Any = SimpleNamespace(sampler=sampler, owns_sampler=False, return_sampler=lambda: Job.return_sampler(job))
    context: Any = SimpleNamespace(_serial=7)
    assert Job.lend_sampler(job, context) is False and not sampler._busy.locked()
    assert sampler._checked_for is None


def test_only_requests_that_do_not_fit_end(
    plain: Model, alone: Texts, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that cannot become one pool: large requests end, and not the small one that came before them."""
    refuse_layouts(monkeypatch, {True}, NativeMemoryError)
    with running(plain, nSeqMax=2, nCtx=512) as engine:
        engine.submit("One", sampler=gate.sampler(), maxTokens=1)
        assert gate.reached.wait(30)
        small = engine.submit("One", sampler=Sampler.initGreedy(), maxTokens=5)
        large = [engine.submit([5] * 300, maxTokens=2, priority=1) for _ in range(8)]
        gate.opened.set()
        assert small.result(60) is not None and small.tokens == alone("One", 5)
        for request in large:
            with pytest.raises(ContextFullError):
                request.result(60)


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 2), (7, 7), (8, 7), (16, 14), (17, 15)])
def test_clients_have_cpus_too(plain: Model, monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int) -> None:
    monkeypatch.setattr("llama_cffi.engine.context_params.usable_cpus", lambda: cpus)
    for given in (None, Context.Params(nUbatch=64)):
        params = context_params(plain, given, 512, 1, 64, None)
        assert (params.nThreads, params.nThreadsBatch, params.adaptThreads) == (threads, threads, True)
    assert context_params(plain, None, 512, 1, 64, 3).nThreads == 3
    assert context_params(plain, Context.Params(nThreads=5), 512, 1, 64, None).nThreads == 5
