"""`python -m tests.interrupts`: interrupt every operation at every point, each in an interpreter of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.models import write_all
from tests.interrupts.operations import NAMES, WITHOUT_SIGNALS
from tests.interrupts.points import KINDS

ROOT = Path(__file__).resolve().parents[2]
_SIGNALS_S = 5.0  # of real signals, for each operation
_OPCODES_S = 30.0  # of the instructions of an operation, which are many: at random


@dataclass(frozen=True)
class Outcome:
    """What became of an operation that was interrupted."""

    operation: str
    kind: str
    points: int
    tried: int
    verdict: str
    """`ok`; or `killed`, `stuck` or `harmed`."""
    text: str

    def __str__(self) -> str:
        return f"{self.operation:24}{self.kind:>8}{self.points:>9}{self.tried:>9}  {self.verdict}"


def interrupt(folder: Path, operation: str, kind: str, seed: int = 0, budget: float = 0) -> Outcome:
    """Interrupt an operation at each point of a kind; with `budget`, at random ones for so many seconds."""
    command = [sys.executable, "-m", "tests.interrupts.child", str(folder), operation, kind]
    command += ["--seed", str(seed), "--budget", str(budget)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if process.returncode != 0:
        stuck = "Timeout (" in process.stderr
        verdict = "stuck" if stuck else "killed" if process.returncode < 0 else "harmed"
        return Outcome(operation, kind, 0, 0, verdict, process.stderr[-4000:])
    result: dict[str, Any] = json.loads(process.stdout)
    failures: Sequence[str] = result["failures"]
    verdict = "harmed" if failures else "ok"
    return Outcome(operation, kind, result["points"], result["tried"], verdict, "\n".join(failures))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interrupts", description=__doc__)
    parser.add_argument("--only", default="", help="operations whose name contains this")
    parser.add_argument("--kind", choices=[*KINDS, "signal"], action="append", help="only this kind of points")
    parser.add_argument("--budget", type=float, default=0, help="seconds for each operation and kind; 0: every point")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = []
    print(f"{'operation':24}{'kind':>8}{'points':>9}{'tried':>9}  verdict")
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        for name in NAMES:
            for kind in options.kind or [*KINDS, "signal"]:
                if options.only not in name or (kind == "signal" and name in WITHOUT_SIGNALS):
                    continue
                budget = options.budget or {"opcode": _OPCODES_S, "signal": _SIGNALS_S}.get(kind, 0)
                outcomes.append(interrupt(Path(folder), name, kind, options.seed, budget))
                print(outcomes[-1], flush=True)
                if outcomes[-1].text:
                    print(outcomes[-1].text, flush=True)
    counts = {verdict: sum(one.verdict == verdict for one in outcomes) for verdict in ("killed", "stuck", "harmed")}
    tried = sum(one.tried for one in outcomes)
    print(f"interruptions: {tried}; {', '.join(f'{verdict}: {n}' for verdict, n in counts.items())}")
    return 1 if any(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
