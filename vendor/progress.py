"""Progress of long work on stderr: a counter that is redrawn on a terminal, and a line per 10 % elsewhere."""

from __future__ import annotations

import sys
import time


class Progress:
    """Report `done` of `total` on stderr, at most a few times a second."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = max(total, 1)
        self._tty = sys.stderr.isatty()
        self._shown = -1
        self._started = self._last = time.monotonic()
        print(f"{what}: 0/{total}", file=sys.stderr, end="" if self._tty else "\n", flush=True)

    def update(self, done: int) -> None:
        now = time.monotonic()
        step = done * 10 // self.total
        if self._tty:
            if now - self._last < 0.2 and done < self.total:
                return
            print(f"\r{self.what}: {done}/{self.total}", file=sys.stderr, end="", flush=True)
        elif step == self._shown and now - self._last < 30:
            return
        else:
            print(f"{self.what}: {done}/{self.total}", file=sys.stderr, flush=True)
        self._shown, self._last = step, now

    def finish(self) -> None:
        seconds = time.monotonic() - self._started
        start = "\r" if self._tty else ""
        print(f"{start}{self.what}: done in {seconds:.0f} s", file=sys.stderr, flush=True)
