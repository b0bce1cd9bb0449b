"""Whole numbers of a caller, before C would cut them to size."""

from __future__ import annotations

import operator


def integer(value: int, low: int, high: int, name: str, hint: str = "") -> int:
    """A number from `low` to `high`; raises TypeError or ValueError with its name."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is an integer, not {value!r}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} goes from {low} to {high}{hint}, and {number} does not fit")
    return number
