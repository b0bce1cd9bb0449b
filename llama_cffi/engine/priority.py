"""The order of an engine's requests: by priority, then by arrival, unless one was overtaken too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.engine.job import Job

MAX_OVERTAKEN = 32  # later requests that may start before an earlier one


def rank(job: Job) -> tuple[bool, int, int]:
    """A sort key: jobs with smaller keys go first."""
    return job.overtaken < MAX_OVERTAKEN, -job.request.priority, job.serial
