"""Locks and ownership that an exception at any point cannot leave taken or lost: the types of `_shim/ownership.cpp`.

A signal handler (Ctrl-C) or a trace function may raise between any two steps of Python code: after a lock was acquired
and before `try`, or after C made an object and before Python has stored it. So each of these steps is one call of C:

- `with exclusive(handle) as pointer:` acquires handles, and `with hold(acquire, release):` anything else. Never store
  these objects: Python must destroy them when an exception leaves the block.
- `own(free, make, *args)` makes a C object that is owned from the beginning.
- `atomic(calls, undo)` makes several calls, each a tuple of a C function and its arguments.

Python also drops an exception that is raised while it closes a generator. So do not leave one before its end: write
`any([...])` instead of `any(... for ...)`, and unpack an iterator that has one item.
"""

from __future__ import annotations

import weakref

from llama_cffi._core.ffi import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn, TypeVar

    T = TypeVar("T")

    class Lock:
        """Exclusive use of a handle."""

        owner: int
        """The thread that has acquired it; 0: none."""

        def locked(self) -> bool: ...

    class Owned:
        """A C object, which is freed exactly once."""

        pointer: Any
        """The C pointer; None if C returned NULL, or the object was freed."""
        dependents: int
        """How many others delay the free."""
        pins: int
        """How many of these `pin` made."""

        def keep(self, other: object) -> bool:
            """Keep an object until the C object is freed. False if one of them was freed already."""
            ...

        def pin(self) -> Pin | None:
            """Return an object that delays the free until its own `finish`; None if the C object was freed already.

            With `with`, the block gets the pointer.
            """

        def lend(self, owner: Owned | None) -> None:
            """Give the C object to one whose free frees it too, or (None) take it back."""

        def part(self, pointer: Any) -> Owned:
            """Return the owner of a C object inside this one, which the free of this one frees."""
            ...

        def finish(self, *ignored: object) -> None:
            """Free the C object: now, or after the last that depends on it; not while it is lent."""

        def abandon(self) -> None:
            """Never free the C object."""

    class Pin(Owned):
        """What `Owned.pin` returns."""

        def __enter__(self) -> Any: ...
        def __exit__(self, *error: object) -> None: ...

    def own(free: Callable[[Any], object], make: Callable[..., Any], *arguments: Any) -> Owned:
        """Call `make`, a function of C, and own the object that it returns."""
        ...

    def exclusive(*handles: object) -> AbstractContextManager[Any]:
        """Exclusive use of handles for a block; yields the pointer of the first.

        Raises BusyError if one is in use, ClosedError if one is closed.
        """
        ...

    def exclusive_waiting(*handles: object) -> AbstractContextManager[Any]:
        """Return `exclusive`, after the calls of other threads. Raises BusyError if waiting would deadlock."""
        ...

    def exclusive_closing(*handles: object) -> AbstractContextManager[None]:
        """Return `exclusive_waiting`, for closed handles too."""
        ...

    def exclusive_for(value: Callable[[], Any], *handles: object) -> AbstractContextManager[Any]:
        """Return `exclusive`, which yields what `value` returns then, or raises what it raises."""
        ...

    def hold(
        acquire: Callable[[], Any], release: Callable[[], object], refuse: Callable[[], NoReturn] | None = None
    ) -> AbstractContextManager[Any]:
        """Call `acquire`, and `release` when the block ends; or `refuse`, which raises, if `acquire` returned False."""
        ...

    def atomic(calls: tuple[tuple[Any, ...], ...], undo: tuple[tuple[Any, ...], ...] = ()) -> None:
        """Make calls, each a tuple of a function and its arguments; if one raises, the calls of `undo`."""

    def forget_raised(raised: dict[int, BaseException]) -> None:
        """Drop this thread's exception, unless it is in a callback. The first call says from which dict, in general."""

    def keep_raised(kind: type[BaseException], error: BaseException, trace: object) -> None:
        """Store this thread's exception in the dict of `forget_raised`, unless an earlier one is stored."""

    def large_stack(call: Callable[[], T], size: int, leave: bool) -> T:
        """Call a function on a new thread with this size of stack. MemoryError without arguments if there is none.

        With `leave`, a signal handler that raises ends the waiting; otherwise, its exception is raised afterwards.
        """
        ...

    def n_owned() -> int:
        """Return the number of C objects that will be freed."""
        ...
else:
    if not hasattr(native, "Lock"):  # the types of the extension are made once in a process
        raise ImportError("llama_cffi was removed from sys.modules and imported again: restart Python")
    Lock, Owned = native.Lock, native.Owned
    own, hold, atomic, n_owned = native.own, native.hold, native.atomic, native.n_owned
    exclusive, exclusive_waiting = native.exclusive, native.exclusive_waiting
    exclusive_closing, exclusive_for = native.exclusive_closing, native.exclusive_for
    large_stack, forget_raised, keep_raised = native.large_stack, native.forget_raised, native.keep_raised


class WeakRefs:
    """A set of weak references. Its callbacks are functions of C: in those of a WeakSet, Ctrl-C would be lost."""

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: set[weakref.ref[Any]] = set()

    def add(self, value: Any) -> None:
        self._references.add(weakref.ref(value, self._references.discard))

    def discard(self, value: Any) -> None:
        self._references.discard(weakref.ref(value))

    def __contains__(self, value: Any) -> bool:
        return weakref.ref(value) in self._references

    def __iter__(self) -> Iterator[Any]:
        found = [reference() for reference in tuple(self._references)]
        return iter([value for value in found if value is not None])


def locked(lock: threading.Lock | threading.RLock) -> AbstractContextManager[Any]:
    """Hold a lock of `threading` for a block."""
    return hold(lock.acquire, lock.release)
