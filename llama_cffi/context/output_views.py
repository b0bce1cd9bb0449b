"""Arrays over memory that belongs to C. They never dangle: whoever wants to move or free that memory asks here first.

An array is a memoryview over a cffi buffer, which holds a pointer with a destructor of its own. Arrays that numpy or
torch make of it hold the same buffer, so that the destructor runs when nothing looks at the memory any more. (Weak
references would not do: the garbage collector clears those of a context that is collected.)
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from llama_cffi._core.ffi import ffi
from llama_cffi._core.process import fork_safe_lock

_lock = fork_safe_lock(threading.RLock())  # a destructor may run on any thread, also while this one holds the lock


class Views:
    """The arrays that were given out over one block of C memory."""

    __slots__ = ("_when_gone", "count", "given")

    count: int
    """How many arrays look at the memory."""
    given: list[weakref.ref[memoryview[float]]]
    """Those that may still be made to raise."""

    def __init__(self) -> None:
        self.count = 0
        self._when_gone: Callable[[], None] | None = None
        self.given = []

    def give(self, pointer: Any, count: int, shape: tuple[int, ...] | None = None) -> memoryview[float]:
        """An array of `count` floats, writable, as C has them."""
        with _lock:
            self.count += 1
        pinned = ffi.gc(pointer, self._unpin)
        plain = memoryview(ffi.buffer(pinned, 4 * count)).cast("B")
        view = plain.cast("f", shape) if shape else plain.cast("f")
        given = self.given
        while given and given[-1]() is None:
            given.pop()
        given.append(weakref.ref(view))
        if len(given) > 2 * self.count + 8:
            self.given = [reference for reference in given if reference() is not None]
        return view

    def _unpin(self, _: Any) -> None:
        with _lock:
            self.count -= 1
            when_gone = self._when_gone if self.count == 0 else None
        if when_gone is not None:
            when_gone()

    def invalidate(self) -> bool:
        """Make the arrays given out so far raise when used. Those made of them by numpy cannot, and stay valid: whether
        there are such.
        """
        for reference in self.given:
            view = reference()
            if view is not None:
                try:
                    view.release()
                except BufferError:  # numpy looks through it
                    pass
        self.given.clear()
        return self.count > 0

    def close_when_unused(self, when_gone: Callable[[], None]) -> int:
        """Have `when_gone` called once nothing looks at the memory any more. Returns 0 if nothing does now, else 1."""
        with _lock:
            if self.count == 0:
                return 0
            self._when_gone = when_gone
            return 1


def own_copy(pointer: Any, count: int) -> memoryview[float]:
    """An array of `count` floats with memory of its own."""
    array = ffi.new("float[]", count)
    ffi.memmove(array, pointer, 4 * count)
    return memoryview(ffi.buffer(array)).cast("B").cast("f")
