"""`logSet` and `logGet`: send the log of llama.cpp to Python's `logging`, to a function, or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi._core import native_log
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import lib
from llama_cffi._generated.enums import GgmlLogLevel

if TYPE_CHECKING:
    from typing import TypeAlias

LogCallback: TypeAlias = Callable[[GgmlLogLevel, str, Any], object]

_LEVELS = {
    GgmlLogLevel.DEBUG: logging.DEBUG,
    GgmlLogLevel.INFO: logging.INFO,
    GgmlLogLevel.WARN: logging.WARNING,
    GgmlLogLevel.ERROR: logging.ERROR,
}

_current: tuple[LogCallback | logging.Logger | None, Any] = (logging.getLogger(native_log.LOGGER), None)


def logSet(cb: LogCallback | logging.Logger | Literal[0] | None, userData: Any = None) -> None:
    """Set the target of llama.cpp's log: a function, a `logging.Logger`, or None to discard it.

    The default target is `logging.getLogger("llama_cffi")`, which shows nothing until `logging` is configured. There,
    warnings and errors of llama.cpp have the Python levels of the same name, info lines are DEBUG, and debug lines have
    level 5. Pass that logger to restore the default. Any other logger gets the levels of llama.cpp unchanged.

    A function is called as `cb(level, text, userData)` with whole lines. They are delivered at the end of the call that
    logged them, on the thread of that call, and never on one of llama.cpp's threads. Exceptions of the function are
    reported as unraisable. A NativeError contains the lines of its call, whatever the target is.

    Maps to `llama_log_set`.
    """
    global _current
    if isinstance(cb, int):
        if cb != 0:  # the specification's examples write 0 instead of None
            raise TypeError(f"cb: expected a function, a logging.Logger or None, got {cb}")
        cb = None
    target = None if cb is None else _target(cb, userData)
    _current = (cb, userData)
    native_log.log_target = target
    lib.shim_log_keep(target is not None)


def _target(cb: LogCallback | logging.Logger, userData: Any) -> Callable[[int, str], object]:
    if isinstance(cb, logging.Logger):
        logger = cb
        if logger is logging.getLogger(native_log.LOGGER):
            return native_log.to_logging

        def write(level: int, text: str) -> None:
            logger.log(_LEVELS.get(GgmlLogLevel(level), logging.INFO), "%s", text.rstrip("\n"))

        return write
    if not callable(cb):
        raise expected("a function, a logging.Logger or None", cb, name="cb")
    function = cb
    return lambda level, text: function(GgmlLogLevel(level), text, userData)


def logGet() -> tuple[LogCallback | logging.Logger | None, Any]:
    """Return the target of the log and the user data, as passed to `logSet`.

    Maps to `llama_log_get`.
    """
    return _current
