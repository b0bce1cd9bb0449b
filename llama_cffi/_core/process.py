"""State of the process: refuses computations and devices after a fork, and ends daemon threads at exit."""

from __future__ import annotations

import os
import threading

from llama_cffi.errors import ForkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _Lock = TypeVar("_Lock")


_locks: list[Any] = []


def fork_safe_lock(lock: _Lock) -> _Lock:
    """Return `lock`, which is reset in forked children: there, the thread that holds it may not exist."""
    _locks.append(lock)
    return lock


_computed = False  # this process has OpenMP threads, which its forks will not have
_orphan = False  # this process was forked from one that had computed
_devices = False  # this process has opened GPUs
_foreign_devices = False  # its parent had opened GPUs before the fork
ending = False  # the interpreter is shutting down


def require_threads() -> None:
    """Before a context is created: raise ForkError if computations would wait for threads of the parent process."""
    global _computed
    if _orphan:
        raise ForkError(
            "this process was forked after its parent had computed with llama.cpp: its computations would never end. "
            "Fork before the first context is created, or start processes by multiprocessing's 'spawn' method"
        )
    _computed = True


def devices_opened() -> None:
    """Record that this process has opened GPUs, which its forks cannot use."""
    global _devices
    _devices = True


def require_devices() -> None:
    """Before a model is loaded: raise ForkError if the parent process has opened the GPUs."""
    if _foreign_devices:
        raise ForkError(
            "this process was forked after its parent had loaded a GPU backend, and cannot use those devices. Fork "
            "before Vulkan is loaded, or start processes by multiprocessing's 'spawn' method"
        )


def leave_if_ending() -> None:
    """End a daemon thread silently, as Python does, if a call fails because the interpreter is shutting down."""
    if ending and threading.current_thread().daemon:
        raise SystemExit


def _after_fork() -> None:
    global _orphan, _foreign_devices
    for lock in _locks:
        lock._at_fork_reinit()  # as threading and logging do with their locks
    _orphan |= _computed
    _foreign_devices |= _devices


os.register_at_fork(after_in_child=_after_fork)
