"""Warnings that are attributed to the caller of this package, not to a line inside it."""

from __future__ import annotations

import os
import sys

_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning for the innermost caller outside of this package."""
    import warnings

    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, level)


def deprecated(function: str) -> None:
    """Called by the extension after a call of a C function that its header deprecates; see `_shim/raise.cpp`.

    Warns about calls through the facade only: users of `lib` have the comments of the header, in the stub.
    """
    if sys._getframe(1).f_code.co_filename.startswith(_PACKAGE):
        from llama_cffi._generated.names import DEPRECATED  # large, and only needed here

        warn(f"{function} is deprecated: {DEPRECATED[function]}", DeprecationWarning)
