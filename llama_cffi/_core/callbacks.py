"""Callbacks: Python functions that C calls. If one raises, C is told to stop, and the caller gets the exception.

Each C function here is a static trampoline that finds its Python function through a cffi handle. The thread that called
into C runs all callbacks of the call, so an exception is stored under the number of that thread until the call returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import forget_raised, keep_raised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Thread -> the exception of a callback, during a call into C. One that is left of an interrupted call is dropped when
# the thread acquires a handle, or by `forget`.
raised: dict[int, BaseException] = {}
forget = partial(forget_raised, raised)
forget()
# `onerror` of cffi, for an exception that left a trampoline: Ctrl-C before its `try` statement, or after that.
keep_early = keep_raised


class Callback:
    """A Python function that C may call for as long as this object lives."""

    __slots__ = ("data", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise expected("a function", function, name="callback")
        self.function = function
        self.data = ffi.new_handle(self)
        """The user data for C."""


def keep(error: BaseException) -> None:
    """Store the exception of a callback, unless an earlier one is stored."""
    raised.setdefault(threading.get_ident(), error)


def reraise() -> None:
    """After a call into C: raise the exception of a callback, if there is one."""
    if raised:
        error = raised.pop(threading.get_ident(), None)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame: a reference cycle


def failing() -> bool:
    """Return True if a callback has raised in the current call of this thread."""
    return threading.get_ident() in raised


def abort_pointers(function: Callable[..., bool] | None, user_data: Any, stop: Any) -> tuple[Any, Any, object]:
    """Return a C function, its data, and an object to keep alive, for an abort callback.

    Computations stop if `*stop`, an `int32_t`, is not zero, or if `function` returns True. Without a function, they
    also stop at Ctrl-C.
    """
    if function is None:
        return ffi.addressof(lib, "shim_abort"), stop, None
    if not callable(function):
        raise expected("a function", function, name="abortCallback")

    def ask() -> bool:
        return bool(stop[0]) or bool(function() if user_data is None else function(user_data))

    callback = Callback(ask)
    return ffi.addressof(lib, "shim_on_abort"), callback.data, callback


@ffi.def_extern(error=False, onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_progress(progress: float, data: Any) -> bool:
    """`llama_progress_callback`: False stops the load; None, of a function without a return value, does not."""
    try:
        return ffi.from_handle(data).function(progress) is not False
    except BaseException as error:
        keep(error)
        return False


@ffi.def_extern(error=True, onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_abort(data: Any) -> bool:
    """`ggml_abort_callback`: True stops the computation."""
    try:
        return failing() or bool(ffi.from_handle(data).function())
    except BaseException as error:
        keep(error)
        return True


@ffi.def_extern(error=False, onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_eval(tensor: Any, ask: bool, data: Any) -> bool:
    """`ggml_backend_sched_eval_callback`: `ask` asks if the tensor is needed; then False stops the computation."""
    try:
        return not failing() and bool(ffi.from_handle(data).function(tensor, ask))
    except BaseException as error:
        keep(error)
        return False


@ffi.def_extern(error=False, onerror=keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_custom(tensor: Any, data: Any) -> bool:
    """A custom operation of ggml. False: it raised, or an earlier one did."""
    try:
        if failing():
            return False
        ffi.from_handle(data).function(tensor)
        return True
    except BaseException as error:
        keep(error)
        return False
