"""Warnings that name the line outside of this package that led to them."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep


def warn(message: str, category: type[Warning]) -> None:
    """Warn the user of the package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, level)


def deprecated(function: str) -> None:
    """Called by the extension when a C function that its header deprecates was called; see `_shim/raise.cpp`.

    Who calls it through `lib` reads the header, or its comments in the stub.
    """
    if sys._getframe(1).f_code.co_filename.startswith(_PACKAGE):
        from llama_cffi._generated.names import DEPRECATED  # large, and for this warning only

        warn(f"{function} is deprecated: {DEPRECATED[function]}", DeprecationWarning)
