"""The order of an engine's requests: by priority, then by arrival, unless one was overtaken too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.engine.job import Job

MAX_OVERTAKEN = 32  # later requests that may start before an earlier one
_MAX_PREEMPTIONS = 4  # then a request keeps its cells, whatever the priority of others


def rank(job: Job) -> tuple[bool, int, int]:
    """A sort key: jobs with smaller keys go first."""
    return job.overtaken < MAX_OVERTAKEN, -job.request.priority, job.serial


def precedence(job: Job) -> tuple[bool, int, int]:
    """A sort key: who keeps its cells. The job with the largest one is preempted first."""
    return job.preemptions < _MAX_PREEMPTIONS, -job.request.priority, job.serial
