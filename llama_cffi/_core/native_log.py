"""llama.cpp's log: what it wrote during a call, and where its lines go.

Until `logSet` says otherwise, they go to Python's `logging`, to one logger that is quiet by default.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from llama_cffi._core import process
from llama_cffi._core.ffi import ffi, lib

if TYPE_CHECKING:
    import logging

LOGGER = "llama_cffi"

# By ggml's own numbers: none, debug, information, warning, error. Its information is a hundred lines for each model and
# context, so it is below Python's INFO; its debug lines are ten times as many.
LEVELS = {0: 10, 1: 5, 2: 10, 3: 30, 4: 40}


def listener() -> Callable[[int, str], object] | None:
    """What writes a line to the logger; None where nobody would see any.

    Asked when a call has ended that logged something, not for every line: handlers and levels may change in between.
    """
    if "logging" not in sys.modules:  # then nobody has set it up, and nobody pays for its import
        return None
    import logging

    logger = logging.getLogger(LOGGER)
    if not logger.handlers:  # without one, Python itself would print warnings
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
    """Whether a record would reach a handler that does something with it."""
    import logging

    place: logging.Logger | None = logger
    while place is not None:
        if not all(isinstance(handler, logging.NullHandler) for handler in place.handlers):
            return True
        place = place.parent if place.propagate else None
    return False


def native_log() -> str:
    """What llama.cpp logged since the last guarded call on this thread began: for `LlamaError.log`."""
    size = 4096
    buffer = ffi.new("char[]", size)
    written = lib.shim_log_since_call(buffer, size)
    return bytes(ffi.buffer(buffer, written)).decode("utf-8", "replace")


def deliver_log() -> None:
    """Hand the lines of the call that has just ended to the log target. Called by the extension (`_shim/raise.cpp`).

    Taking a line is a guarded call too, and so is whatever the target calls: their lines wait for this loop.
    """
    thread = threading.get_ident()
    if thread in _delivering:
        return
    target = listener() if log_target is to_logging else log_target
    if target is None:
        lib.shim_log_keep(log_target is to_logging)  # forgets the lines
        if process.ending:  # maybe only since then: what is freed now must not call back into a dying interpreter
            lib.shim_log_keep(False)
        return
    buffer = ffi.new("char[]", 8192)
    _delivering.add(thread)
    try:
        while (level := lib.shim_log_take(buffer, 8192)) >= 0:
            target(level, bytes(ffi.string(buffer)).decode("utf-8", "replace") + "\n")
    finally:
        _delivering.discard(thread)


_delivering: set[int] = set()  # threads that hand lines on


def to_logging(level: int, text: str) -> None:
    """Stands for the default logger: whether anybody listens is checked at each delivery."""


# Where log lines go: set by `log.logSet`.
log_target: Callable[[int, str], object] | None = to_logging
lib.shim_log_keep(True)
