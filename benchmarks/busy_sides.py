"""The sides of `benchmarks/busy.py`: programs that generate until a number of seconds is over, and count their tokens.

All processes of a measurement are started and loaded first, and then told to begin at the same moment.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.busy_load import busy_programs, cpu_quota, in_group
from benchmarks.llama_bench import MeasurementError

PATIENCE_S = 180.0
"""A process that has not answered after this many seconds is killed."""


@dataclass(frozen=True)
class Side:
    """One way to generate: a command with the protocol of the contest, or llama-bench."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    llama_bench: bool = False


@dataclass(frozen=True)
class Case:
    """What happens on the machine during a measurement."""

    name: str
    processes: int = 1
    """Processes of the same side at once."""
    busy: int = 0
    """Busy programs beside them."""
    quota: float = 0.0
    """CPUs that the processes may use; 0: no quota."""


@dataclass
class Measured:
    """What each process of a measurement generated, and in how many seconds."""

    tokens: list[int]
    seconds: list[float]
    about: dict[str, Any]
    round: int = 0

    @property
    def speed(self) -> float:
        """Tokens per second, all processes together."""
        return sum(self._speeds())

    @property
    def parts(self) -> str:
        """The tokens per second of each process, as text."""
        return " + ".join(f"{speed:.1f}" for speed in self._speeds())

    def _speeds(self) -> list[float]:
        return [count / seconds for count, seconds in zip(self.tokens, self.seconds, strict=True)]


def measure(side: Side, case: Case, seconds: float, margin: float) -> Measured:
    """Measure a side once. The busy programs start when the processes are loaded, `margin` seconds before the clock.

    Raises MeasurementError if a process fails, and QuotaError.
    """
    limit = 2 * PATIENCE_S + seconds
    with ExitStack() as stack:
        group = stack.enter_context(cpu_quota(case.quota)) if case.quota else None
        kind = LlamaBench if side.llama_bench else Loop
        processes = [stack.enter_context(_started(kind, side, group)) for _ in range(case.processes)]
        about = [process.wait_until_loaded() for process in processes]
        stack.enter_context(busy_programs(case.busy, limit))
        for process in processes:
            process.begin(seconds, margin)
        found = [process.result() for process in processes]
    return Measured([tokens for tokens, _ in found], [spent for _, spent in found], about[0])


class Process(ABC):
    """A process that generates."""

    def __init__(self, side: Side, group: Path | None) -> None:
        self.name = side.name
        self.popen = subprocess.Popen(
            in_group(side.command, group),
            env={**os.environ, **side.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if side.llama_bench else None,
            text=True,
        )
        self._timer = threading.Timer(PATIENCE_S, self.popen.kill)

    @abstractmethod
    def wait_until_loaded(self) -> dict[str, Any]:
        """Wait until the process can begin. Returns what it says about itself."""

    @abstractmethod
    def begin(self, seconds: float, margin: float) -> None:
        """Let it generate. Returns at once."""

    @abstractmethod
    def result(self) -> tuple[int, float]:
        """Wait for the number of tokens, and the seconds that they took."""

    def failed(self) -> MeasurementError:
        """The error for a process that ended or did not answer in time."""
        return MeasurementError(
            f"{self.name} ended with status {self.popen.wait()} or did not answer in {PATIENCE_S:.0f} s: see its output"
        )

    def close(self) -> None:
        """Kill the process."""
        self._timer.cancel()
        self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass


@contextmanager
def _started(kind: type[Process], side: Side, group: Path | None) -> Iterator[Process]:
    process = kind(side, group)
    try:
        yield process
    finally:
        process.close()


class Loop(Process):
    """A program with the protocol of the contest, as `benchmarks/busy_loop.py`."""

    def wait_until_loaded(self) -> dict[str, Any]:
        """Wait for its first line."""
        found = self._line()
        if not found.pop("ready"):
            raise MeasurementError(f"{self.name}: {found['why']}")
        return found

    def begin(self, seconds: float, margin: float) -> None:
        """Ask for a repetition. How long it takes is in the command."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("run\n")
        self.popen.stdin.flush()

    def result(self) -> tuple[int, float]:
        """Wait for the answer."""
        found = self._line()
        return int(found["items"]), float(found["seconds"])

    def _line(self) -> dict[str, Any]:
        self._timer.cancel()
        self._timer = threading.Timer(PATIENCE_S, self.popen.kill)
        self._timer.start()
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise self.failed()
        found: dict[str, Any] = json.loads(line)
        return found


class LlamaBench(Process):
    """llama-bench, which cannot be told to begin or to stop: it runs many short tests, one after another.

    The tests that lie in the measured seconds count, each with the time that llama-bench says it took.
    """

    TOKENS = 8
    """Tokens of a test: few, because a test that is not complete does not count."""
    TESTS = 4000

    def __init__(self, side: Side, group: Path | None) -> None:
        super().__init__(side, group)
        self._rows: list[tuple[float, float]] = []  # when each test ended, and the seconds that it took
        self._changed = threading.Condition()
        self._ended = False
        self._window = (0.0, 0.0)
        threading.Thread(target=self._read, daemon=True).start()

    @classmethod
    def arguments(cls, model: Path, threads: int) -> list[str]:
        """The options of a run."""
        tests = ",".join([str(cls.TOKENS)] * cls.TESTS)
        return ["-m", str(model), "-p", "0", "-n", tests, "-r", "1", "-ngl", "0", "-t", str(threads), "-o", "jsonl"]

    def _read(self) -> None:
        assert self.popen.stdout is not None
        try:
            for line in self.popen.stdout:
                row = json.loads(line)
                with self._changed:
                    self._rows.append((time.perf_counter(), row["samples_ns"][0] / 1e9))
                    self._changed.notify_all()
        except ValueError:  # the end of a killed process
            pass
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_until_loaded(self) -> dict[str, Any]:
        """Wait for its first test."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._ended, PATIENCE_S)
            if not self._rows:
                self.popen.kill()
                raise self.failed()
        return {}

    def begin(self, seconds: float, margin: float) -> None:
        """It generates already: note which seconds count."""
        now = time.perf_counter()
        self._window = (now + margin, now + margin + seconds)

    def result(self) -> tuple[int, float]:
        """Wait until the seconds are over, and at least one test that began in them. No token if none ends in time."""
        start, end = self._window
        time.sleep(max(0.0, end - time.perf_counter()))
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(row[0] - row[1] >= start for row in self._rows), 30)
            inside = [row for row in self._rows if row[0] - row[1] >= start]
        counted = [spent for at, spent in inside if at <= end] or [spent for _, spent in inside[:1]]
        if not counted:
            return 0, time.perf_counter() - start
        return self.TOKENS * len(counted), sum(counted)


def loop(name: str, command: Sequence[str], words: Mapping[str, object], environment: Mapping[str, str]) -> Side:
    """A side with the protocol of the contest: a command with its case, and the `key=value` arguments for it."""
    return Side(name, [*command, *(f"{key}={value}" for key, value in words.items())], environment)
