"""Types for argparse: numbers within limits, with messages such as "must be between 1 and 512, got 0".

Pure Python: the doctor uses them where the extension cannot be imported.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

_INT32_MAX = (1 << 31) - 1


def integer(low: int, high: int = _INT32_MAX) -> Callable[[str], int]:
    """A parser of integers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be between {low} and {high}, got {value}")
        return value

    return parse


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """A parser of finite numbers from `low` to `high`, both included; without `high` there is no upper limit."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
        if not low <= value <= high:
            limits = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise argparse.ArgumentTypeError(f"must be {limits}, got {text}")
        return value

    return parse
