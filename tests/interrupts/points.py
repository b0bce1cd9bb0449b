"""Points inside the facade at which Python code can be interrupted, and an exception at the n-th of them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import llama_cffi

_PACKAGE = str(Path(llama_cffi.__file__).parent)

KINDS = ("line", "call", "opcode")
"""`line`: each line, call and return, as a debugger sees them. `call`: each call and return, of C functions too, as a
profiler sees them. `opcode`: each instruction of the bytecode."""


class Interrupted(BaseException):
    """Raised at a point."""


class Points:
    """Counts the points that a block passes, and raises `Interrupted` once, at the n-th (0: never)."""

    def __init__(self, kind: str, n: int = 0) -> None:
        self.kind, self.n, self.count = kind, n, 0
        self.where = ""

    def __enter__(self) -> Points:
        if self.kind == "call":
            sys.setprofile(self._profile)
        else:
            sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _pass(self, frame: FrameType, event: str) -> None:
        self.count += 1
        if self.count == self.n:
            code = frame.f_code
            self.where = f"{event} in {code.co_name}, {Path(code.co_filename).name}:{frame.f_lineno}"
            raise Interrupted(self.where)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        del argument  # the traceback keeps this frame: a method that is not called would keep its lock
        if frame.f_code.co_filename.startswith(_PACKAGE):
            self._pass(frame, event)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        del argument
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        if event == "call" and self.kind == "opcode":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._pass(frame, event)
        return self._trace


class Signals:
    """A signal about every millisecond. Its handler raises `Interrupted` twice, the second while the first unwinds."""

    RAISED = 2

    def __init__(self) -> None:
        self.left = 0  # how often the handler may still raise
        signal.signal(signal.SIGALRM, self._raise)

    def arm(self) -> None:
        self.left = self.RAISED
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.00103)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.left > 0:
            self.left -= 1
            raise Interrupted("signal")

    def disarm(self) -> None:
        """Stop the signals. It cannot be interrupted once `left` is 0."""
        self.left = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
