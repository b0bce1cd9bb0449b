"""Zero-copy arrays over the output buffer of a context. They never dangle: the context keeps count of them.

An array is a memoryview over a cffi buffer, whose pointer has its own destructor. Arrays that numpy or torch make of it
keep the same buffer alive, so the destructor runs when the last array is gone. (Weak references would not work: the
garbage collector clears those of a context that it collects.)
"""

from __future__ import annotations

import weakref

from llama_cffi._core.ffi import ffi
from llama_cffi._core.ownership import Owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Views:
    """The arrays over one block of C memory, which belongs to the C object of `owned`."""

    __slots__ = ("exported", "owned")

    exported: list[weakref.ref[memoryview[float]]]
    """The memoryviews that `invalidate` can release."""

    def __init__(self, owned: Owned) -> None:
        self.owned = owned
        self.exported = []

    @property
    def count(self) -> int:
        """Number of arrays that use the memory, including those made of them by numpy."""
        return self.owned.pins

    def export(self, pointer: Any, count: int, shape: tuple[int, ...] | None = None) -> memoryview[float]:
        """Return a writable array over `count` floats of C, without a copy."""
        pin = self.owned.pin()
        assert pin is not None  # the context is acquired
        pinned = ffi.gc(pointer, pin.finish)
        plain = memoryview(ffi.buffer(pinned, 4 * count)).cast("B")
        view = plain.cast("f", shape) if shape else plain.cast("f")
        exported = self.exported
        while exported and exported[-1]() is None:
            exported.pop()
        exported.append(weakref.ref(view))
        if len(exported) > 2 * self.count + 8:
            self.exported = [reference for reference in exported if reference() is not None]
        return view

    def invalidate(self) -> bool:
        """Make the exported memoryviews raise when used. Return True if arrays are left that cannot, such as numpy's.

        Those stay valid, so their memory must not move.
        """
        for reference in self.exported:
            view = reference()
            if view is not None:
                try:
                    view.release()
                except BufferError:  # a numpy array uses it
                    pass
        self.exported.clear()
        return self.count > 0


def own_copy(pointer: Any, count: int) -> memoryview[float]:
    """Return an array with a copy of `count` floats of C."""
    array = ffi.new("float[]", count)
    ffi.memmove(array, pointer, 4 * count)
    return memoryview(ffi.buffer(array)).cast("B").cast("f")
