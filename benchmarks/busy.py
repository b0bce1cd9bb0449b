"""Measures generation while the machine does something else: `python benchmarks/busy.py [--rounds 3] [--out FOLDER]`.

The cases are an idle machine, several processes of the same kind at once, busy programs beside one process, and a quota
of CPUs, as a container has it. Each side is measured in processes of its own, which generate for a fixed number of
seconds; sides and cases take turns in every round. The sides:

- default: a greedy loop over the facade with the default number of threads; all, one: with as many threads as CPUs, and
  with one; passive: all, with OMP_WAIT_POLICY=passive
- engine: an Engine with 16 clients (`--clients`)
- llama-bench and llama-cpp-python over the same library files, if they are in the cache or can be built
- before: the default of another checkout of this project that `--before FOLDER` names, built there

The busy programs are started and killed by the benchmark. A quota needs root; without it that case is left out.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import build_llama_bench, llama_bench, peers, report, workload  # noqa: E402
from benchmarks.build_llama_bench import BuildError  # noqa: E402
from benchmarks.busy_load import QuotaError, restrict_cpus  # noqa: E402
from benchmarks.busy_sides import Case, LlamaBench, Measured, Side, loop, measure  # noqa: E402
from benchmarks.llama_bench import MeasurementError  # noqa: E402
from benchmarks.peers.environment import PeerError  # noqa: E402
from vendor.tools import FetchError  # noqa: E402

SIDES = ("default", "all", "one", "passive", "engine", "llama-bench", "llama-cpp-python")
PROGRAM = ROOT / "benchmarks" / "busy_loop.py"

Results = dict[str, dict[str, list[Measured]]]
"""The measurements by case and side, one per round."""


def cases(given: argparse.Namespace, cpus: int) -> list[Case]:
    """The cases of a command line; the idle machine is always one of them."""
    found = [Case("idle")]
    found += [Case(f"{count} at once", processes=count) for count in given.at_once]
    for busy in dict.fromkeys(cpus if count == "cpus" else int(count) for count in given.busy):
        found.append(Case(f"{busy} busy program{'s' if busy > 1 else ''}", busy=busy))
    return found + [Case(f"quota of {quota:g}", quota=quota) for quota in given.quota]


def sides(given: argparse.Namespace, model: Path, cpus: int, stack: ExitStack) -> tuple[list[Side], dict[str, str]]:
    """The sides of a command line, and why others are left out."""
    found, reasons = [], dict[str, str]()
    for name in given.sides:
        try:
            match name:
                case "default":
                    found.append(facade(name, "greedy", model, given, {"threads": 0}))
                    if given.before is not None:
                        tree = given.before.resolve(strict=True)
                        found.append(facade("before", "greedy", model, given, {"threads": 0}, tree))
                case "all":
                    found.append(facade(name, "greedy", model, given, {"threads": cpus}))
                case "one":
                    found.append(facade(name, "greedy", model, given, {"threads": 1}))
                case "passive":
                    side = facade(name, "greedy", model, given, {"threads": cpus})
                    found.append(replace(side, environment={**side.environment, "OMP_WAIT_POLICY": "passive"}))
                case "engine":
                    found.append(facade(name, "engine", model, given, {"threads": 0, "seqs": given.clients}))
                case "llama-bench":
                    program = given.llama_bench or build_llama_bench.executable()
                    folder = stack.enter_context(llama_bench.staged(program, peers.chosen(), vulkan=False))
                    options = LlamaBench.arguments(model, cpus)
                    found.append(Side(name, [str(folder / "llama-bench"), *options], llama_bench=True))
                case _:
                    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    peer = peers.installed(name, scratch)
                    path = str(ROOT / "benchmarks" / "peers")
                    command = [peer.command[0], str(PROGRAM), "llama_cpp_python"]
                    words = {"model": model, "seconds": given.seconds, "margin": given.margin, "threads": 0}
                    found.append(loop(name, command, words, peer.env | {"PYTHONPATH": path}))
        except (BuildError, FetchError, PeerError, OSError, subprocess.CalledProcessError) as why:
            reasons[name] = str(why).splitlines()[0]
            _tell(f"{name} is left out: {reasons[name]}")
    return found, reasons


def facade(
    name: str, case: str, model: Path, given: argparse.Namespace, more: dict[str, object], tree: Path = ROOT
) -> Side:
    """A side that runs a case of `busy_loop.py` with the package of a checkout; `more` are arguments of the case."""
    words = {"model": model, "seconds": given.seconds, "margin": given.margin, **more}
    given_path = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(filter(None, [str(tree), str(ROOT / "benchmarks" / "peers"), given_path]))
    return loop(name, [sys.executable, str(PROGRAM), case], words, {"PYTHONPATH": path})


def run(chosen: list[Case], taking_part: list[Side], given: argparse.Namespace) -> tuple[Results, dict[str, str]]:
    """Measure in turns, in another order each round. Returns the results, and why a case or a side has none."""
    results: Results = {case.name: {side.name: [] for side in taking_part} for case in chosen}
    reasons: dict[str, str] = {}
    try:
        for number, case, side in turns(chosen, taking_part, given.rounds):
            where = f"{case.name}, {side.name}, round {number}"
            if case.name in reasons:
                continue
            try:
                found = measure(side, case, given.seconds, given.margin)
            except (QuotaError, MeasurementError) as why:
                reasons[case.name if isinstance(why, QuotaError) else where] = str(why)
                _tell(f"{where}: left out: {why}")
                continue
            found.round = number
            results[case.name][side.name].append(found)
            _tell(f"  {where}: {found.parts} tokens/s")
    except KeyboardInterrupt:
        reasons["the rest"] = "interrupted"
    return {name: found for name, found in results.items() if name not in reasons}, reasons


def turns(chosen: list[Case], taking_part: list[Side], rounds: int) -> Iterator[tuple[int, Case, Side]]:
    """All measurements: round, case and side. The order of the cases and the first side change with each round."""
    for number in range(rounds):
        turn = number % max(1, len(taking_part))
        for case in chosen if number % 2 == 0 else chosen[::-1]:
            for side in taking_part[turn:] + taking_part[:turn]:
                yield number + 1, case, side


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def median(measured: list[Measured]) -> float | None:
    """The median of the rounds' tokens per second, all processes of a measurement together; None if there are none."""
    return statistics.median(each.speed for each in measured) if measured else None


def ratio(measured: list[Measured], other: list[Measured]) -> float | None:
    """The median of the rounds' ratios of speed; None if there are none."""
    others = {each.round: each.speed for each in other if each.speed}
    found = [each.speed / others[each.round] for each in measured if each.round in others]
    return statistics.median(found) if found else None


def tables(results: Results) -> list[str]:
    """The medians, their ratios to the idle machine and to one thread, and all rounds."""
    names = [name for name, rounds in results["idle"].items() if rounds]
    head = "".join(f"{name:>17}" for name in names)
    lines = [f"{'tokens/s, medians':26}{head}"]
    for case, found in results.items():
        row = [median(found[name]) for name in names]
        lines.append(f"{case:26}" + "".join(_cell(value, 1) for value in row))
    lines += ["", f"{'to the idle machine':26}{head}"]
    for case, found in list(results.items())[1:]:
        row = [ratio(found[name], results["idle"][name]) for name in names]
        lines.append(f"{case:26}" + "".join(_cell(value, 3) for value in row))
    if "one" in names:
        lines += ["", f"{'to one thread':26}{head}"]
        for case, found in results.items():
            row = [ratio(found[name], found["one"]) for name in names]
            lines.append(f"{case:26}" + "".join(_cell(value, 3) for value in row))
    if "before" in names:
        value = ratio(results["idle"]["default"], results["idle"]["before"])
        lines += ["", f"idle, default to before: {_cell(value, 3).strip()}"]
    lines += ["", "rounds, tokens/s of each process"]
    for case, found in results.items():
        for name in names:
            lines.append(f"{case:26}{name:17} " + ("; ".join(each.parts for each in found[name]) or "-"))
    return lines


def _cell(value: float | None, digits: int) -> str:
    return f"{'-' if value is None else f'{value:,.{digits}f}':>17}"


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=workload.MODEL_HELP)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of a measurement (default: %(default)s)")
    parser.add_argument("--margin", type=float, default=0.3, help="seconds before and after it (default: %(default)s)")
    parser.add_argument("--cpus", type=int, metavar="N", help="use only N of the CPUs, for everything")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="sides to measure (default: all)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout to compare the default with")
    parser.add_argument(
        "--at-once", nargs="*", type=int, default=[2, 3, 4], metavar="N", help="processes at once (default: 2 3 4)"
    )
    parser.add_argument(
        "--busy",
        nargs="*",
        default=["1", "cpus"],
        metavar="N",
        help="busy programs: numbers, or `cpus` for one per CPU",
    )
    parser.add_argument(
        "--quota", nargs="*", type=float, default=[1.0], metavar="CPUS", help="quotas, also fractions (default: 1)"
    )
    parser.add_argument("--clients", type=int, default=16, help="clients of the engine (default: %(default)s)")
    parser.add_argument("--llama-bench", type=Path, metavar="FILE", help=f"the program; {llama_bench.HOW_TO}")
    report.add_arguments(parser, rounds=3)
    return parser.parse_args(words)


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the load and remove the quota there too
    given = _parse()
    if given.cpus is not None:
        restrict_cpus(given.cpus)
    cpus = len(os.sched_getaffinity(0))
    model = workload.model_path(given.model)
    about, load = report.machine(), os.getloadavg()[0]
    with ExitStack() as stack:
        taking_part, reasons = sides(given, model, cpus, stack)
        results, missing = run(cases(given, cpus), taking_part, given)
    about |= {"used_cpus": cpus, "load": [load, os.getloadavg()[0]]}
    threads = {
        name: found[0].about["threads"]
        for name, found in results["idle"].items()
        if found and "threads" in found[0].about
    }
    lines = report.heading("Generation on a busy machine", about)
    lines += [
        f"{model.name}; {cpus} CPUs used, {given.seconds:g} s each, {given.rounds} rounds; load {load:.1f} before",
        "threads: " + ", ".join(f"{name} {count}" for name, count in threads.items()),
        *(f"left out: {name}: {why}" for name, why in (reasons | missing).items()),
        "",
        *tables(results),
    ]
    print("\n".join(lines), flush=True)
    if given.out is not None:
        settings = {key: str(value) for key, value in vars(given).items() if key not in ("out", "before")}
        figures: dict[str, Any] = {
            "machine": about,
            "settings": settings | {"model": model.name},
            "left_out": reasons | missing,
            "results": {
                case: {name: [vars(each) for each in rounds] for name, rounds in found.items()}
                for case, found in results.items()
            },
        }
        report.write(given.out, f"{about['processor']} busy {given.label}", lines, figures)


if __name__ == "__main__":
    main()
