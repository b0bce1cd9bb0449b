"""Two reader-writer locks, which protect what ggml and llama.cpp do not.

`reading` and `writing` (in C++, `_shim/gate.hpp`): many computations, or one adapter that is loaded or freed.
`listing` and `registering`: many readers of ggml's list of backends and devices (a model load is one), or one change.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llama_cffi._core.ffi import lib
from llama_cffi.errors import BusyError


@contextmanager
def reading() -> Iterator[None]:
    """Hold while a call computes or a context is created: adapters are not loaded or freed meanwhile."""
    lib.shim_begin_reading()
    try:
        yield
    finally:
        lib.shim_end_reading()


@contextmanager
def writing() -> Iterator[None]:
    """Hold while an adapter is loaded or freed: nothing computes meanwhile. Raises BusyError inside a callback."""
    if not lib.shim_begin_writing():
        raise BusyError(
            "adapters cannot be loaded or freed inside a callback of a computation: do that before or after it"
        )
    try:
        yield
    finally:
        lib.shim_end_writing()


class _Registry:
    """A reader-writer lock that is reentrant on the same thread, for readers and for the writer."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.readers: dict[int, int] = {}  # thread -> number of nested acquisitions
        self.writer = 0
        self.depth = 0

    def begin_reading(self) -> None:
        me = threading.get_ident()
        with self.changed:
            self.changed.wait_for(lambda: self.writer in (0, me))
            self.readers[me] = self.readers.get(me, 0) + 1

    def end_reading(self) -> None:
        me = threading.get_ident()
        with self.changed:
            self.readers[me] -= 1
            if not self.readers[me]:
                del self.readers[me]
            self.changed.notify_all()

    def begin_writing(self) -> None:
        me = threading.get_ident()
        with self.changed:
            if me in self.readers and self.writer != me:
                raise BusyError(
                    "a backend cannot be loaded inside a callback of a model that is loading: load it before or after"
                )
            self.changed.wait_for(lambda: self.writer == me or not (self.writer or self.readers))
            self.writer = me
            self.depth += 1

    def end_writing(self) -> None:
        with self.changed:
            self.depth -= 1
            if not self.depth:
                self.writer = 0
            self.changed.notify_all()


_registry = _Registry()


@contextmanager
def listing() -> Iterator[None]:
    """Hold while ggml's list of backends and devices is read: nothing is added meanwhile."""
    registry = _registry
    registry.begin_reading()
    try:
        yield
    finally:
        registry.end_reading()


@contextmanager
def registering() -> Iterator[None]:
    """Hold while a backend is added. Waits for the readers. Raises BusyError if this thread is one of them."""
    registry = _registry
    registry.begin_writing()
    try:
        yield
    finally:
        registry.end_writing()


def _after_fork() -> None:
    global _registry
    _registry = _Registry()  # threads that do not exist in the child may hold the old one


os.register_at_fork(after_in_child=_after_fork)
