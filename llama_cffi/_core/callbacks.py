"""Python functions that C calls. An exception raised in one is kept, C is told to stop, and the caller gets it.

Every C function here is static: a trampoline that finds its Python function through a handle. The thread that called
into C is the thread that runs them all, so what one of them raised waits under that thread's number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from llama_cffi._core.ffi import ffi

# Thread -> what a callback raised during the call into C that this thread is in.
raised: dict[int, BaseException] = {}


class Callback:
    """A Python function that C may call for as long as this object lives."""

    __slots__ = ("data", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"a callback is a function, not {type(function).__name__}")
        self.function = function
        self.data = ffi.new_handle(self)
        """What to give C as user data."""


def keep(error: BaseException) -> None:
    """Remember what a callback raised, unless an earlier one did."""
    raised.setdefault(threading.get_ident(), error)


def reraise() -> None:
    """After a call into C: raise what a callback raised in it."""
    if raised:
        error = raised.pop(threading.get_ident(), None)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: a cycle, which only the collector would end


def failing() -> bool:
    """Whether a callback has raised in the call that this thread is in."""
    return threading.get_ident() in raised


def _keep_early(kind: type[BaseException], error: BaseException, trace: TracebackType) -> None:
    """Ctrl-C may come where a trampoline has begun and its `try` has not: cffi says so here."""
    keep(error)


@ffi.def_extern(error=False, onerror=_keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_progress(progress: float, data: Any) -> bool:
    """`llama_progress_callback`: False stops the load. A function that returns nothing wants to go on."""
    try:
        return ffi.from_handle(data).function(progress) is not False
    except BaseException as error:
        keep(error)
        return False


@ffi.def_extern(error=True, onerror=_keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_abort(data: Any) -> bool:
    """`ggml_abort_callback`: True stops the computation."""
    try:
        return failing() or bool(ffi.from_handle(data).function())
    except BaseException as error:
        keep(error)
        return True


@ffi.def_extern(error=False, onerror=_keep_early)  # type: ignore[untyped-decorator,unused-ignore]
def python_eval(tensor: Any, ask: bool, data: Any) -> bool:
    """`ggml_backend_sched_eval_callback`: asked whether a tensor is wanted, then given it; False then stops."""
    try:
        return not failing() and bool(ffi.from_handle(data).function(tensor, ask))
    except BaseException as error:
        keep(error)
        return False
