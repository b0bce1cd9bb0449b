"""`python -m tests.leaks`: a table of what 10,000 cycles of each class leave behind."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.models import write_all
from tests.leaks.cycles import KNOWN, cycles
from tests.leaks.measure import Memory, growth

# Resident memory comes in pages, and allocators keep some for later: a leak of 16 bytes, the least that malloc gives,
# in each of 10,000 cycles is 160 kB, and shows in the heap, which is counted exactly.
_RESIDENT = 1 << 20
_HEAP_A_CYCLE = 1
_BLOCKS_A_CYCLE = 0.01


def leaks(grown: Memory, count: int) -> bool:
    return (
        grown.heap > _HEAP_A_CYCLE * count + 4096
        or grown.blocks > _BLOCKS_A_CYCLE * count + 100
        or grown.resident > _RESIDENT
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--only", default="", help="classes whose name contains this")
    options = parser.parse_args()
    count = options.cycles
    rows, leaking = 0, []
    print(f"{'class':32}{'cycles':>8}{'resident':>11}{'heap':>11}{'a cycle':>10}{'blocks':>8}  verdict")
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        for name, cycle in cycles(Path(folder)):
            if options.only not in name:
                continue
            grown = growth(cycle, count // 2, count)
            verdict = "flat"
            if leaks(grown, count):
                verdict = "leaks, as documented" if name == KNOWN else "leaks"
                leaking += [name] if name != KNOWN else []
            rows += 1
            numbers = f"{grown.resident:>11}{grown.heap:>11}{grown.heap / count:>10.2f}{grown.blocks:>8}"
            print(f"{name:32}{count:>8}{numbers}  {verdict}", flush=True)
    print(f"classes: {rows}, leaks: {len(leaking)}{': ' + ', '.join(leaking) if leaking else ''}")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
