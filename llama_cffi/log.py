"""What llama.cpp logs: to a quiet logger of Python's `logging`, or to a function, or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from llama_cffi._core import native_log
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
    """Choose where llama.cpp's log goes: a function, a `logging.Logger`, or None for nowhere.

    Until it is called, the log goes to `logging.getLogger("llama_cffi")`, which shows nothing until `logging` is set
    up. There llama.cpp's warnings and errors have their Python levels, its information is DEBUG, and its debug lines
    are of level 5. Giving that logger to `logSet` brings this back. Any other logger gets llama.cpp's own levels.

    A function is called as `cb(level, text, userData)` with whole lines, each when the call that logged it ends, on
    the thread that made the call: never on a thread of llama.cpp's own. What it raises is reported as unraisable.
    Errors carry the lines that belong to them in any case.

    Maps to `llama_log_set`.
    """
    global _current
    if isinstance(cb, int):
        if cb != 0:  # 0 is how the specification's examples write "none"
            raise TypeError(f"the log goes to a function, a logging.Logger or None, not to {cb}")
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
        raise TypeError(f"the log goes to a function, a logging.Logger or None, not to {type(cb).__name__}")
    function = cb
    return lambda level, text: function(GgmlLogLevel(level), text, userData)


def logGet() -> tuple[LogCallback | logging.Logger | None, Any]:
    """Where the log goes, and the user data: what `logSet` was given.

    Maps to `llama_log_get`.
    """
    return _current
