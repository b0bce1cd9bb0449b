"""The requests that wait for a sequence of the engine, and which one is next."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from llama_cffi.engine.job import Job
from llama_cffi.engine.memory_layout import MemoryLayout
from llama_cffi.engine.priority import MAX_OVERTAKEN, rank
from llama_cffi.generation.prefix import common_length

if TYPE_CHECKING:
    from collections.abc import Sequence


_CANDIDATES = 8  # requests to try until one fits
_MIN_SHARED = 32  # tokens of a common prefix that are worth waiting for


class WaitingQueue:
    """Requests by priority, then by arrival. One that was overtaken too often comes before all others.

    A request that does not fit now may be overtaken by smaller ones. One whose prefix another request is decoding waits
    for that, to share it.
    """

    def __init__(self, layout: MemoryLayout) -> None:
        self._layout = layout
        self.jobs: list[Job] = []
        self.ended = 0  # requests so far

    @property
    def first(self) -> Job:
        """The job that goes before all others, if it fits."""
        return min(self.jobs, key=rank)

    def next(self, running: Sequence[Job]) -> Job | None:
        """Return the first job whose reservation fits, besides those of running jobs; evicts kept cells for it."""
        cells = self._layout.pool
        sequences = [job.sequence for job in running if job.sequence is not None]
        outstanding = sum(job.reserved for job in running) - sum(len(sequence.tokens) for sequence in sequences)
        for job in nsmallest(_CANDIDATES, self.jobs, key=rank):
            if job.preempted_at == self.ended and running:
                continue
            donor, shared = cells.find(job.shareable, sequences, job.adapters.key)
            if self._is_being_decoded(job, shared, running):
                continue
            if cells.evict_for(job.reserved - shared, outstanding, donor, shared):
                return job
            if job.overtaken >= MAX_OVERTAKEN:
                break
        return None

    def remove(self, job: Job) -> None:
        """Remove a job that starts now."""
        self.jobs.remove(job)
        for other in self.jobs:
            other.overtaken += other.serial < job.serial
        job.overtaken = 0

    def put_back(self, job: Job) -> None:
        """Add a preempted job, which waits until another request ends."""
        job.preempted_at = self.ended
        self.jobs.append(job)

    def _is_being_decoded(self, job: Job, shared: int, running: Sequence[Job]) -> bool:
        """True if a running job is about to decode a longer prefix of this one than it could share now."""
        tokens = job.shareable
        pool = self._layout.pool
        if shared + 1 >= len(tokens) or not (pool.shares_parts or pool.checkpoints.useful):
            return False
        for other in running:
            if other.pending < 2 or other.adapters.key != job.adapters.key:
                continue
            if other.request.priority < job.request.priority:
                continue
            common = common_length(tokens, other.tokens)
            least = 1 if common == len(tokens) == len(other.tokens) else _MIN_SHARED  # the same prompt is decoded once
            if shared + least < len(tokens) and other.will_share(common, pool.shares_parts) >= shared + least:
                return True
        return False
