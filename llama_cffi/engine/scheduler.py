"""Continuous batching: the engine's thread decides which requests run, and decodes one batch for all in each step."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from llama_cffi._core import process
from llama_cffi._core.ownership import atomic, hold, locked
from llama_cffi.engine.adapter_set import NO_ADAPTERS
from llama_cffi.engine.batch_policy import BatchPolicy
from llama_cffi.engine.batch_runner import BatchRunner
from llama_cffi.engine.job import Job, sampler_lock
from llama_cffi.engine.load import Counters, EngineLoad, EngineTotals
from llama_cffi.engine.memory_layout import MemoryLayout
from llama_cffi.engine.priority import precedence
from llama_cffi.engine.request import wake_up
from llama_cffi.engine.sequence_pool import UNLIMITED
from llama_cffi.engine.stored_prefixes import StoredPrefixes
from llama_cffi.engine.turns import Turns
from llama_cffi.engine.waiting_queue import WaitingQueue
from llama_cffi.errors import BusyError, ClosedError, ContextFullError, ForkError, QueueFullError
from llama_cffi.generation.pace import Cost
from llama_cffi.generation.steps import StopReason

if TYPE_CHECKING:
    from asyncio import Future
    from contextlib import AbstractContextManager

_AHEAD = (16, 256)  # least and most cells that an open-ended request reserves beyond its tokens
_MANY = 4  # requests for which streams are worth a change of the layout
_CALM_STEPS = (64, 4096)  # ... if that has been possible for that many steps: fewest, and most where it did not last


class Scheduler:
    """Runs the requests. All methods but `submit`, `notify` and `stop` run on its own thread.

    Each step decodes one batch: one token for each request that generates, then as much of the other requests' prompts
    as fits. Requests with a higher priority are admitted first, and their prompts are decoded first. A request that was
    overtaken too often comes before all others, so that none waits without end.

    A request with `maxTokens` is admitted when all cells that it can need are free, and then runs to its end. An
    open-ended one reserves some cells beyond its tokens, and more when it has used them. If there are none left, the
    open-ended request with the lowest priority that came last is preempted: it goes back to the queue, and what is
    evicted of its tokens is decoded again later. The last open-ended one is not preempted but stalls, and no request is
    admitted until others have freed the cells. So some request always ends; and one that was preempted often comes
    before others with a higher priority, so each request ends.
    """

    def __init__(self, layout: MemoryLayout, keepPrefixes: bool, maxWaiting: int | None) -> None:
        self._layout, self._prefixes = layout, StoredPrefixes(layout)
        self.nSeqMax = layout.context.nSeqMax
        self._wake: list[Future[None]] = []
        self._calm_needed, self.cost = _CALM_STEPS[0], Cost()
        self._use_context()
        self._calm = 16 * self._calm_needed + 1  # the first change is not a sign of many
        self._keep_prefixes = keepPrefixes
        # Guards what follows, up to `closing`. A signal handler or a finalizer may cancel a request while its thread is
        # in `submit`, so a thread can acquire it twice.
        self._lock = threading.RLock()
        # Wakes the thread. Signal handlers and finalizers can use it at any point.
        self._signals: SimpleQueue[None] = SimpleQueue()
        self._arrivals: deque[Job] = deque()
        self._open: set[Job] = set()  # all that have not ended, wherever they are
        self._n_open, self._max_waiting = 0, maxWaiting  # how many are open, without those that are ending
        self._counters = Counters()
        self.draining = False  # takes no more requests, and goes on with those it has
        self._notified = self._idle = False  # `_idle`: the thread waits for work
        self._serial = 0
        self.closing: BaseException | None = None
        self.collected = False  # nobody has the engine any more
        self._queue = WaitingQueue(layout)
        self._waiting = self._queue.jobs
        self._running: list[Job] = []
        self._stalled: Job | None = None  # a running job that waits for cells
        self._policy, self._turns = BatchPolicy(), Turns()
        self._adapted = False  # requests with adapters run
        # Half of a sequence's share.
        self.ahead = max(_AHEAD[0], min(_AHEAD[1], self._cells.total // (2 * self.nSeqMax)))
        self.load = EngineLoad(0, 0, self._nCells, 0, 0)
        self.thread = threading.Thread(target=self._run, name="llama_cffi-engine", daemon=True)

    def _use_context(self) -> None:
        """Use the context of the layout, which may be another one than before."""
        self._context, self._cells = self._layout.context, self._layout.pool
        self._nCells = None if self._cells.total >= UNLIMITED else self._cells.total
        self._runner = BatchRunner(self._layout, self, self._wake, self.cost)
        self._calm = 0  # steps for which streams would be possible; in streams, steps so far

    # For other threads

    def submit(self, job: Job) -> None:
        """Add a job to the queue. Raises like `require_place`; ValueError if another request uses its sampler."""
        with locked(sampler_lock):
            self.require_place()  # which no other thread takes meanwhile
            job.start_sampler()
            with locked(self._lock):
                if self.closes:
                    self.raise_closed()
                self._serial += 1
                job.serial = job.request.id = self._serial
                job.request._worker = self.thread.ident or 0
                atomic(
                    (
                        (self._signals.put, None),  # the thread looks when the lock is released
                        (self._open.add, job),
                        (setattr, self, "_n_open", self._n_open + 1),
                        (setattr, job, "is_open", True),
                        (setattr, job.sampler, "_job", job),
                        (self._arrivals.append, job),
                    )
                )

    @property
    def closes(self) -> bool:
        """True if the engine takes no more requests."""
        return self.draining or self.closing is not None

    def require_place(self) -> None:
        """Raise ClosedError or QueueFullError if the engine does not take another request."""
        if self.closes:
            self.raise_closed()
        most = self._max_waiting
        if most is not None and self._n_open >= self.nSeqMax + most:
            raise QueueFullError(
                f"the queue is full: {self._n_open} requests have not ended, and at most nSeqMax {self.nSeqMax} + "
                f"maxWaiting {most} can be open: wait until one has ended, or raise maxWaiting of the engine"
            )

    def raise_closed(self) -> NoReturn:
        """Raise why the engine takes no requests; a new exception each time, because tracebacks grow."""
        error = self.closing
        if isinstance(error, (ClosedError, ForkError)):
            raise type(error)(*error.args)
        if error is None:
            raise ClosedError("this engine takes no more requests: it is being closed")
        raise ClosedError("this engine cannot be used: an error ended it; make a new one") from error

    def notify(self) -> None:
        """Make the thread look for cancelled requests."""
        with locked(self._lock):
            self._notified = True
            self._signals.put(None)

    def drain(self, timeout: float | None) -> None:
        """Take no more requests, and wait until all have ended, or for `timeout` seconds."""
        with locked(self._lock):
            self.draining = True
        end = None if timeout is None else monotonic() + timeout
        for job in self.jobs():
            if not job.request._wait_for_end(None if end is None else max(0.0, end - monotonic())):
                return

    @property
    def totals(self) -> EngineTotals:
        """What the engine has done so far."""
        with locked(self._lock):
            generated = sum(job.request.usage.generatedTokens for job in self.jobs() if not job.counted)
            return self._counters.totals(generated)

    def stop(self, why: BaseException) -> None:
        """End the thread after this step, and all requests with it. Does not wait."""
        with locked(self._lock):
            if self.closing is None:
                self.closing = why
            self._signals.put(None)
        self._context._stop[0] = 1

    def when_collected(self) -> AbstractContextManager[object]:
        """Return what the engine must hold and nobody else: its end ends the thread, without running Python code."""
        stop = self._layout.context._stop
        calls = (setattr, self, "collected", True), (self._signals.put, None), (stop.__setitem__, 0, 1)
        return hold(bool, partial(atomic, calls))

    def jobs(self) -> list[Job]:
        """The jobs that have not ended. Their order is arbitrary."""
        return list(self._open)

    def after_fork(self, error: Exception) -> None:
        """End all requests in a forked child, which does not have the thread."""
        self._lock, self._signals = threading.RLock(), SimpleQueue()
        self.closing = error
        for job in self.jobs():
            job.request._after_fork(error)

    # The thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
        except BaseException as error:
            if not process.ending:
                freed = self._context_is_gone and isinstance(error, (BusyError, ClosedError))
                self.stop(ClosedError("this engine cannot be used: its model was freed") if freed else error)
        finally:
            if not process.ending:
                self._finish()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do. False if the engine is closing."""
        while True:
            with locked(self._lock):
                if self.collected and self.closing is None:
                    self.closing = ClosedError("this engine cannot be used: it was collected")
                if self._arrivals or self._notified or self._running or self._waiting or self.closing:
                    self._idle = self._notified = False
                    self._waiting += self._arrivals
                    self._arrivals.clear()
                    return self.closing is None
                self._idle = True
            self._signals.get()
            while not self._signals.empty():  # all that have come since the last look
                self._signals.get()

    @property
    def _context_is_gone(self) -> bool:
        """True if the context cannot be used any more: its model was freed, or an assertion failed."""
        return self._context.closed or bool(self._context._closing)

    def _finish(self) -> None:
        assert self.closing is not None
        with locked(self._lock):
            self._waiting += self._arrivals
            self._arrivals.clear()
        for jobs in (self._running, self._waiting):
            for job in jobs:
                self._publish_end(job, None, self.closing)
            jobs.clear()
        self._publish()
        self._runner.forget_adapters()
        self._layout.context.close()  # another one than the scheduler's if a change of the layout failed halfway

    def _step(self) -> None:
        for job in [job for job in (*self._running, *self._waiting) if job.request._cancelled]:
            self.end(job, StopReason.CANCELLED)
        if not self._layout.fixed:
            self._choose_layout()
        self._extend_reservations()
        if self._stalled is None:
            self._admit()
        jobs = [job for job in self._running if job is not self._stalled]
        if self._adapted:
            jobs = self._turns.choose(jobs)
        generating = sum(job.generates for job in jobs)
        if generating == len(jobs) and self._policy.decode_separately(generating):
            for job in jobs:
                if job.sequence is not None:
                    self._run_batch([job], 1)
        else:
            self._run_batch(jobs, generating)
        self._publish()
        self._prefixes.save()

    def _run_batch(self, jobs: list[Job], generating: int) -> None:
        runner = self._runner
        if runner.run(jobs, len(self._running) - 1):
            self._counters.step(runner.seconds)
            if runner.n == generating:
                self._policy.note(generating, runner.seconds)

    @property
    def is_over(self) -> bool:
        """True if the engine ends, so that errors are its own and not those of requests."""
        return self.closing is not None or process.ending or self._context_is_gone

    def _publish(self) -> None:
        """Update the load, and wake event loops that wait for new text."""
        used = self._cells.used_by_live
        self.load = EngineLoad(len(self._running), len(self._waiting), self._nCells, used, self._cells.used - used)
        if self._wake:
            wake_up(self._wake)
            self._wake.clear()

    # The memory layout

    def _choose_layout(self) -> None:
        """Change to one pool of cells for a request that is larger than a stream, and back to streams for many."""
        layout = self._layout
        if layout.unified:
            jobs = [*self._running, *self._waiting]
            calm = len(jobs) >= _MANY and all([job.reserved <= layout.stream for job in jobs])
            self._calm = self._calm + 1 if calm else 0
            if self._calm >= self._calm_needed:
                self._change_layout()
            return
        self._calm += 1
        grown = [job for job in self._running if len(job.tokens) > layout.stream]
        if grown or (self._waiting and self._cells.has_sequence and self._queue.first.reserved > layout.stream):
            least, most = _CALM_STEPS
            self._calm_needed = least if self._calm > 16 * self._calm_needed else min(2 * self._calm_needed, most)
            self._change_layout()
        if layout.fixed:  # there was no memory for the change
            for job in grown:
                self.end(job, StopReason.CONTEXT_FULL)

    def _change_layout(self) -> None:
        jobs = {job.sequence: job for job in self._running if job.sequence is not None}
        changed = self._layout.change(jobs)
        self._use_context()
        for sequence, job in jobs.items():
            job.sequence = changed[sequence]

    # Admission and preemption

    def _admit(self) -> None:
        started = len(self._running)
        while self._waiting and self._cells.has_sequence and len(self._running) < self.nSeqMax:
            job = self._queue.next(self._running)
            if job is None:
                if not self._running:  # only if the layout cannot change any more: else each request fits alone
                    self.end(self._queue.first, None, ContextFullError("the context has no room for this request"))
                break
            sequence = job.sequence = self._prefixes.open(job, self._running)
            self._queue.remove(job)
            job.stops = self._cells.places(sequence, job.tokens, (other.shareable for other in self._waiting))
            if not job.request.tokens:
                job.request.usage.reusedTokens = len(sequence.tokens)
                job.request.usage.queueSeconds += job.request._lap()
            job.request._runs = True
            self._counters.begin(job.request)
            self._running.append(job)
            self._adapted |= job.adapters is not NO_ADAPTERS
            self._runner.invalidate()
        if len(self._running) > started + 1:
            self._cells.number(self._running[started:])

    def _extend_reservations(self) -> None:
        """Reserve more cells for open-ended requests that have used theirs; preempt others if there are none left."""
        self._stalled = None
        if not any([job.outgrown for job in self._running]):
            return
        for job in sorted(self._running, key=precedence):
            while job.sequence is not None and job.outgrown and not self._reserve_more(job):
                open_ended = [other for other in self._running if other.open_ended]
                if len(open_ended) == 1:
                    self._stalled = job
                    break
                self._preempt(max(open_ended, key=precedence), self._keep_prefixes)

    def _reserve_more(self, job: Job) -> bool:
        more = min(job.next_reservation, self._cells.per_sequence)
        held = sum(len(other.sequence.tokens) for other in self._running if other.sequence is not None)
        outstanding = sum(other.reserved for other in self._running) - held
        if not self._cells.evict_for(more - job.reserved, outstanding):
            return False
        job.reserved = more
        return True

    def _preempt(self, job: Job, keep: bool) -> None:
        """Put a running request back into the queue. With `keep`, its cells stay until they are needed."""
        assert job.sequence is not None
        self._runner.invalidate()
        self._cells.close(job.sequence, keep)
        job.sequence = None
        job.request._runs = False
        self._running.remove(job)
        job.preemptions += 1
        if job.open_ended:
            job.reserved = job.next_reservation
        self._queue.put_back(job)

    def recover_cells(self, error: ContextFullError) -> None:
        """The memory is full although the batch should fit: evict what is kept, or else preempt a request."""
        if self._cells.evict_all():
            return
        job = max(self._running, key=precedence)
        if len(self._running) == 1:
            self.end(job, None, error)
        else:
            self._preempt(job, keep=False)

    def end(self, job: Job, reason: StopReason | None, error: BaseException | None = None) -> None:
        self._queue.ended += 1
        self._runner.invalidate()
        if job.sequence is None:
            self._waiting.remove(job)
        else:
            self._running.remove(job)
        sequence, job.sequence = job.sequence, None
        try:
            if sequence is not None:
                self._cells.close(sequence, keep=self._keep_prefixes and error is None)
            if self._adapted and not any([other.adapters.key for other in self._running]):
                self._adapted = False
                self._runner.use_adapters(NO_ADAPTERS)  # those of the job can be freed
        finally:
            self._publish_end(job, reason, error)

    def _publish_end(self, job: Job, reason: StopReason | None, error: BaseException | None) -> None:
        with locked(self._lock):
            self._counters.end(job.request, None if error else reason)
            job.counted = True
            self._n_open -= 1
        job.end(reason, error, self._wake)
        self._open.discard(job)
