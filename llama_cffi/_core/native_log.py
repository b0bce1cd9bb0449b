"""Where llama.cpp's log goes until `logSet` says otherwise: Python's `logging`, under one logger that is quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

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
