"""What this process is to llama.cpp: one that has computed, a forked child of such a one, or one that is ending."""

from __future__ import annotations

import os
import threading

from llama_cffi.errors import ForkError

_computed = False  # from then on the threads of OpenMP belong to this process alone
_orphan = False  # forked from a process that had computed
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


def leave_if_ending() -> None:
    """Where a call fails because the interpreter is ending: end a daemon thread without a word, as Python does."""
    if ending and threading.current_thread().daemon:
        raise SystemExit


def _after_fork() -> None:
    global _orphan
    _orphan |= _computed


os.register_at_fork(after_in_child=_after_fork)
