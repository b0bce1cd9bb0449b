"""What a fork does to engines: the child has none of their threads, so their requests end there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llama_cffi._core.ownership import WeakRefs
from llama_cffi.errors import ForkError

if TYPE_CHECKING:
    from llama_cffi.engine.scheduler import Scheduler

_schedulers = WeakRefs()


def watch(scheduler: Scheduler) -> None:
    """End the requests of a scheduler in children that are forked from now on."""
    _schedulers.add(scheduler)


def _after_fork() -> None:
    for scheduler in list(_schedulers):
        scheduler.after_fork(
            ForkError(
                "this engine belongs to the parent process: make one after the fork, or start processes with spawn"
            )
        )


os.register_at_fork(after_in_child=_after_fork)
