"""How the binding's cost grows: `python -m benchmarks.contest.scale [--out FOLDER]`.

The greedy loop of the facade and of the C program take turns while one thing grows: the vocabulary, the tokens that
the context holds already, the sequences that are decoded at once, the threads. Prints microseconds a token; with
`--out` a table, the figures and a plot for each are written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import peers, report  # noqa: E402
from benchmarks.contest import duel, inputs, plot, yardstick  # noqa: E402
from benchmarks.contest.cases import FACADE, C, Case  # noqa: E402
from benchmarks.contest.duel import ContestError  # noqa: E402
from vendor.source import pin as pins  # noqa: E402

VOCABULARIES = (4_096, 32_000, 131_072, 262_144)
CONTEXTS = (1, 1_024, 2_048, 3_840)
SEQUENCES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Row:
    """One thing that grows: what is measured at each of its values."""

    name: str
    axis: str
    program: str
    values: tuple[int, ...]
    log: bool = True

    def words(self, value: int, made: inputs.Inputs) -> dict[str, Any]:
        """The settings at one value."""
        common = {"model": made.small, "tokens": 256, "prompt": 1}
        match self.name:
            case "vocabulary":
                folder = pins.cache_root() / inputs.FOLDER
                tokens = min(512, max(64, 8_388_608 // value))
                return common | {"model": inputs.model(folder, value, 16), "tokens": tokens}
            case "context":
                return common | {"ctx": 4096, "batch": 4096, "prompt": ",".join(["100"] * value), "tokens": 128}
            case "sequences":
                return common | {"seqs": value, "ctx": 64 * 64, "tokens": max(8, 256 // value)}
            case _:
                return common | {"threads": value}


def rows() -> list[Row]:
    """What grows; threads go as far as this machine has CPUs."""
    threads = tuple(n for n in (1, 2, 4, 8, 16) if n <= len(os.sched_getaffinity(0)))
    return [
        Row("vocabulary", "tokens in the vocabulary", "greedy", VOCABULARIES),
        Row("context", "tokens that the context holds", "greedy", CONTEXTS, log=False),
        Row("sequences", "sequences decoded at once", "many", SEQUENCES),
        Row("threads", "threads", "greedy", threads, log=False),
    ]


def measure(row: Row, contestants: list[peers.Contestant], common: dict[str, Any], rounds: int) -> dict[int, Any]:
    """Microseconds a token of each, and the median of the rounds' differences."""
    made = inputs.prepare()
    found = {}
    for value in row.values:
        words = [f"{key}={text}" for key, text in (common | row.words(value, made)).items()]
        case = Case(row.name, row.name, row.program, "microseconds", rounds, rounds)
        results = duel.run(case, contestants, words, rounds)
        if len({answer["check"] for result in results.values() for answer in result.answers}) != 1:
            raise ContestError(f"{row.name} {value}: the C program and the facade did not do the same")
        figures = {name: result.figures(case) for name, result in results.items()}
        more = statistics.median(a - b for a, b in zip(figures[FACADE], figures[C], strict=True))
        found[value] = {name: statistics.median(values) for name, values in figures.items()} | {"difference": more}
        duel.tell(
            f"  {row.name} {value}: " + ", ".join(f"{name} {number:.1f}" for name, number in found[value].items())
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="a folder for the table, the figures and the plots")
    parser.add_argument("--label", default="", help="goes into the names of the files, after the processor")
    arguments = parser.parse_args()
    contestants = [
        peers.Contestant(C, [str(yardstick.executable())]),
        peers.Contestant(FACADE, [sys.executable, str(Path(__file__).with_name("facade.py"))]),
    ]
    about = report.machine() | {"load": os.getloadavg()[2]}
    lines = report.heading("How the binding's cost grows", about)
    figures = {}
    for row in rows():
        duel.tell(row.axis)
        figures[row.name] = found = measure(row, contestants, {"backend": peers.chosen()}, arguments.rounds)
        lines += ["", f"{row.axis:32}{'C':>12}{'facade':>12}{'difference':>12}   microseconds a token, medians"]
        lines += [
            f"{value:<32,}{numbers[C]:12.1f}{numbers[FACADE]:12.1f}{numbers['difference']:12.1f}"
            for value, numbers in found.items()
        ]
    print("\n".join(lines), flush=True)
    if arguments.out is not None:
        name = f"scale {about['processor']} {arguments.label}"
        target = report.write(arguments.out, name, lines, {"machine": about, "rows": figures})
        for row in rows():
            points = {
                name: [(float(value), numbers[name]) for value, numbers in figures[row.name].items()]
                for name in (C, FACADE)
            }
            plot.lines(
                target.with_name(f"{target.stem}-{row.name}.svg"), "", row.axis, points, "microseconds a token", row.log
            )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ContestError as error:
        sys.exit(f"error: {error}")
