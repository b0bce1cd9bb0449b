"""Handles: who owns a C object, when it may be freed, and what its Python object answers afterwards.

A child (a context of a model, a sampler in a chain) holds its parent, so the order in which Python collects them does
not matter: a parent that is collected first waits for its last child. Freeing a parent by hand frees its children.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from llama_cffi import errors
from llama_cffi._core import callbacks, process
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.guard_errors import live
from llama_cffi._core.process import fork_safe_lock
from llama_cffi._core.uncopyable import Uncopyable

if TYPE_CHECKING:
    from typing_extensions import Self

# Guards the counts below. Reentrant, because the garbage collector may run a finalizer while it is held.
_lock = fork_safe_lock(threading.RLock())


class Handle(Uncopyable):
    """A C object with a definite end: `close()`, `with`, `X.free(x)` and the garbage collector all lead to it."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_busy",
        "_children",
        "_closing",
        "_closed_reason",
        "_dependents",
        "_free_pending",
        "_owner",
        "_parent",
        "_pointer",
        "_pending_pointer",
    )

    _KIND: ClassVar[str] = "object"

    _pointer: Any  # None once it may not be used any more
    _closed_reason: str  # why not

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} objects are made by its class methods, not by calling the class")

    def _open(self, pointer: Any, parent: Handle | None = None) -> None:
        """Take ownership of a C object that lives no longer than `parent`."""
        self._pointer = pointer
        self._closed_reason = ""
        self._parent = parent
        self._children: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._dependents = 0
        self._free_pending = False
        self._busy = threading.Lock()
        self._owner = 0  # the thread that has it
        self._closing = ""  # why new calls are refused, although it is still there
        with _lock:
            orphaned = parent is not None and parent._pointer is None
            if parent is not None and not orphaned:
                parent._dependents += 1
                parent._children.add(self)
        if parent is not None and orphaned:  # another thread has freed it since
            self._pointer, self._parent = None, None
            self._destroy(pointer)
            parent._raise_closed()
        self._addresses: list[int] = []
        self._register_address(pointer)

    # Use

    @property
    def _c(self) -> Any:
        """The C pointer; raises once the object is closed."""
        pointer = self._pointer
        if pointer is None:
            self._raise_closed()
        return pointer

    @classmethod
    def _require(cls, value: object) -> None:
        """For what is called through the class: `Model.free(model)`."""
        if not isinstance(value, cls):
            raise TypeError(f"a {cls.__name__} is wanted, not {type(value).__name__}")

    @contextmanager
    def _pinned(self) -> Iterator[Any]:
        """The C pointer, which lives until the block ends: another thread that frees the object waits. For results that
        point into it.
        """
        pointer = self._c
        pin = lib.shim_pin(pointer)
        if pin == ffi.NULL:
            self._raise_closed()
        try:
            yield pointer
        finally:
            lib.shim_unpin(pin)

    def _acquire(self) -> Any:
        """Have the object to oneself until `_release`; raises where another call has it. Returns the C pointer."""
        if not self._busy.acquire(blocking=False):
            self._raise_busy()
        self._owner = threading.get_ident()
        pointer = self._pointer
        if pointer is None or self._closing:  # another thread has freed it, or waits for its turn to
            self._release()
            self._raise_closed()
        return pointer

    def _release(self) -> None:
        self._owner = 0
        self._busy.release()

    @contextmanager
    def _exclusive(self) -> Iterator[Any]:
        """The same for a block."""
        pointer = self._acquire()
        try:
            yield pointer
        finally:
            self._release()

    def _acquire_waiting(self) -> None:
        """Have the object to oneself until `_release`, once the calls of other threads have ended."""
        if self._busy.acquire(blocking=False):
            pass
        elif self._owner == threading.get_ident() or lib.shim_in_callback():
            self._raise_busy()  # this thread would wait for itself, or for one that may wait for it
        else:
            self._busy.acquire()
        self._owner = threading.get_ident()

    @contextmanager
    def _exclusive_waiting(self) -> Iterator[Any]:
        """Have the object to oneself for a block, after the calls of other threads. Gives the C pointer."""
        self._acquire_waiting()
        try:
            yield self._c
        finally:
            self._release()

    def _run(self, function: Any, *arguments: Any) -> Any:
        """Call `function(pointer, ...)` while no other call uses the object; raise what a callback raised."""
        pointer = self._acquire()
        try:
            result = function(pointer, *arguments)
        finally:
            self._release()
        callbacks.reraise()
        return result

    def _raise_closed(self) -> NoReturn:
        process.leave_if_ending()
        why = getattr(self, "_closing", "") or getattr(self, "_closed_reason", "it was never opened")
        raise errors.ClosedError(f"this {self._KIND} cannot be used: {why}")

    def _raise_busy(self) -> NoReturn:
        if self._pointer is None:
            self._raise_closed()
        raise errors.BusyError(
            f"this {self._KIND} is in use by another call. One {self._KIND} serves one call at a time: use a lock, "
            f"or one {self._KIND} for each thread."
        )

    def _invalidate(self, why: str) -> None:
        """Refuse further use. The C object stays: nobody knows whether it can be freed safely."""
        self._pointer = None
        self._closed_reason = why

    def _register_address(self, pointer: Any) -> None:
        """A C object inside this one: a failed call that had it to write to concerns this one too."""
        address = _address(pointer)
        self._addresses.append(address)
        with _lock:
            live[address] = self

    def _allow_only_close(self, why: str) -> None:
        """Refuse further use, but for `close`."""
        self._closing = why

    # End

    @property
    def closed(self) -> bool:
        """Whether the object was freed, or can no longer be used for another reason."""
        return self._pointer is None

    def close(self) -> None:
        """Free the object and everything made from it. Closing twice is harmless.

        Waits for a call that another thread makes on it. Raises BusyError inside a callback of such a call.
        """
        pointer = self._pointer
        if pointer is None:
            return
        self._closing = "it is being freed"
        try:
            self._acquire_waiting()
            try:
                with _lock:  # another thread may be making a child
                    children = [child for child in self._children if not child.closed]
                for child in children:
                    child._check_no_deadlock()
                for child in children:
                    child._close_with_parent(f"its {self._KIND} was freed")
                self._detach_users()
                self._finish("it was freed")
            finally:
                self._release()
        finally:
            self._closing = ""

    def _check_no_deadlock(self) -> None:
        """Refuse to be freed with the parent where waiting for the end of a call would never end."""
        if self._busy.locked() and (self._owner == threading.get_ident() or lib.shim_in_callback()):
            self._raise_busy()

    def _detach_users(self) -> None:
        """Take the object from those who use it, or refuse to be freed before they end."""

    def _close_with_parent(self, why: str) -> None:
        self.close()
        self._closed_reason = why

    def _finish(self, why: str) -> None:
        """Free the C object now, or as soon as the last child is gone."""
        with _lock:
            pointer, self._pointer = self._pointer, None
            if pointer is None:
                return
            self._closed_reason = why
            if self._dependents:
                self._free_pending = True
                self._pending_pointer = pointer
                return
        self._free_native(pointer)

    def _free_native(self, pointer: Any) -> None:
        for address in [address for address in self._addresses if live.get(address) is self]:
            del live[address]
        self._destroy(pointer)
        parent, self._parent = self._parent, None
        if parent is not None:
            parent._remove_dependent()

    def _add_dependent(self) -> None:
        """Have the C object stay until `_remove_dependent` is called once more."""
        with _lock:
            self._dependents += 1

    def _remove_dependent(self) -> None:
        with _lock:
            self._dependents -= 1
            if self._dependents or not self._free_pending:
                return
            self._free_pending = False
            pointer = self._pending_pointer
        self._free_native(pointer)

    def _destroy(self, pointer: Any) -> None:
        """Call the C function that frees this kind of object."""
        raise NotImplementedError

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            self._finish("it was collected")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"closed: {self._closed_reason}" if self._pointer is None else f"at {_address(self._pointer):#x}"
        return f"<{type(self).__name__} {state}>"


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def _after_fork() -> None:
    """A forked child has the memory but not the threads: nothing there may be used, and nothing freed."""
    for handle in list(live.values()):
        handle._invalidate(
            "it belongs to the parent process; load the model after the fork, or start processes with spawn"
        )


os.register_at_fork(after_in_child=_after_fork)

_PATIENCE = 2.0  # seconds; a callback may be waiting for something that never comes


@atexit.register
def _at_exit() -> None:
    """Bring computations of daemon threads to their end, before the memory under them goes."""
    process.ending = True
    lib.shim_stop()
    lib.shim_log_keep(False)  # what is freed from now on logs to nobody: Python's modules are about to go
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and (lib.shim_callbacks() or any(h._busy.locked() for h in list(live.values()))):
        time.sleep(0.001)
