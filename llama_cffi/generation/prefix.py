"""How much two token sequences have in common at their start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from typing import TypeVar

    _Tokens = TypeVar("_Tokens", list[int], "array[int]")


def common_length(a: _Tokens, b: _Tokens) -> int:
    """Return the length of the longest common prefix of two lists, or of two arrays.

    Bisects with comparisons of slices, which run in C: long prompts are compared at the speed of memory.
    """
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
