"""What this process is to llama.cpp: one that has computed, a forked child of such a one, or one that is ending."""

from __future__ import annotations

import os
import threading
from typing import Any, TypeVar

from llama_cffi.errors import ForkError

_Lock = TypeVar("_Lock")

_locks: list[Any] = []


def fork_safe_lock(lock: _Lock) -> _Lock:
    """A lock of a module that a forked child gets free: a thread that the child does not have may hold the parent's."""
    _locks.append(lock)
    return lock


_computed = False  # from then on the threads of OpenMP belong to this process alone
_orphan = False  # forked from a process that had computed
_devices = False  # whether this process has opened GPUs
_foreign_devices = False  # whether its parent had, before the fork
ending = False  # whether the interpreter is


def require_threads() -> None:
    """Before a context is made: refuse in a process whose computations would wait for threads that it does not have."""
    global _computed
    if _orphan:
        raise ForkError(
            "this process was forked after llama.cpp had computed in its parent: its computations would wait for ever. "
            "Fork before the first context is made, or start processes by multiprocessing's 'spawn' method"
        )
    _computed = True


def devices_opened() -> None:
    """From now on the drivers of GPUs are at work here, which a fork would not take along."""
    global _devices
    _devices = True


def require_devices() -> None:
    """Before a model is loaded: refuse in a process whose GPUs are open in its parent."""
    if _foreign_devices:
        raise ForkError(
            "this process was forked after a backend for GPUs was loaded in its parent, whose devices it does not "
            "have. Fork before Vulkan is loaded, or start processes by multiprocessing's 'spawn' method"
        )


def leave_if_ending() -> None:
    """Where a call fails because the interpreter is ending: end a daemon thread without a word, as Python does."""
    if ending and threading.current_thread().daemon:
        raise SystemExit


def _after_fork() -> None:
    global _orphan, _foreign_devices
    for lock in _locks:
        lock._at_fork_reinit()  # what threading and logging do with theirs
    _orphan |= _computed
    _foreign_devices |= _devices


os.register_at_fork(after_in_child=_after_fork)
