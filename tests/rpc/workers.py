"""Workers on loopback, each a process of its own."""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

PATIENCE = 60.0  # seconds; far more than anything here takes


class Worker:
    """`python -m llama_cffi rpc-worker` with one thread, from when it listens; killed at the end of the block."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--port", str(port), "--threads", "1", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.endpoint = self.wait_for(r"^listening at (127\.0\.0\.1:\d+) ")
        except BaseException:
            self.end()
            raise
        self.port = int(self.endpoint.split(":")[1])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._new.put(line)
        self._new.put("")

    def wait_for(self, pattern: str) -> str:
        """The first group of the pattern, in the next line of the worker's that has it."""
        while True:
            try:
                line = self._new.get(timeout=PATIENCE)
            except queue.Empty:
                line = ""
            assert line, f"the worker did not say {pattern!r}, but:\n{''.join(self.lines)}"
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match[1] if match.re.groups else match[0]

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; returns the exit status, and has all lines in `lines`."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        with suppress(queue.Empty):
            while True:
                self.lines.append(self._new.get_nowait())
        return status

    def end(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


COMMAND = (sys.executable, "-m", "llama_cffi", "rpc-worker")


def refused(*arguments: str) -> tuple[int, str]:
    """The status and the words of a worker that does not start."""
    ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert not ended.stdout
    return ended.returncode, ended.stderr


def pids(workers: Sequence[Worker]) -> list[str]:
    return [str(worker.process.pid) for worker in workers]
