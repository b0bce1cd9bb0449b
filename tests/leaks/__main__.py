"""`python -m tests.leaks`: a table of what 10,000 cycles of each class leave behind."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.models import write_all
from tests.leaks.cycles import KNOWN, Cycle, cycles
from tests.leaks.measure import Memory, growth

# Resident memory comes in pages, and allocators keep some for later: a leak of 16 bytes, the least that malloc gives,
# in each of 10,000 cycles is 160 kB, and shows in the heap, which is counted exactly.
_RESIDENT = 1 << 20
_HEAP_A_CYCLE = 1
_BLOCKS_A_CYCLE = 0.01
_KNOWN_A_CYCLE = range(4000, 4200)  # bytes: a list of 1,000 numbers, as raise.h says


def leaks(grown: Memory, count: int) -> bool:
    return (
        grown.heap > _HEAP_A_CYCLE * count + 4096
        or grown.blocks > _BLOCKS_A_CYCLE * count + 100
        or grown.resident > _RESIDENT
    )


def may_leak(grown: Memory, count: int) -> bool:
    """For few cycles: three objects in four cycles, or 32 bytes a cycle. A leak is one or more in each."""
    return grown.blocks > 3 * count // 4 or grown.heap > 32 * count


def measure(cycle: Cycle, count: int, repeats: int = 0, strict: bool = False) -> tuple[Memory, bool]:
    """Return what `count` cycles leave behind, and if that is a leak.

    With `repeats`, few cycles will do: what seems to leak is measured again up to that often, each time with twice as
    many. A cache (lines of the log that errors quote) fills up, and an allocator takes a block now and then; a leak
    grows with the cycles. `strict` judges as without `repeats`.
    """
    judge = may_leak if repeats and not strict else leaks
    grown, times = growth(cycle, count // 2, count), 1
    while repeats and judge(grown, times * count):
        times *= 2
        grown = growth(cycle, 0, times * count)
        repeats -= 1
    return grown // times, judge(grown, times * count)


def affordable(cycle: Cycle, seconds: float, most: int) -> int:
    """Return how many cycles fit into this CPU time, from 400 to `most`. They are tried on 20."""
    cycle()
    began = time.process_time()
    for _ in range(20):
        cycle()
    each = max(time.process_time() - began, 1e-6) / 20
    return min(most, max(400, int(seconds / each)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=0, help="for few cycles: how often to measure again what leaks")
    parser.add_argument("--seconds", type=float, default=0, help="fewer cycles (400 or more) of slow classes: CPU time")
    parser.add_argument("--only", default="", help="classes whose name contains this")
    options = parser.parse_args()
    rows, full, leaking = 0, 0, []
    print(f"{'class':32}{'cycles':>8}{'resident':>11}{'heap':>11}{'a cycle':>10}{'blocks':>8}  verdict")
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        for name, cycle in cycles(Path(folder)):
            if options.only not in name:
                continue
            count = affordable(cycle, options.seconds, options.cycles) if options.seconds else options.cycles
            repeats = 0 if name == KNOWN else options.repeats or (3 if count < options.cycles else 0)
            grown, leaked = measure(cycle, count, repeats, strict=not options.repeats)
            verdict = "leaks" if leaked else "flat"
            if name == KNOWN:
                leaked = grown.heap // count not in _KNOWN_A_CYCLE
                verdict = "leaks otherwise than documented" if leaked else "leaks, as documented"
            leaking += [name] if leaked else []
            rows += 1
            full += count == options.cycles
            numbers = f"{grown.resident:>11}{grown.heap:>11}{grown.heap / count:>10.2f}{grown.blocks:>8}"
            print(f"{name:32}{count:>8}{numbers}  {verdict}", flush=True)
    print(f"classes: {rows}, leaks: {len(leaking)}{': ' + ', '.join(leaking) if leaking else ''}")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
