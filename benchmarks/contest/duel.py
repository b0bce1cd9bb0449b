"""Runs one case: all contestants in turns, in another order each round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contest.cases import Case
from benchmarks.peers import Contestant

Answer = dict[str, Any]

TIMEOUT = 300  # seconds for one answer


class ContestError(RuntimeError):
    """A contestant failed, or computed another result than it should."""


@dataclass
class Result:
    """A contestant's answers, round by round, or the reason why it does not take part."""

    answers: list[Answer] = field(default_factory=list)
    why: str = ""

    def figures(self, case: Case) -> list[float]:
        """The figure of each round, in the case's unit."""
        return [_figure(case, answer) for answer in self.answers]


def _figure(case: Case, answer: Answer) -> float:
    value = float(answer[case.figure])
    match case.unit:
        case "per second":
            return float(answer["items"]) / value
        case "microseconds":
            return value * 1e6 / (answer["items"] if case.figure == "seconds" else 1)
        case "milliseconds":
            return value * 1e3
        case "megabytes":
            return value / 1e6


def ratios(case: Case, ours: Result, theirs: Result) -> float:
    """The median of the rounds' ratios of speed: over 1 if `ours` is faster."""
    pairs = zip(ours.figures(case), theirs.figures(case), strict=True)
    return statistics.median(a / b if case.unit == "per second" else b / a for a, b in pairs)


def run(case: Case, contestants: Sequence[Contestant], words: Sequence[str], rounds: int) -> dict[str, Result]:
    """Measure the contestants in turns."""
    results = {contestant.name: Result() for contestant in contestants}
    with ExitStack() as stack:
        players = []
        for contestant in contestants:
            player = stack.enter_context(_player(case, contestant, words))
            if isinstance(player, str):
                results[contestant.name].why = player
            else:
                players.append((contestant.name, player))
        for number in range(rounds):
            turn = number % max(1, len(players))
            order = players[turn:] + players[:turn]
            for name, player in order if number % 2 == 0 else reversed(order):
                results[name].answers.append(next(player))
    return results


@contextmanager
def _player(case: Case, contestant: Contestant, words: Sequence[str]) -> Iterator[Iterator[Answer] | str]:
    """Context manager: an iterator over the contestant's answers, or the reason why there are none."""
    command = [*contestant.command, case.program, *words]
    if case.once:
        first = _started(contestant, command)
        yield str(first.get("why", "")) if first.get("ready") is False else _once(contestant, command)
        return
    with subprocess.Popen(
        command, env={**os.environ, **contestant.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            first = _answer(contestant, process)
            yield str(first.get("why", "")) if first.get("ready") is False else _asked(contestant, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _asked(contestant: Contestant, process: subprocess.Popen[str]) -> Iterator[Answer]:
    assert process.stdin is not None
    while True:
        process.stdin.write("run\n")
        process.stdin.flush()
        yield _answer(contestant, process)


def _answer(contestant: Contestant, process: subprocess.Popen[str]) -> Answer:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ContestError(f"{contestant.name} ended with status {process.wait()}: see its output")
    found: Answer = json.loads(line)
    return found


def _once(contestant: Contestant, command: Sequence[str]) -> Iterator[Answer]:
    while True:
        yield _started(contestant, command)


def _started(contestant: Contestant, command: Sequence[str]) -> Answer:
    """Run a process to its end. Returns its answer with its wall time."""
    started = time.perf_counter()
    result = subprocess.run(
        command,
        env={**os.environ, **contestant.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
    )
    wall = time.perf_counter() - started
    lines = result.stdout.splitlines()
    if result.returncode != 0 or not lines:
        raise ContestError(f"{contestant.name} ended with status {result.returncode}: see its output")
    found: Answer = json.loads(lines[-1])
    return {**found, "wall": wall}


def tell(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)
