"""The log of llama.cpp: the lines of the last call, for errors, and the delivery of all lines to the log target.

Until `logSet` changes it, the target is the logger "llama_cffi" of Python's `logging`, which is quiet by default.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from llama_cffi._core import process
from llama_cffi._core.ffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

LOGGER = "llama_cffi"

# ggml's levels (none, debug, info, warning, error) as Python's. ggml logs a hundred info lines for each model and
# context, so they are below Python's INFO; its debug lines are ten times as many.
LEVELS = {0: 10, 1: 5, 2: 10, 3: 30, 4: 40}


def listener() -> Callable[[int, str], object] | None:
    """Return a function that writes a line to the logger; None if the logger has no handler for any level.

    Called after each call that logged something, because handlers and levels may change; not for every line.
    """
    if "logging" not in sys.modules:  # nobody has configured logging, so its import is not worth the time
        return None
    import logging

    logger = logging.getLogger(LOGGER)
    if not logger.handlers:  # without one, Python would print warnings to stderr
        logger.addHandler(logging.NullHandler())
    if not _is_heard(logger):
        return None
    enabled = {number: level for number, level in LEVELS.items() if logger.isEnabledFor(level)}
    if not enabled:
        return None

    def write(number: int, text: str) -> None:
        level = enabled.get(number)
        if level is not None:
            logger.log(level, "%s", text.rstrip("\n"))

    return write


def _is_heard(logger: logging.Logger) -> bool:
    """Return True if a record would reach a handler other than NullHandler."""
    import logging

    current: logging.Logger | None = logger
    while current is not None:
        if not all(isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def native_log() -> str:
    """Return what llama.cpp logged since the start of the last guarded call on this thread: for `NativeError.log`."""
    size = 4096
    buffer = ffi.new("char[]", size)
    written = lib.shim_log_since_call(buffer, size)
    return bytes(ffi.buffer(buffer, written)).decode("utf-8", "replace")


def deliver_log() -> None:
    """Pass the lines of the call that has just ended to the log target. Called by the extension (`_shim/raise.cpp`).

    `shim_log_take` and everything that the target calls are guarded calls too: their lines are delivered by this loop.
    """
    thread = threading.get_ident()
    if thread in _delivering:
        return
    target = listener() if log_target is to_logging else log_target
    if target is None:
        lib.shim_log_keep(log_target is to_logging)  # discards the lines
        if process.ending:  # checked again: objects that are freed now must not call into a dying interpreter
            lib.shim_log_keep(False)
        return
    buffer = ffi.new("char[]", 8192)
    _delivering.add(thread)
    try:
        while (level := lib.shim_log_take(buffer, 8192)) >= 0:
            target(level, bytes(ffi.string(buffer)).decode("utf-8", "replace") + "\n")
    finally:
        _delivering.discard(thread)


_delivering: set[int] = set()  # threads in the loop of `deliver_log`


def to_logging(level: int, text: str) -> None:
    """Stands for the logger "llama_cffi": `deliver_log` asks `listener` for its function at each delivery."""


# Where log lines go: set by `log.logSet`.
log_target: Callable[[int, str], object] | None = to_logging
lib.shim_log_keep(True)
