"""Progress of long work on stderr: a counter that is redrawn on a terminal, and a line per 10 % elsewhere.

pip shows what a build prints only with `--verbose` or after a failure. Below pip, each line goes to the terminal too,
if there is one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time


def say(text: str) -> None:
    """Print a line on stderr, and on the terminal if pip hides stderr."""
    _write(text)


def _write(text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end, flush=True)
    if "PIP_BUILD_TRACKER" in os.environ and not sys.stderr.isatty():
        # Each line begins a new one, because pip's own line is not complete; pip goes on below it.
        with contextlib.suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:
            terminal.write(f"\n  {text}\n  ")


class Progress:
    """Report `done` of `total` on stderr, at most a few times a second."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = max(total, 1)
        self._tty = sys.stderr.isatty()
        self._shown = -1
        self._started = self._last = time.monotonic()
        _write(f"{what}: 0/{total}", end="" if self._tty else "\n")

    def update(self, done: int) -> None:
        now = time.monotonic()
        step = done * 10 // self.total
        if self._tty:
            if now - self._last < 0.2 and done < self.total:
                return
            _write(f"\r{self.what}: {done}/{self.total}", end="")
        elif step == self._shown and now - self._last < 30:
            return
        else:
            _write(f"{self.what}: {done}/{self.total}")
        self._shown, self._last = step, now

    def finish(self) -> None:
        seconds = time.monotonic() - self._started
        start = "\r" if self._tty else ""
        _write(f"{start}{self.what}: done in {seconds:.0f} s")
