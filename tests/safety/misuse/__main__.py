"""`python -m tests.safety.misuse [words]`: run every case, or those with these words in their area or name.

`--table` prints the counts by area and kind instead, as Markdown.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from tests.safety import models
from tests.safety.isolated import Ended
from tests.safety.misuse import AREAS
from tests.safety.misuse.case import Case, Kind

WORKERS = 2


def table() -> str:
    """How many cases there are, by area and kind."""
    kinds = get_args(Kind)
    rows = [[area, *(sum(case.kind == kind for case in cases) for kind in kinds)] for area, cases in AREAS.items()]
    rows.append(["all", *(sum(row[1 + i] for row in rows) for i in range(len(kinds)))])
    head = ["area", *kinds, "cases"]
    lines = [head, ["---", *["---:"] * (len(kinds) + 1)], *([*row, sum(row[1:])] for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def main(arguments: list[str]) -> int:
    if arguments == ["--table"]:
        print(table(), end="")
        return 0
    wanted = " ".join(arguments)
    cases = [(area, case) for area, all_ in AREAS.items() for case in all_ if wanted in f"{area}: {case.name}"]
    if not cases:
        print(f"no case has {wanted!r} in its area or name")
        return 1
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(WORKERS) as pool:
        folder = models.write_all(Path(name))
        failures = report(cases, pool.map(lambda item: item[1].run(folder), cases))
    print(*count(cases, failures), sep="\n")
    return 1 if failures else 0


def report(cases: list[tuple[str, Case]], endings: Iterable[Ended]) -> list[Ended]:
    """Print a dot or an F for each case as it ends, and then the failures in full. Returns those."""
    failed: list[tuple[str, Case, Ended]] = []
    for done, ((area, case), ended) in enumerate(zip(cases, endings, strict=True), 1):
        if not ended.passed:
            failed.append((area, case, ended))
        print("." if ended.passed else "F", end="" if done % 100 else f" {done}\n", flush=True)
    print()
    for area, case, ended in failed:
        print(f"\n{area}: {case.name} ({case.kind}, {case.function})\n{case.code.strip()}\n-> {ended}")
    return [ended for *_, ended in failed]


def count(cases: list[tuple[str, Case]], failures: list[Ended]) -> list[str]:
    """The last lines: what ran, and how it ended."""
    kinds = Counter(case.kind for _, case in cases)
    killed = sum(ended.killed for ended in failures)
    return [
        ", ".join(f"{kinds[kind]} {kind}" for kind in get_args(Kind)),
        f"{len(cases)} cases, {len(cases) - len(failures)} Python exceptions or documented results, "
        f"{killed} interpreters killed",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
