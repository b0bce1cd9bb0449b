"""The thread of an engine: which requests are at work, and what goes into each step."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, NoReturn

from llama_cffi._core import process
from llama_cffi.context.context import Context
from llama_cffi.engine.batch_policy import Pace
from llama_cffi.engine.cell_pool import ENDLESS, Cells
from llama_cffi.engine.job import Job
from llama_cffi.engine.request import wake_up
from llama_cffi.engine.step_batch import StepBatch
from llama_cffi.engine.waiting_queue import Queue, rank
from llama_cffi.errors import BusyError, ClosedError, ContextFullError, ForkError
from llama_cffi.generation.steps import StopReason

if TYPE_CHECKING:
    from asyncio import Future


@dataclass(frozen=True)
class EngineLoad:
    """What an engine is doing."""

    running: int
    """Requests that have a sequence."""
    waiting: int
    """Requests that have none yet."""
    nCells: int | None
    """Tokens that the memory holds; None for a memory that does not grow with the text."""
    usedCells: int
    """Those of running requests."""
    keptCells: int
    """Those kept for requests that begin in the same way."""


class Loop:
    """Runs the requests. All but `submit`, `poke` and `stop` happens on its own thread.

    A step decodes one batch: one token for each request that generates, then what fits of the prompts of the others.
    Requests of a higher priority are admitted first, and their prompts decoded first. One that was overtaken often goes
    before any other, so that none waits for ever.
    """

    def __init__(self, context: Context, nBatch: int, keepPrefixes: bool) -> None:
        self._context = context
        self._nSeqMax = context.nSeqMax
        self._cells = Cells(context)
        self._batch = StepBatch(nBatch)
        self._keeps = keepPrefixes
        self._changed = threading.Condition(threading.Lock())  # guards what follows, up to `closing`
        self._arrivals: deque[Job] = deque()
        self._poked = False
        self._idle = False  # whether the thread waits for work
        self._serial = 0
        self.closing: BaseException | None = None
        self._queue = Queue(self._cells)
        self._waiting = self._queue.jobs
        self._running: list[Job] = []
        self._pace = Pace()
        self._wake: list[Future[None]] = []
        self.load = EngineLoad(0, 0, None if self._cells.total >= ENDLESS else self._cells.total, 0, 0)
        self.thread = threading.Thread(target=self._run, name="llama_cffi-engine", daemon=True)

    # For other threads

    def submit(self, job: Job) -> None:
        """Put a request into the queue. Raises ClosedError."""
        with self._changed:
            if self.closing is not None:
                self.refuse()
            self._serial += 1
            job.serial = self._serial
            self._arrivals.append(job)
            self._changed.notify()

    def refuse(self) -> NoReturn:
        """Raise what says why there are no more requests: each time a new exception, for tracebacks grow."""
        error = self.closing
        if isinstance(error, (ClosedError, ForkError)):
            raise type(error)(*error.args)
        raise ClosedError("this engine cannot be used: an error ended it; make a new one") from error

    def poke(self) -> None:
        """Have the thread look for requests that were cancelled."""
        with self._changed:
            self._poked = True
            self._changed.notify()

    def stop(self, why: BaseException) -> None:
        """End the thread after this step, and with it all requests. Does not wait."""
        with self._changed:
            if self.closing is None:
                self.closing = why
            self._changed.notify()
        stop = getattr(self._context, "_stop", None)
        if stop is not None:
            stop[0] = 1

    def everyone(self) -> list[Job]:
        """The requests that have not ended."""
        return [*self._running, *self._waiting, *self._arrivals]

    def afterFork(self, error: Exception) -> None:
        """In the child, which has no such thread."""
        self._changed = threading.Condition(threading.Lock())
        self.closing = error
        for job in self.everyone():
            job.request._after_fork(error)

    # The thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
        except BaseException as error:
            if not process.ending:
                freed = self._isGone and isinstance(error, (BusyError, ClosedError))
                self.stop(ClosedError("this engine cannot be used: its model was freed") if freed else error)
        finally:
            if not process.ending:
                self._finish()

    def _wait_for_work(self) -> bool:
        """Wait for something to do. False at the end."""
        with self._changed:
            while not (self._arrivals or self._poked or self._running or self._waiting or self.closing):
                self._idle = True
                self._changed.wait()
            self._idle = self._poked = False
            for job in self._arrivals:
                job.request._worker = threading.get_ident()
            self._waiting += self._arrivals
            self._arrivals.clear()
            return self.closing is None

    @property
    def _isGone(self) -> bool:
        """Whether the context can be used no more: with its model, or after a failed assertion."""
        return self._context.closed or bool(self._context._closing)

    def _finish(self) -> None:
        assert self.closing is not None
        with self._changed:
            self._waiting += self._arrivals
            self._arrivals.clear()
        for job in (*self._running, *self._waiting):
            job.end(None, self.closing, self._wake)
        self._running.clear()
        self._waiting.clear()
        self._publish()
        self._context.close()

    def _step(self) -> None:
        for job in [job for job in (*self._running, *self._waiting) if job.request._cancelled]:
            self._end(job, StopReason.CANCELLED)
        self._admit()
        writing = sum(job.rest == 1 for job in self._running)
        if writing == len(self._running) and self._pace.isApart(writing):
            for job in list(self._running):
                if job.sequence is not None:
                    self._work([job], 1)
        else:
            self._work(self._running, writing)
        self._publish()

    def _publish(self) -> None:
        """Publish what this step has brought."""
        used = self._cells.usedByLive
        self.load = EngineLoad(len(self._running), len(self._waiting), self.load.nCells, used, self._cells.used - used)
        if self._wake:
            futures, self._wake = self._wake, []
            wake_up(futures)

    # Who is next

    def _admit(self) -> None:
        while self._waiting and self._cells.hasSequence and len(self._running) < self._nSeqMax:
            job = self._queue.next(self._running)
            if job is None:
                if not self._running:  # cannot be: alone, each of them fits
                    self._end(self._waiting[0], None, ContextFullError("the context has no room for this request"))
                return
            sequence = self._cells.open(job.tokens, [other.sequence for other in self._running if other.sequence])
            self._queue.take(job)
            job.sequence = sequence
            if not job.request.tokens:
                job.request.usage.reusedTokens = len(sequence.tokens)
                job.request.usage.queueSeconds += job.request._lap()
            self._running.append(job)

    # A step

    def _work(self, jobs: list[Job], width: int) -> None:
        """Decode one batch, and pick from its outputs."""
        entries = self._fill(jobs)
        began = perf_counter()
        if not entries or not self._decode(entries):
            return
        if self._batch.n == width:
            self._pace.note(width, perf_counter() - began)
        for job, index in entries:
            if index >= 0 and not job.request._cancelled:
                self._sample(job, index)

    def _fill(self, jobs: list[Job]) -> list[tuple[Job, int]]:
        """Fill the batch. Who is in it, each with the index of its output; or the number of its tokens, below 0."""
        batch, entries, prompts = self._batch, [], []
        batch.clear()
        for job in jobs:
            assert job.sequence is not None
            if job.rest == 1:
                entries.append((job, batch.addToken(job.tokens[-1], len(job.tokens) - 1, job.sequence.id)))
            else:
                prompts.append(job)
        for job in sorted(prompts, key=rank):
            assert job.sequence is not None
            count, start = min(job.rest, batch.room), len(job.sequence.tokens)
            if not count:
                job.overtaken += 1
                continue
            last = count == job.rest
            index = batch.addTokens(job.tokens[start : start + count], start, job.sequence.id, last)
            entries.append((job, index if last else -count))
        return entries

    def _decode(self, entries: list[tuple[Job, int]]) -> bool:
        """Decode the batch. False where there is nothing to sample from."""
        try:
            self._context.decode(self._batch.ready())
        except ContextFullError as error:
            self._make_way(error)
            return False
        except BaseException as error:
            if self.closing is not None or process.ending or self._isGone:
                raise
            for job, _ in entries:
                self._end(job, None, error)
            return False
        for job, index in entries:
            sequence = job.sequence
            assert sequence is not None
            start = len(sequence.tokens)
            end = len(job.tokens) if index >= 0 else start - index
            self._cells.grow(sequence, job.tokens[start:end])
        return True

    def _make_way(self, error: ContextFullError) -> None:
        """The memory has no room for the batch, although it should: give up what is kept, or put a request back."""
        if self._cells.dropAll():
            return
        job = min(self._running, key=lambda job: (job.request.priority, -job.serial))
        if len(self._running) == 1:
            self._end(job, None, error)
            return
        assert job.sequence is not None
        self._cells.close(job.sequence, keep=False)
        job.sequence = None
        self._running.remove(job)
        self._queue.putBack(job)

    def _sample(self, job: Job, index: int) -> None:
        try:
            reason = job.take(self._context, index, self._wake)
        except BaseException as error:
            if process.ending or self._isGone:
                raise
            self._end(job, None, error)
            return
        if reason is not None:
            self._end(job, reason)

    def _end(self, job: Job, reason: StopReason | None, error: BaseException | None = None) -> None:
        self._queue.ended += 1
        if job.sequence is None:
            self._waiting.remove(job)
        else:
            self._running.remove(job)
        sequence, job.sequence = job.sequence, None
        try:
            if sequence is not None:
                self._cells.close(sequence, keep=self._keeps and error is None)
        finally:
            job.end(reason, error, self._wake)
