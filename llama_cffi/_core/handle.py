"""`Handle`, the base class of every object that owns a C object: ownership, exclusive use, closing.

A child (a context of a model, a sampler in a chain) keeps its parent alive: a parent that Python collects first is
freed after its last child. Closing a parent explicitly closes its children first.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from functools import partial
from threading import get_ident

from llama_cffi import errors
from llama_cffi._core import callbacks, process
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.guard_errors import find_handle, handles_by_address
from llama_cffi._core.ownership import Lock, Owned, exclusive, exclusive_closing, exclusive_waiting, hold
from llama_cffi._core.uncopyable import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from typing import Any, ClassVar, NoReturn

    from typing_extensions import Self

    from llama_cffi._core.guard_errors import Suspect


class Handle(Uncopyable):
    """Owns a C object until `close()`, the end of a `with` block, `X.free(x)` or the garbage collector frees it."""

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_busy",
        "_children",
        "_closing",
        "_closed_reason",
        "_owned",
        "_parent",
        "_pointer",
    )

    _KIND: ClassVar[str] = "object"

    _pointer: Any  # None after the end of its use
    _owned: Owned | None  # frees the C object; None after the end of its use
    _closed_reason: str  # why `_pointer` is None, for the message of ClosedError
    _closing: str  # why new calls are refused although the object is not closed yet; empty: they are not
    _busy: Lock  # who uses it

    _MADE_BY: ClassVar[str] = "use its class methods"

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} objects are not made by calling the class: {self._MADE_BY}")

    def _open(self, owned: Owned, parent: Handle | None = None) -> None:
        """Take a C object, which must not outlive that of `parent`. Until this has returned, `owned` alone frees it."""
        self._closed_reason = self._closing = ""
        self._parent = parent
        self._children: set[weakref.ref[Handle]] = set()
        self._addresses: list[int] = []
        self._busy = Lock()
        self._owned = owned
        self._pointer = owned.pointer
        if parent is not None:
            owner = parent._owned
            if owner is not None and owned.keep(owner):
                parent._children.add(weakref.ref(self, parent._children.discard))
            if parent._pointer is None:  # another thread has closed the parent since the call began
                self._finish(f"its {parent._KIND} was freed")
                parent._raise_closed()
        self._register_address(self._pointer)

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

    def _pinned(self) -> AbstractContextManager[Any]:
        """Return a context manager that keeps the C object until the block ends, and yields the C pointer.

        For results that point into the object.
        """
        owned = self._owned
        return (None if owned is None else owned.pin()) or self._raise_closed()

    # One call at a time uses the object. `self._exclusive()` is `exclusive(self)`; but samplers acquire their chain.

    def _exclusive(self) -> AbstractContextManager[Any]:
        """Return a context manager that acquires exclusive use for a block and yields the C pointer.

        Raises BusyError if the object is in use, ClosedError if it is closed.
        """
        return exclusive(self)

    def _exclusive_waiting(self) -> AbstractContextManager[Any]:
        """Return `_exclusive`, after the calls of other threads. Raises BusyError if waiting would deadlock."""
        return exclusive_waiting(self)

    def _run(self, function: Any, *arguments: Any) -> Any:
        """Call `function(pointer, ...)` with exclusive use. Raises what a callback raised meanwhile."""
        with exclusive(self) as pointer:
            result = function(pointer, *arguments)
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
        self._closed_reason = why
        self._pointer = None
        if self._owned is not None:
            self._owned.abandon()
            self._owned = None

    def _register_address(self, pointer: Any) -> None:
        """Map the address of this C object, or of one inside it, to this handle, for calls that fail in it."""
        address = _address(pointer)
        self._addresses.append(address)
        handles_by_address[address] = weakref.ref(self, partial(handles_by_address.pop, address))

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
        if self._owned is None:
            return
        set_closing = partial(setattr, self, "_closing")
        with hold(partial(set_closing, "it is being freed"), partial(set_closing, "")), exclusive_closing(self):
            made = [reference() for reference in tuple(self._children)]
            children = [child for child in made if child is not None and child._owned is not None]
            for child in children:
                child._check_no_deadlock()
            for child in children:
                child._close_with_parent(f"its {self._KIND} was freed")
            self._detach_users()
            self._finish("it was freed")

    def _check_no_deadlock(self) -> None:
        """Before the parent is closed: raise BusyError if waiting for the call in progress would deadlock."""
        owner = self._busy.owner
        if owner and (owner == get_ident() or lib.shim_in_callback()):
            self._raise_busy()

    def _detach_users(self) -> None:
        """Before the object is freed: detach it from its users, or raise BusyError if they must be freed first."""

    def _close_with_parent(self, why: str) -> None:
        self.close()
        self._closed_reason = why

    def _finish(self, why: str) -> None:
        """Free the C object now, or after what depends on it. Without this, the garbage collector does."""
        if self._pointer is not None:
            self._closed_reason = why
            self._pointer = None
        for address in self._addresses:
            if find_handle(address) is self:
                handles_by_address.pop(address, None)
        owned = self._owned
        if owned is not None:
            owned.finish()
            self._owned = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _describe(self) -> str:
        """What `repr` shows of an open object."""
        return f"at {_address(self._pointer):#x}"

    def _facts(self) -> Mapping[str, object]:
        """What notebooks show of an open object, in a table."""
        return {}

    def _repr_html_(self) -> str:
        from llama_cffi._core.html import table

        try:
            return table(repr(self), None if self._pointer is None else self._facts())
        except Exception:  # another thread closes it
            return table(repr(self))

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
    for handle in _handles():
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
    return any([handle._busy.locked() for handle in _handles()])


def _handles() -> list[Suspect]:
    found = [reference() for reference in list(handles_by_address.values())]
    return [handle for handle in found if handle is not None]
