"""Two reader-writer locks that ggml and llama.cpp lack.

`reading` and `writing`: computations against loading and freeing of adapters (in C++, `_shim/gate.hpp`). `listing` and
`registering`: reading ggml's list of backends and devices, as loading a model does, against adding a backend.
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
    """While a call computes, or makes a context: no adapter is loaded or freed."""
    lib.shim_begin_reading()
    try:
        yield
    finally:
        lib.shim_end_reading()


@contextmanager
def writing() -> Iterator[None]:
    """While an adapter is loaded or freed: nothing computes."""
    if not lib.shim_begin_writing():
        raise BusyError("adapters cannot be loaded or freed inside a callback of a computation: do it before or after")
    try:
        yield
    finally:
        lib.shim_end_writing()


class _Registry:
    """Many readers, or one writer. Both may come again on the thread that is in already."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.readers: dict[int, int] = {}  # thread -> how often it is in
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
    """While ggml's list of backends and devices is looked at: none is added."""
    registry = _registry
    registry.begin_reading()
    try:
        yield
    finally:
        registry.end_reading()


@contextmanager
def registering() -> Iterator[None]:
    """While a backend is added. Waits until nobody looks at the list. Raises BusyError on a thread that does."""
    registry = _registry
    registry.begin_writing()
    try:
        yield
    finally:
        registry.end_writing()


def _after_fork() -> None:
    global _registry
    _registry = _Registry()  # the other threads, which the child does not have, may be in


os.register_at_fork(after_in_child=_after_fork)
