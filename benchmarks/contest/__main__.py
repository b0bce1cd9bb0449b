"""The contest: `python -m benchmarks.contest [--quick] [CASE ...]` (`make bench` runs all of it).

A C program and other bindings do the same work as the facade, with the same library files where possible, and are
measured in turns, round by round. Prints a table of medians, and with --out writes it to a folder, with every figure
(JSON) and a plot (SVG).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import peers, report  # noqa: E402
from benchmarks.build_llama_bench import BuildError  # noqa: E402
from benchmarks.contest import cases, duel, inputs, plot, yardstick  # noqa: E402
from benchmarks.contest.cases import (  # noqa: E402
    FACADE,
    C as C_PROGRAM,
    Case,
    Target,
)
from benchmarks.contest.duel import ContestError, Result, ratios, tell  # noqa: E402
from benchmarks.peers import Contestant  # noqa: E402
from llama_cffi import Ggml  # noqa: E402

Results = dict[str, Result]


def main() -> int:
    arguments = _parse()
    made = inputs.prepare()
    known = cases.all_cases(made, arguments.threads)
    unknown = [name for name in arguments.cases if name not in [case.name for case in known]]
    if unknown:
        tell(f"error: unknown case {unknown[0]!r}: expected one of {', '.join(case.name for case in known)}")
        return 2
    chosen = [case for case in known if case.name in arguments.cases] or [
        case for case in known if case.quick or not arguments.quick
    ]
    Ggml.Backend.cpuLoad()
    variant = Ggml.Backend.cpuVariant()
    backend = peers.chosen() if variant is None else variant.path
    contestants = [
        Contestant(C_PROGRAM, [str(yardstick.executable())]),
        Contestant(FACADE, [sys.executable, str(Path(__file__).with_name("facade.py"))]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.no_peers:
            contestants += peers.contestants(Path(folder), backend)
        results: dict[str, Results] = {}
        for number, case in enumerate(chosen, 1):
            tell(f"[{number}/{len(chosen)}] {case.title}")
            results[case.name] = _run(case, contestants, made, backend, arguments.quick)
            tell("  " + ", ".join(_short(case, name, result) for name, result in results[case.name].items()))
    about = report.machine() | {"load": os.getloadavg()[2], "cpu_variant": backend.name}
    lines = report.heading("The facade beside a C program and other bindings", about)
    lines += [f"{contestant.name}: {contestant.version}, {contestant.note}" for contestant in contestants[2:]]
    lines += [f"left out: {name}: {why}" for name, why in peers.reasons.items()]
    lines += ["", *_table(chosen, results, [contestant.name for contestant in contestants])]
    verdicts = [line for case in chosen for line in _verdicts(case, results[case.name])]
    lines += ["", *verdicts]
    print("\n".join(lines), flush=True)
    if arguments.out is not None:
        name = f"contest {about['processor']} {arguments.label}"
        figures = {"machine": about, "cases": _for_json(chosen, results)}
        target = report.write(arguments.out, name, lines, figures)
        plot.contest(target.with_suffix(".svg"), chosen, results)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contest", description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="cases to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: under 3 minutes")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads for Gemma and for batches"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave the other bindings out")
    report.add_arguments(parser)
    return parser.parse_args()


def _run(case: Case, contestants: list[Contestant], made: inputs.Inputs, backend: Path, quick: bool) -> Results:
    words = {"backend": backend, "model": case.model(made), "prompt": 1, **case.words}
    if quick:
        words |= case.quick_words
    rounds = (case.quick or 3) if quick else case.rounds
    taking_part = [each for each in contestants if each.name not in case.without]
    results = duel.run(case, taking_part, [f"{key}={value}" for key, value in words.items()], rounds)
    checks = {name: {str(answer["check"]) for answer in results[name].answers} for name in (C_PROGRAM, FACADE)
              if name in results}  # fmt: skip
    if case.same and len(set().union(*checks.values())) != 1:
        raise ContestError(f"{case.name}: the C program and the facade computed different results: {checks}")
    return results


def _short(case: Case, name: str, result: Result) -> str:
    if not result.answers:
        return f"{name}: {result.why}"
    return f"{name} {_number(statistics.median(result.figures(case)))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(chosen: list[Case], results: dict[str, Results], names: list[str]) -> list[str]:
    lines = [f"{'case':36}{'':18}{'median':>12}{'min':>12}{'max':>12}{'to C':>9}   unit"]
    for case in chosen:
        for name in names:
            result = results[case.name].get(name)
            if result is None or not result.answers:
                continue
            figures = result.figures(case)
            base = results[case.name].get(C_PROGRAM)
            to_c = f"{ratios(case, result, base):.3f}" if base is not None and base.answers and case.compared else ""
            middle = "".join(
                f"{_number(value):>12}" for value in (statistics.median(figures), min(figures), max(figures))
            )
            title = case.title if name == next(iter(results[case.name])) else ""
            lines.append(f"{title:36}{name:18}{middle}{to_c:>9}   {case.unit}")
    lines.append("to C: the median of the rounds' ratios of speed, over 1 if it is faster than the C program")
    return lines


def _verdicts(case: Case, results: Results) -> list[str]:
    """A line per target: the measured value, and whether it reaches the target."""
    lines = []
    for target in case.targets:
        value, what = _measured(case, target, results)
        if value is None:
            lines.append(f"not measured: {case.name}: {what}")
            continue
        reached = value <= target.limit if target.most else value >= target.limit
        bound = "at most" if target.most else "at least"
        lines.append(f"{'reached' if reached else 'MISSED'}: {case.name}: {what} {value:.3f}, {bound} {target.limit:g}")
    return lines


def _measured(case: Case, target: Target, results: Results) -> tuple[float | None, str]:
    ours = results[FACADE]
    other = target.against or target.minus
    if other and not results.get(other, Result()).answers:
        return None, f"{other} does not take part"
    if target.against:
        ratio = ratios(case, ours, results[other])
        if target.most:
            return 1 / ratio, f"the time of {FACADE} as a part of that of {other}:"
        return ratio, f"the speed of {FACADE} to that of {other}:"
    value = statistics.median(ours.figures(case))
    if target.minus:
        return value - statistics.median(results[other].figures(case)), f"{case.unit} above {other}:"
    return value, f"{case.unit}:"


def _for_json(chosen: list[Case], results: dict[str, Results]) -> dict[str, Any]:
    return {
        case.name: {
            "title": case.title,
            "unit": case.unit,
            "contestants": {
                name: {"figures": result.figures(case), "answers": result.answers, "why": result.why}
                for name, result in results[case.name].items()
            },
            "verdicts": _verdicts(case, results[case.name]),
        }
        for case in chosen
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ContestError, BuildError) as error:
        sys.exit(f"error: {error}")
