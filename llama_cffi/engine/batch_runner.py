"""Decodes one batch for many requests, samples for each, and publishes their texts."""

from __future__ import annotations

from array import array
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from llama_cffi.engine.adapter_set import NO_ADAPTERS
from llama_cffi.engine.guessing import StepGuesses
from llama_cffi.engine.media import decode_next
from llama_cffi.engine.prompt_plan import with_scores
from llama_cffi.engine.step import Step
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.log_probs import scored_rows
from llama_cffi.generation.steps import StopReason
from llama_cffi.sampling.no_token import no_token

if TYPE_CHECKING:
    from asyncio import Future

    from llama_cffi._core.base_types import Pos, SeqId, Token
    from llama_cffi.context.context import Context
    from llama_cffi.engine.adapter_set import AdapterSet
    from llama_cffi.engine.job import Job
    from llama_cffi.engine.memory_layout import MemoryLayout
    from llama_cffi.engine.prompt_plan import Plan
    from llama_cffi.generation.pace import Cost


class Owner(Protocol):
    """What a `BatchRunner` needs of the scheduler."""

    @property
    def is_over(self) -> bool:
        """True if the engine ends, so that errors are its own and not those of requests."""
        ...

    def end(self, job: Job, reason: StopReason | None, error: BaseException | None = None) -> None:
        """End a request."""

    def recover_cells(self, error: ContextFullError) -> None:
        """Make room in the KV cache, which was full."""


class BatchRunner:
    """Runs steps of an engine on the context of a memory layout.

    Most steps are like the one before: each request has got a token, and goes on. C has prepared the batch for these,
    so that nothing is filled in again; see `invalidate`.
    """

    def __init__(self, layout: MemoryLayout, owner: Owner, wake: list[Future[None]], cost: Cost) -> None:
        """`wake` collects the futures of event loops that wait for text. `cost` is for speculation."""
        self._context, self._cells, self._owner, self._wake = layout.context, layout.pool, owner, wake
        self._step = Step(self._context, _capacity(self._context))
        context = self._context
        self._rows = min(context._limits.n_outputs, context.nSeqMax + scored_rows(context._nVocab))  # most in a batch
        self._jobs: list[Job] = []  # of the last batch
        self._entries: list[tuple[Job, int]] = []
        self._others: list[tuple[Job, int]] = []
        most = min(self._rows, self._step.capacity)
        self._guesses = StepGuesses(context, not layout.unified, most, cost)
        self._guessed: dict[Job, list[Token]] = {}  # in the last batch
        self._padded: list[tuple[SeqId, Pos]] = []  # where dummy tokens begin
        self._scored: list[tuple[Job, range, int]] = []  # positions whose outputs score a prompt; the first one's entry
        self._prompts: list[Job] = []  # that end in the batch, and nothing follows
        self._adapters = NO_ADAPTERS  # those of the context
        self._steady = False  # the next batch can be like the last one, if the jobs are the same
        self.seconds = 0.0  # of the last batch
        self.n = 0  # tokens in the last batch

    def invalidate(self) -> None:
        """Fill the next batch again: a request has started, ended or lost its sequence."""
        self._steady = False

    def use_adapters(self, adapters: AdapterSet) -> None:
        """Compute with these adapters from now on."""
        if adapters.key != self._adapters.key:
            adapters.apply(self._context)
        self._adapters = adapters

    def forget_adapters(self) -> None:
        """Let the adapters be freed, at the end of the context."""
        self._adapters = NO_ADAPTERS

    def run(self, jobs: list[Job], others: int) -> bool:
        """Decode one batch for these jobs, and sample from its outputs. False if nothing was decoded.

        All have the same adapters. `others` is how many requests run besides a single one.
        """
        if jobs and jobs[0].adapters is not self._adapters:
            self.use_adapters(jobs[0].adapters)
        lent = self._prepare(jobs, others)
        if not self._entries:
            return False
        began = perf_counter()
        failure, errors = None, {}
        try:
            errors = self._step.run()
        except BaseException as error:
            failure = error
        finally:
            for job in lent:  # before anybody learns that the request has ended
                job.return_sampler()
        if failure is not None:
            self._recover(failure)
            return False
        self._count_tokens()
        now = perf_counter()
        self.seconds, self.n = now - began, self._step.n
        self._steady = self.n == len(lent)  # events below may change that
        if self._scored or self._prompts:
            self._finish_prompts()
        self._advance_rows(errors, now)
        for job, index in self._others:
            if not job.request._cancelled:
                self._sample(job, index)
        self._guesses.took(self.n, perf_counter() - began)
        if self._cells.checkpoints.useful:
            self._make_checkpoints()
        return True

    # The batch

    def _prepare(self, jobs: list[Job], others: int) -> list[Job]:
        """Make the batch and its rows. Returns the jobs with rows, which have lent their samplers."""
        self._guessed = guessed = self._guesses.plan(jobs, others)
        if self._steady and not guessed and jobs == self._jobs:
            lent = self._lend(self._step.rows)
            if len(lent) == len(self._step.rows):
                return lent
            for job in lent:
                job.return_sampler()
        jobs = self._without_media(jobs)
        self._jobs, self._steady = jobs, False
        self._entries = self._fill(jobs)
        outputs = [(job, index) for job, index in self._entries if index >= 0]
        lent = self._lend([job for job, _ in outputs if job not in guessed], skip=True)
        with_rows = set(lent)
        for job, index in outputs:
            if job in with_rows:
                self._step.add_row(job, index)
        self._others = [(job, index) for job, index in outputs if job not in with_rows]
        return lent

    def _without_media(self, jobs: list[Job]) -> list[Job]:
        """Decode the image or sound that comes next in each of these jobs. Returns the jobs that go on with text."""
        if not any([job.media for job in jobs]):
            return jobs
        for job in jobs:
            if job.media and job.sequence is not None and not job.pending:
                try:
                    decode_next(self._context, self._cells, job, self._step.capacity)
                except ContextFullError as error:
                    self._owner.recover_cells(error)
                except BaseException as error:
                    self._fail(job, error)
        return [job for job in jobs if job.sequence is not None and job.pending]

    def _lend(self, jobs: list[Job], skip: bool = False) -> list[Job]:
        """Lend the samplers of these jobs to C. Returns the jobs up to the first one, or without those, that cannot."""
        context, lent = self._context, []
        for job in jobs:
            if job.lend_sampler(context):
                lent.append(job)
            elif not skip:
                break
        return lent

    def _fill(self, jobs: list[Job]) -> list[tuple[Job, int]]:
        """Fill the batch. Returns each job in it with the index of its output, or minus the number of its tokens."""
        step, entries = self._step, []
        step.clear()
        self._padded, self._scored, self._prompts = [], [], []
        self._cells.arrange([job.sequence for job in jobs if job.sequence is not None])
        plan = self._plan_prompts(jobs)
        for job in sorted(jobs, key=_sequence_number):  # llama.cpp computes streams together in this order only
            sequence, tokens = job.sequence, job.tokens
            assert sequence is not None
            start = len(sequence.tokens)
            count, dummies = plan.get(job, (1, 0))
            if start < job.pause < start + count:
                count, dummies = job.pause - start, 0
            if count == 1 and start == len(tokens) - 1 and not dummies and job.samples:
                position = sequence.position(start)
                entries.append((job, step.add_token(tokens[start], position, sequence.id)))
                if job in self._guessed:
                    self._cells.checkpoints.set_mark(sequence)
                    for i, token in enumerate(self._guessed[job], position + 1):
                        step.add_token(token, i, sequence.id)
            elif count:
                last = start + count == len(tokens)
                position = sequence.position(start)
                index = step.add_tokens(tokens[start : start + count], position, sequence.id, last and job.samples)
                entries.append((job, index if last and job.samples else -count))
                if job.unscored:
                    self._add_scored(job, job.rows_to_score(start, count), index - count + 1 - start)
                if last and not job.samples:
                    self._prompts.append(job)
            if dummies:
                position = sequence.position(start) + count
                step.add_tokens(array("i", [0]) * dummies, position, sequence.id, False)
                self._padded.append((sequence.id, position))
        return entries

    def _add_scored(self, job: Job, rows: range, offset: int) -> None:
        """Score a prompt by the outputs of these positions, each plus `offset` an entry of the batch."""
        if rows:
            self._step.add_outputs(range(rows.start + offset, rows.stop + offset))
            self._scored.append((job, rows, rows.start + offset))

    def _plan_prompts(self, jobs: list[Job]) -> Plan:
        prompts = [job for job in jobs if job.pending > 1]
        if not prompts:
            return {}
        free, cells = self._step.capacity - len(jobs) + len(prompts), self._cells
        scored = sum(job.unscored for job in prompts)
        if scored:
            plan = with_scores(prompts, free, self._rows - len(jobs) + scored, cells.plan)
        else:
            plan = cells.plan(prompts, free)
        for job in prompts:
            job.overtaken += not plan[job][0]
        return plan

    def _recover(self, error: BaseException) -> None:
        """Handle a failed step: make room, or end its requests. Raises the error if it is the end of the engine."""
        self._steady = False
        if isinstance(error, ContextFullError) and self._guessed:
            self._guesses.pause()
            return
        if isinstance(error, ContextFullError):
            self._owner.recover_cells(error)
            return
        if self._owner.is_over:
            raise error
        for job, _ in self._entries:
            self._owner.end(job, None, error)

    def _count_tokens(self) -> None:
        """Record the tokens of the batch, which are in the KV cache now."""
        cells = self._cells
        cells.copying = False
        for number, end in self._padded:
            cells.cut(number, end)
        for job, index in self._entries:
            sequence, tokens = job.sequence, job.tokens
            assert sequence is not None
            start = len(sequence.tokens)
            end = len(tokens) if index >= 0 else start - index
            if end == start + 1:
                cells.grow_one(sequence, tokens[start])
            else:
                cells.grow(sequence, tokens[start:end])

    def _make_checkpoints(self) -> None:
        for job, index in self._entries:
            sequence = job.sequence
            if index < 0 and sequence is not None and len(sequence.tokens) in job.stops:
                self._cells.checkpoint(sequence)

    # The results

    def _finish_prompts(self) -> None:
        """Score prompts, and end the requests of those after which nothing is generated."""
        for job, rows, index in self._scored:
            try:
                job.score(self._context, rows, index)
            except BaseException as error:
                self._fail(job, error)
                job.request._cancelled = True  # its outputs are not sampled
        for job in self._prompts:
            if not job.request._cancelled:
                job.request.usage.promptSeconds += job.request._lap()
                self._owner.end(job, StopReason.LENGTH)

    def _advance_rows(self, errors: dict[int, BaseException], now: float) -> None:
        """Publish what the step sampled."""
        context, wake, step = self._context, self._wake, self._step
        for row, (job, index, token, ends, size) in enumerate(step.results()):
            if job.request._cancelled:
                continue
            try:
                if row in errors:
                    raise errors[row]
                if token < 0:
                    no_token(token, context, index)
                reason = job.advance(context, index, token, ends, step.text(row, size), now, wake)
            except BaseException as error:
                self._fail(job, error)
                continue
            if reason is not None:
                self._owner.end(job, reason)

    def _sample(self, job: Job, index: int) -> None:
        """Sample in Python, and publish the result."""
        try:
            if job in self._guessed:
                reason = self._check_guesses(job, index, self._guessed[job])
            else:
                reason = job.sample(self._context, index, self._wake)
        except BaseException as error:
            self._fail(job, error)
            return
        if reason is not None:
            self._owner.end(job, reason)

    def _check_guesses(self, job: Job, index: int, guesses: list[Token]) -> StopReason | None:
        """Sample from the output of a token, and from those of the guesses after it as long as they are right.

        Returns why the text ends, or None.
        """
        sequence, cells, usage, known = job.sequence, self._cells, job.request.usage, job.guesses
        assert sequence is not None and known is not None
        usage.guessedTokens += len(guesses)
        right, wrong, reason = 0, False, None
        try:
            while not job.request._cancelled:
                reason = job.sample(self._context, index + right, self._wake)
                if reason is not None or right == len(guesses):
                    break
                wrong = job.tokens[-1] != guesses[right]
                if wrong:
                    break
                cells.grow_one(sequence, guesses[right])
                right += 1
                usage.acceptedTokens += 1
        finally:
            if right < len(guesses):
                cells.take_back(sequence)
            known.judged(right, wrong)
        return reason

    def _fail(self, job: Job, error: BaseException) -> None:
        """End a job whose sampling failed. Raises the error if it is the end of the engine."""
        if self._owner.is_over:
            raise error
        self._owner.end(job, None, error)


def _capacity(context: Context) -> int:
    """The most tokens of a batch.

    With a sliding window, llama.cpp plans all parts (of nUbatch tokens) of a batch before it computes the first, and
    drops the cells that later parts take from other sequences. Earlier parts may still attend to them. So a batch of a
    model with a window is a single part, if all sequences fit.
    """
    if not context.getModel().nSwa:
        return context.nBatch
    return max(context.nSeqMax, min(context.nBatch, context.nUbatch))


def _sequence_number(job: Job) -> int:
    assert job.sequence is not None
    return job.sequence.id
