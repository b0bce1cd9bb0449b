"""Measures how the binding's cost grows: `python -m benchmarks.contest.scale [--out FOLDER]`.

Runs a greedy loop in the facade and in the C program, in turns, while one dimension grows: the vocabulary, the tokens
in the context, the sequences in a batch, or the threads. Prints microseconds per token; with `--out` it writes a table,
the figures, and a plot per dimension.
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
    """A dimension that grows, and its values."""

    name: str
    axis: str
    program: str
    values: tuple[int, ...]
    log: bool = True

    def words(self, value: int, made: inputs.Inputs) -> dict[str, Any]:
        """The arguments of the contestants at one value."""
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
    """All dimensions; the number of threads is limited by the CPUs of this machine."""
    threads = tuple(n for n in (1, 2, 4, 8, 16) if n <= len(os.sched_getaffinity(0)))
    return [
        Row("vocabulary", "tokens in the vocabulary", "greedy", VOCABULARIES),
        Row("context", "tokens that the context holds", "greedy", CONTEXTS, log=False),
        Row("sequences", "sequences decoded at once", "many", SEQUENCES),
        Row("threads", "threads", "greedy", threads, log=False),
    ]


def measure(row: Row, contestants: list[peers.Contestant], common: dict[str, Any], rounds: int) -> dict[int, Any]:
    """The microseconds per token of each contestant, and the median of the rounds' differences."""
    made = inputs.prepare()
    found = {}
    for value in row.values:
        words = [f"{key}={text}" for key, text in (common | row.words(value, made)).items()]
        case = Case(row.name, row.name, row.program, "microseconds", rounds, rounds)
        results = duel.run(case, contestants, words, rounds)
        if len({answer["check"] for result in results.values() for answer in result.answers}) != 1:
            raise ContestError(f"{row.name} {value}: the C program and the facade computed different results")
        figures = {name: result.figures(case) for name, result in results.items()}
        more = statistics.median(a - b for a, b in zip(figures[FACADE], figures[C], strict=True))
        found[value] = {name: statistics.median(values) for name, values in figures.items()} | {"difference": more}
        duel.tell(
            f"  {row.name} {value}: " + ", ".join(f"{name} {number:.1f}" for name, number in found[value].items())
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    report.add_arguments(parser, rounds=15)
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
        lines += ["", f"{row.axis:32}{'C':>12}{'facade':>12}{'difference':>12}   microseconds per token, medians"]
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
                target.with_name(f"{target.stem}-{row.name}.svg"),
                "",
                row.axis,
                points,
                "microseconds per token",
                row.log,
            )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ContestError as error:
        sys.exit(f"error: {error}")
