"""`python -m tests.mutations [NAME...] [--compile] [--table]`: every mutation of the headers, and what came of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.mutations.compilation import complaint
from tests.mutations.generation import edited, outcome, read, surprise
from tests.mutations.table import MUTATIONS

_PROCESSES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="mutations to run; all of them by default")
    parser.add_argument("--compile", action="store_true", help="compile what was generated, too")
    parser.add_argument("--table", action="store_true", help="print the table alone, and run nothing")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in MUTATIONS]
    if unknown:
        parser.error(f"there is no mutation {unknown[0]}: --table shows them")
    names = args.names or list(MUTATIONS)
    if args.table:
        for name in names:
            print(_line(name, MUTATIONS[name].expected.word, ""))
        return 0
    surprises = []
    counts: Counter[str] = Counter()
    with ProcessPoolExecutor(_PROCESSES) as pool:
        for name, (word, problem) in zip(names, pool.map(partial(try_one, compiling=args.compile), names), strict=True):
            print(_line(name, MUTATIONS[name].expected.word, f"SURPRISE: {word}" if problem else word), flush=True)
            counts[word] += not problem
            surprises += [f"{name}: {problem}"] if problem else []
    print(", ".join(f"{counts[word]} {word}" for word in sorted(counts)) + f", {len(surprises)} surprises")
    print("".join(f"\n{text}\n" for text in surprises), file=sys.stderr, end="")
    return 1 if surprises else 0


def try_one(name: str, compiling: bool = False) -> tuple[str, str]:
    """What came of a mutation in a word, and what is not as expected."""
    mutation = MUTATIONS[name]
    with edited(mutation) as folders:
        result = read(mutation, folders)
        problem = surprise(mutation, result)
        if compiling and not problem and result.error is None:
            with tempfile.TemporaryDirectory() as scratch:
                problem = complaint(result, folders, Path(scratch))
        return outcome(mutation, result), problem


def _line(name: str, expected: str, came: str) -> str:
    return f"{name:42} | {MUTATIONS[name].kind:22} | {expected:11} | {came}"


if __name__ == "__main__":
    sys.exit(main())
