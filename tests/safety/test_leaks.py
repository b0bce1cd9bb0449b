"""Two hundred cycles of each class leave nothing behind; `make leaks` does 10,000 and looks at resident memory too."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.models import write_all
from tests.leaks.cycles import KNOWN, cycles
from tests.leaks.measure import Memory, growth

_CYCLES = 200
_REPEATS = 12  # a cache fills up (lines of the log that errors quote); a leak goes on


def _leaks(grown: Memory) -> bool:
    """Half an object or 32 bytes a cycle: what leaks leaves one or more in each."""
    return grown.blocks > _CYCLES // 2 or grown.heap > 32 * _CYCLES


def test_cycles_of_every_class_leave_nothing(tmp_path: Path) -> None:
    write_all(tmp_path)
    left, seen = {}, 0
    for name, cycle in cycles(tmp_path):
        grown = growth(cycle, _CYCLES, _CYCLES)
        seen += 1
        if name == KNOWN:
            assert 4000 <= grown.heap / _CYCLES < 4100, "a list of 1,000 numbers, as raise.h says"
            continue
        repeats = 0
        while _leaks(grown) and repeats < _REPEATS:
            grown = growth(cycle, 0, _CYCLES)
            repeats += 1
        if _leaks(grown):
            left[name] = f"{grown.blocks} objects of Python, {grown.heap} bytes of C in {_CYCLES} cycles"
    assert left == {}
    assert seen > 60
