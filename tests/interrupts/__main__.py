"""`python -m tests.interrupts [--journal FILE]`: interrupt every operation at every point, in other interpreters.

Each interpreter tries one operation for up to 20 seconds of CPU time. `--journal` continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.fuzz.models import write_all
from tests.interrupts.operations import NAMES, WITHOUT_SIGNALS
from tests.interrupts.points import KINDS, build

ROOT = Path(__file__).resolve().parents[2]
BAD = ("killed", "stuck", "leaked", "harmed")
_SIGNALS_S = 5.0  # of real signals, for each operation
_PROCESS_S = 20.0  # of CPU time that one process tries points: then memory is compared, and the next continues
_ENOUGH = 5  # processes that died, for each operation and kind


@dataclass
class Outcome:
    """What one interpreter found, or several of them."""

    operation: str
    kind: str
    points: int = 0
    """How many points the operation has."""
    tried: int = 0
    next: int = 0
    """The point at which another interpreter has to continue; 0: none."""
    bad: Counter[str] = field(default_factory=Counter)
    """How many of these interruptions killed the process, got it stuck, leaked, or did other harm."""
    text: str = ""

    def __str__(self) -> str:
        counts = "".join(f"{self.bad[name]:>8}" for name in BAD)
        return f"{self.operation:30}{self.kind:>8}{self.points:>8}{self.tried:>8}{counts}"

    @property
    def ok(self) -> bool:
        return self.tried > 0 and not self.bad

    def __iadd__(self, later: Outcome) -> Outcome:
        self.points = later.points or self.points  # a cache may hold more than at first
        self.tried, self.next, self.text = self.tried + later.tried, later.next, self.text + later.text
        self.bad.update(later.bad)
        return self


class Journal:
    """What was tried already, in a file of a JSON object in each line."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[tuple[str, str], Outcome] = {}
        if path and path.exists():
            for line in path.read_text().splitlines():
                values = json.loads(line)
                self._sum(Outcome(**{**values, "bad": Counter(values["bad"])}))

    def _sum(self, part: Outcome) -> None:
        known = self.known.setdefault((part.operation, part.kind), Outcome(part.operation, part.kind))
        known += part

    def add(self, part: Outcome) -> None:
        self._sum(part)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps({**vars(part), "bad": dict(part.bad)}) + "\n")


def prepare(folder: Path) -> None:
    """Write into a folder what `interrupt` needs there."""
    write_all(folder)
    build(folder)


def interrupt(
    folder: Path,
    operation: str,
    kind: str,
    *,
    first: int = 1,
    seconds: float = _PROCESS_S,
    seed: int | None = None,
    program: str = "tests.interrupts.child",
) -> Outcome:
    """Interrupt an operation at points of a kind for some seconds: from the first on, or (with a seed) at random.

    `prepare` prepares the folder, which only one process at a time may use.
    """
    at = folder / "at"
    at.unlink(missing_ok=True)
    command = [sys.executable, "-m", program, str(folder), operation, kind, "--seconds", str(seconds)]
    command += ["--first", str(first)] if seed is None else ["--seed", str(seed)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if process.returncode == 0:
        result: dict[str, Any] = json.loads(process.stdout)
        bad = Counter(verdict for verdict, _ in result["failures"])
        text = "".join(f"{verdict}: {why}\n" for verdict, why in result["failures"])
        return Outcome(operation, kind, result["points"], result["tried"], result["next"], bad, text)
    verdict = "stuck" if "Timeout (" in process.stderr else "killed" if process.returncode < 0 else "harmed"
    last = int(at.read_text() or 0) if at.exists() else 0
    text = f"{verdict} at {kind} {last} (exit status {process.returncode}):\n{process.stderr[-4000:]}\n"
    tried = last - first + 1 if seed is None and last else 0
    return Outcome(operation, kind, 0, tried, last + 1 if last else 0, Counter([verdict]), text)


def whole(folder: Path, operation: str, kind: str, journal: Journal) -> Outcome:
    """Interrupt an operation at every point of a kind, or by signals, as far as the journal does not say it."""
    known = journal.known.get((operation, kind))
    if kind == "signal":
        if known is None:
            journal.add(interrupt(folder, operation, kind, seconds=_SIGNALS_S))
        return journal.known[operation, kind]
    while known is None or (known.next and known.bad.total() < _ENOUGH):
        journal.add(interrupt(folder, operation, kind, first=known.next if known else 1))
        known = journal.known[operation, kind]
    return known


def results(options: argparse.Namespace) -> Iterator[Outcome]:
    """What becomes of each operation and kind, in the order in which they end."""
    journal, folders = Journal(options.journal), SimpleQueue[Path]()
    work = [
        (name, kind)
        for kind in options.kind or [*KINDS, "signal"]
        for name in NAMES
        if options.only in name and not (kind == "signal" and name in WITHOUT_SIGNALS)
    ]

    def one(name: str, kind: str) -> Outcome:
        folder = folders.get()
        try:
            if options.budget:
                return interrupt(folder, name, kind, seconds=options.budget, seed=options.seed)
            return whole(folder, name, kind, journal)
        finally:
            folders.put(folder)

    with tempfile.TemporaryDirectory(dir=fast_folder()) as top, ThreadPoolExecutor(options.jobs) as pool:
        for number in range(options.jobs):
            folder = Path(top, str(number))
            folder.mkdir()
            prepare(folder)
            folders.put(folder)
        for done in as_completed([pool.submit(one, *row) for row in work]):
            yield done.result()


def fast_folder() -> str | None:
    """A folder in memory, if there is one: saves are flushed to the disk, which takes most of their time."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interrupts", description=__doc__)
    parser.add_argument("--only", default="", help="operations whose name contains this")
    parser.add_argument("--kind", choices=[*KINDS, "signal"], action="append", help="only this kind of points")
    parser.add_argument("--journal", type=Path, help="a file of what was tried: skip what it holds, and add to it")
    parser.add_argument("--budget", type=float, default=0, help="seconds for each operation and kind, at random points")
    parser.add_argument("--seed", type=int, default=0, help="of the random points")
    parser.add_argument("--jobs", type=int, default=2, help="operations at a time (default: 2)")
    options = parser.parse_args()
    sums: dict[str, Outcome] = {}
    print(f"{'operation':30}{'kind':>8}{'points':>8}{'tried':>8}{''.join(f'{name:>8}' for name in BAD)}")
    for outcome in results(options):
        print(outcome, flush=True)
        print(end=outcome.text, flush=True)
        total = sums.setdefault(outcome.kind, Outcome("together", outcome.kind))
        total.points, total.tried = total.points + outcome.points, total.tried + outcome.tried
        total.bad.update(outcome.bad)
    print(*sums.values(), sep="\n")
    return 1 if any(total.bad for total in sums.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
