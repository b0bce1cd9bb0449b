"""Worker processes, each with one hostile file at a time; one that dies or hangs is counted and replaced."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.busy import patience
from tests.hostile.mutations import Case

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0  # seconds for one file with a CPU to itself; most need a tenth of one
RENEWED = 400  # files a process: what failed calls leave behind must not add up


@dataclass(frozen=True)
class Result:
    """How a case ended: `killed` says by what, `accident` is an exception that no file should cause."""

    case: Case
    errors: tuple[str, ...] = ()
    killed: str = ""
    accident: str = ""

    @property
    def bad(self) -> bool:
        """Whether no file should have done this."""
        return bool(self.killed or self.accident)


class Worker:
    """A process and the case that it is at."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.case: Case | None = None
        self.last: Case | None = None
        self.files: list[Path] = []
        self._start()

    def _start(self) -> None:
        self.served = 0
        self.stderr = (self.folder / f"stderr-{self.number}").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.worker", str(self.folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # threads that spin starve the other processes
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
        )

    def give(self, case: Case) -> Result | None:
        """Write the files of a case and let the process use them. Returns what became of the case before, if it died
        of that one only after it had answered."""
        late = None
        if self.process.poll() is not None:
            assert self.last is not None
            late = Result(self.last, killed=f"after its end, {self._end()}")
            self._start()
        if self.served >= RENEWED:
            self.stop()
            self._start()
        self.served += 1
        self.case, n = case, len(case.files)
        # llama.cpp finds the other files of a split model by their names.
        names = [f"{self.number}.gguf"] if n == 1 else [f"{self.number}-{i + 1:05}-of-00002.gguf" for i in range(n)]
        self.files = [self.folder / name for name in names]
        for file, data in zip(self.files, case.files, strict=True):
            file.write_bytes(data)
        request = {"kind": case.kind, "base": case.base, "files": [str(file) for file in self.files]}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        self.last = case
        return late

    def result(self, timed_out: bool = False) -> Result:
        """What became of the case; starts another process where this one is gone."""
        assert self.case is not None and self.process.stdout is not None
        case, self.case = self.case, None
        line = b"" if timed_out else self.process.stdout.readline()
        for file in self.folder.glob(f"{self.number}[.-]*"):
            file.unlink()
        if line:
            answer = json.loads(line)
            return Result(case, tuple(answer.get("errors", ())), accident=answer.get("accident", ""))
        self.process.kill()
        how = f"no end after {TIMEOUT:.0f} s, {self._end()}" if timed_out else self._end()
        self._start()
        return Result(case, killed=how)

    def _end(self) -> str:
        """By what the process ended, and its last words."""
        code = self.process.wait()
        self.stderr.seek(0)
        words = self.stderr.read()[-1500:].decode(errors="replace").strip()
        return (f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}") + f"\n{words}"

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run(cases: Iterable[Case], folder: Path, n_workers: int = 2) -> Iterator[Result]:
    """Use every case, on several processes; yield the results as they come."""
    pending = iter(cases)
    idle = deque(Worker(folder, number) for number in range(n_workers))
    with selectors.DefaultSelector() as busy:
        while True:
            while idle:
                case = next(pending, None)
                if case is None:
                    break
                worker = idle.popleft()
                late = worker.give(case)
                if late:
                    yield late
                busy.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            if not busy.get_map():
                break
            ready = [key.data for key, _ in busy.select(patience(TIMEOUT))]
            hung = not ready
            for worker in ready or [key.data for key in busy.get_map().values()]:
                busy.unregister(worker.process.stdout)
                yield worker.result(timed_out=hung)
                idle.append(worker)
    for worker in idle:
        worker.stop()
