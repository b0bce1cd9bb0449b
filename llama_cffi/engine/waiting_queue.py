"""The requests of an engine that wait for a sequence, and which one is next."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from llama_cffi.engine.cell_pool import Cells, common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_cffi.engine.job import Job

_PATIENCE = 32  # how often later requests may go before one
_CHOICE = 8  # how many requests are looked at for one that fits
_WORTH_WAITING = 32  # tokens that another request is about to decode, and that need not be decoded twice


class Queue:
    """Requests by priority, then in the order in which they came. One that was overtaken often goes before any other.

    One that does not fit now may be overtaken by those that do. One that begins like a request whose prompt is being
    decoded waits for that, to share it.
    """

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self.jobs: list[Job] = []
        self.ended = 0  # requests so far

    def next(self, running: Sequence[Job]) -> Job | None:
        """The first one for which there is room: for all that it may become, so that none is left without later."""
        sequences = [job.sequence for job in running if job.sequence is not None]
        reserved = sum(job.final for job in running) - sum(len(sequence.tokens) for sequence in sequences)
        for job in nsmallest(_CHOICE, self.jobs, key=rank):
            if job.parked == self.ended and running:
                continue
            donor, shared = self._cells.find(job.tokens, sequences)
            if self._is_coming(job, shared, running):
                continue
            if self._cells.makeRoom(job.final - shared, reserved, donor, shared):
                return job
            if job.overtaken >= _PATIENCE:
                break
        return None

    def take(self, job: Job) -> None:
        """It is no longer waiting."""
        self.jobs.remove(job)
        for other in self.jobs:
            other.overtaken += other.serial < job.serial
        job.overtaken = 0

    def putBack(self, job: Job) -> None:
        """It had a sequence, and has none any more: it waits until another request ends."""
        job.parked = self.ended
        self.jobs.append(job)

    def _is_coming(self, job: Job, shared: int, running: Sequence[Job]) -> bool:
        """Whether a request at work is about to decode much of what this one begins with."""
        wanted = shared + _WORTH_WAITING
        if wanted >= len(job.tokens) or not self._cells.sharesParts:
            return False
        return any(
            other.rest > 1
            and other.request.priority >= job.request.priority
            and common(job.tokens, other.tokens) >= wanted
            for other in running
        )


def rank(job: Job) -> tuple[bool, int, int]:
    """Small ones go first."""
    return job.overtaken < _PATIENCE, -job.request.priority, job.serial
