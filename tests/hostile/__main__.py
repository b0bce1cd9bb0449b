"""Hostile files: `python -m tests.hostile [--all] [--seed N] [--only TEXT] [--keep FOLDER]`.

Falsifies models, adapters, states, projectors (mmproj), images and sounds, uses each file in another process, and says
what became of them. A file that kills its process fails the run, as does an exception that no file should cause.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.hostile import bases, media, mutations, pool

SHARE = 0.125  # of all cases, in a run without --all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="what decides the files (default: 1)")
    parser.add_argument("--all", action="store_true", help="some 20,000 files, not a selection of 2,500")
    parser.add_argument("--only", default="", help="only cases whose kind or name holds this text")
    parser.add_argument("--trusted", action="store_true", help="projectors without untrusted=True: some may kill")
    parser.add_argument("--keep", type=Path, help="a folder for the files that kill")
    parser.add_argument("--verbose", action="store_true", help="print each file and what it raised")
    arguments = parser.parse_args()
    began = time.monotonic()
    totals: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        cases = select(folder, arguments.seed, 1.0 if arguments.all else SHARE, arguments.only)
        if arguments.trusted:
            cases = (replace(case, kind="trusted") for case in cases if case.kind == "projector")
        for result in pool.run(cases, folder):
            total = totals.setdefault(result.case.kind, Counter())
            total["files"] += 1
            total[_outcome(result)] += 1
            _show(result, arguments.verbose)
            if arguments.keep and result.bad:
                _keep(result.case, arguments.keep)
            n = sum(total["files"] for total in totals.values())
            if n % 100 == 0 and not arguments.verbose:
                print(f"{n} files, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"{'kind':15}{'files':>8}{'exception':>11}{'ran':>8}{'killed':>8}{'accident':>10}")
    whole: Counter[str] = sum(totals.values(), Counter())
    for kind, total in [*totals.items(), ("together", whole)]:
        print(
            f"{kind:15}{total['files']:8}{total['exception']:11}{total['ran']:8}{total['killed']:8}{total['accident']:10}"
        )
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} seconds")
    return 1 if whole["killed"] or whole["accident"] or not whole["files"] else 0


def select(folder: Path, seed: int, share: float, only: str = "") -> Iterator[mutations.Case]:
    """A share of all cases, the same for the same seed, and every good file."""
    rng = random.Random(seed)
    models, adapter, states = bases.write_models(folder), bases.write_adapter(folder), bases.states(folder)
    for case in mutations.cases(models, adapter, states, seed, media.write_projectors(folder)):
        chosen = rng.random() < share or case.name.endswith("/good")
        if chosen and (only in case.name or only == case.kind):
            yield case


def _outcome(result: pool.Result) -> str:
    if result.killed:
        return "killed"
    if result.accident:
        return "accident"
    return "exception" if result.errors else "ran"


def _show(result: pool.Result, verbose: bool) -> None:
    if result.bad:
        print(f"KILLED {result.case.name!r}: {result.killed}{result.accident}", flush=True)
    elif verbose:
        print(f"{result.case.name!r}: {'; '.join(result.errors) or 'ran'}", flush=True)


def _keep(case: mutations.Case, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.=-]+", "_", case.name)[:120]
    for i, data in enumerate(case.files):
        (folder / (f"{stem}.{case.kind}" + (f".{i}" if i else ""))).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
