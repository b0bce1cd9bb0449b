"""Two hundred cycles of each class leave nothing behind; `make leaks` does 10,000 and looks at resident memory too."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.models import write_all
from tests.leaks.cycles import KNOWN, cycles
from tests.leaks.measure import growth

_CYCLES = 200


def test_cycles_of_every_class_leave_nothing(tmp_path: Path) -> None:
    write_all(tmp_path)
    left, seen = {}, 0
    for name, cycle in cycles(tmp_path):
        grown = growth(cycle, _CYCLES, _CYCLES)
        seen += 1
        if name == KNOWN:
            assert 4000 <= grown.heap / _CYCLES < 4100, "a list of 1,000 numbers, as raise.h says"
        # Half an object or 32 bytes a cycle: a leak is one or more in each, a cache fills up once.
        elif grown.blocks > _CYCLES // 2 or grown.heap > 32 * _CYCLES:
            left[name] = f"{grown.blocks} objects of Python, {grown.heap} bytes of C in {_CYCLES} cycles"
    assert left == {}
    assert seen > 60
