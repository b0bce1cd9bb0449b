"""`Handle`, the base class of every object that owns a C object: ownership, exclusive use, closing.

A child (a context of a model, a sampler in a chain) keeps its parent alive: a parent that Python collects first is
freed after its last child. Closing a parent explicitly closes its children first.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from llama_cffi import errors
from llama_cffi._core import callbacks, process
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.guard_errors import handles_by_address
from llama_cffi._core.process import fork_safe_lock
from llama_cffi._core.uncopyable import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, NoReturn

    from typing_extensions import Self

# Protects the counts of all handles. Reentrant: the garbage collector may run a finalizer while it is held.
_lock = fork_safe_lock(threading.RLock())


class Handle(Uncopyable):
    """Owns a C object until `close()`, the end of a `with` block, `X.free(x)` or the garbage collector frees it."""

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

    _pointer: Any  # None after the end of its use
    _closed_reason: str  # why `_pointer` is None, for the message of ClosedError

    _MADE_BY: ClassVar[str] = "use its class methods"

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} objects are not made by calling the class: {self._MADE_BY}")

    def _open(self, pointer: Any, parent: Handle | None = None) -> None:
        """Take ownership of a C object, which must not outlive that of `parent`."""
        self._pointer = pointer
        self._closed_reason = ""
        self._parent = parent
        self._children: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._dependents = 0
        self._free_pending = False
        self._busy = threading.Lock()
        self._owner = 0  # the thread that has acquired it
        self._closing = ""  # why new calls are refused although the object is not closed yet; empty: they are not
        with _lock:
            orphaned = parent is not None and parent._pointer is None
            if parent is not None and not orphaned:
                parent._dependents += 1
                parent._children.add(self)
        if parent is not None and orphaned:  # another thread has closed the parent since the call began
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
        """Check `self` of a method that may be called through the class: `Model.free(model)`."""
        if not isinstance(value, cls):
            raise expected(f"a {cls.__name__}", value)

    @contextmanager
    def _pinned(self) -> Iterator[Any]:
        """Yield the C pointer, and keep the C object until the block ends: a thread that frees it waits.

        For results that point into the object.
        """
        pointer = self._c
        pin = lib.shim_pin(pointer)
        if pin == ffi.NULL:
            self._raise_closed()
        try:
            yield pointer
        finally:
            lib.shim_unpin(pin)

    # One call at a time uses the object. Three places contain copies of `_acquire` and `_release`, because they run for
    # every token: `Context._compute` (context/context.py), the outputs of a context (context/outputs.py) and
    # `Sampler.sample` (sampling/sampler.py). Change all of them together.

    def _acquire(self) -> Any:
        """Acquire exclusive use and return the C pointer. Raises BusyError if in use, ClosedError if closed."""
        if not self._busy.acquire(blocking=False):
            self._raise_busy()
        self._owner = threading.get_ident()
        pointer = self._pointer
        if pointer is None or self._closing:  # another thread has closed it, or is waiting to
            self._release()
            self._raise_closed()
        return pointer

    def _release(self) -> None:
        self._owner = 0
        self._busy.release()

    @contextmanager
    def _exclusive(self) -> Iterator[Any]:
        """Acquire exclusive use for a block and yield the C pointer; see `_acquire`."""
        pointer = self._acquire()
        try:
            yield pointer
        finally:
            self._release()

    def _acquire_waiting(self) -> None:
        """Acquire exclusive use after the calls of other threads. Raises BusyError if waiting would deadlock."""
        if self._busy.acquire(blocking=False):
            pass
        elif self._owner == threading.get_ident() or lib.shim_in_callback():
            self._raise_busy()  # this thread would wait for itself, or for a thread that may wait for it
        else:
            self._busy.acquire()
        self._owner = threading.get_ident()

    @contextmanager
    def _exclusive_waiting(self) -> Iterator[Any]:
        """Acquire exclusive use for a block, after the calls of other threads, and yield the C pointer."""
        self._acquire_waiting()
        try:
            yield self._c
        finally:
            self._release()

    def _run(self, function: Any, *arguments: Any) -> Any:
        """Call `function(pointer, ...)` with exclusive use. Raises what a callback raised meanwhile."""
        pointer = self._acquire()
        try:
            result = function(pointer, *arguments)
        finally:
            self._release()
        callbacks.reraise()
        return result

    def _raise_closed(self) -> NoReturn:
        process.leave_if_ending()
        why = getattr(self, "_closing", "") or getattr(self, "_closed_reason", "its constructor did not finish")
        raise errors.ClosedError(f"this {self._KIND} cannot be used: {why}")

    def _raise_busy(self) -> NoReturn:
        if self._pointer is None:
            self._raise_closed()
        raise errors.BusyError(
            f"this {self._KIND} is in use by another call. One {self._KIND} serves one call at a time: use a lock, "
            f"or one {self._KIND} for each thread."
        )

    def _invalidate(self, why: str) -> None:
        """Refuse all further use, and never free the C object: that may not be safe after a failed call."""
        self._pointer = None
        self._closed_reason = why

    def _register_address(self, pointer: Any) -> None:
        """Map the address of this C object, or of one inside it, to this handle, for calls that fail in it."""
        address = _address(pointer)
        self._addresses.append(address)
        with _lock:
            handles_by_address[address] = self

    def _allow_only_close(self, why: str) -> None:
        """Refuse all further calls except `close`."""
        self._closing = why

    # End

    @property
    def closed(self) -> bool:
        """True if the object was freed, or cannot be used any more for another reason."""
        return self._pointer is None

    def close(self) -> None:
        """Free the object and everything made from it. Closing twice is harmless.

        Waits until a call of another thread on the object ends. Raises BusyError inside a callback of such a call.
        """
        pointer = self._pointer
        if pointer is None:
            return
        self._closing = "it is being freed"
        try:
            self._acquire_waiting()
            try:
                with _lock:  # another thread may create a child
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
        """Before the parent is closed: raise BusyError if waiting for the call in progress would deadlock."""
        if self._busy.locked() and (self._owner == threading.get_ident() or lib.shim_in_callback()):
            self._raise_busy()

    def _detach_users(self) -> None:
        """Before the object is freed: detach it from its users, or raise BusyError if they must be freed first."""

    def _close_with_parent(self, why: str) -> None:
        self.close()
        self._closed_reason = why

    def _finish(self, why: str) -> None:
        """Free the C object now, or after its last dependent."""
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
        for address in [address for address in self._addresses if handles_by_address.get(address) is self]:
            del handles_by_address[address]
        self._destroy(pointer)
        parent, self._parent = self._parent, None
        if parent is not None:
            parent._remove_dependent()

    def _add_dependent(self) -> None:
        """Delay the end of the C object until a matching call of `_remove_dependent`."""
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

    def _describe(self) -> str:
        """What `repr` shows of an open object."""
        return f"at {_address(self._pointer):#x}"

    def __repr__(self) -> str:
        kind = type(self).__name__
        try:
            if self._pointer is not None:
                return f"<{kind} {self._describe()}>"
        except Exception:  # it was closed meanwhile, or its constructor has not finished
            pass
        return f"<{kind} closed: {getattr(self, '_closed_reason', '') or 'its constructor did not finish'}>"


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def _after_fork() -> None:
    """A forked child has the parent's memory but not its threads: it must neither use nor free any object."""
    for handle in list(handles_by_address.values()):
        handle._invalidate(
            "it belongs to the parent process; load the model after the fork, or start processes with spawn"
        )


os.register_at_fork(after_in_child=_after_fork)

_EXIT_TIMEOUT_S = 2.0  # a callback may wait for something that never happens


@atexit.register
def _at_exit() -> None:
    """Stop the computations of daemon threads before the interpreter frees the memory that they use."""
    process.ending = True
    lib.shim_stop()
    lib.shim_log_keep(False)  # no log lines from now on: Python's modules are about to be torn down
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    while time.monotonic() < deadline and (lib.shim_callbacks() or _in_use()):
        time.sleep(0.001)


def _in_use() -> bool:
    return any(handle._busy.locked() for handle in list(handles_by_address.values()))
