"""Points inside the facade at which Python code can be interrupted, and an exception at the n-th of them."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

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
        self.kind, self.n = kind, n
        self.where = ""
        self._left = itertools.count(n - 1, -1)  # the quickest counter: `next` is a call of C

    @property
    def count(self) -> int:
        """How many points there were, after the block."""
        return self.n - 1 - next(self._left)

    def __enter__(self) -> Points:
        start = sys.setprofile if self.kind == "call" else sys.settrace
        start(self._profiler() if self.kind == "call" else self._tracer())
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _raise(self, frame: FrameType, event: str) -> NoReturn:
        code = frame.f_code
        self.where = f"{event} in {code.co_name}, {Path(code.co_filename).name}:{frame.f_lineno}"
        raise Interrupted(self.where)

    # The traceback keeps the frames of these functions, and a method that is not called would keep its lock. So they
    # drop their argument. They are called for each instruction, millions of times, and keep to local names.

    def _profiler(self) -> Callable[[FrameType, str, Any], None]:
        left, reached = self._left.__next__, self._raise

        def passed(frame: FrameType, event: str, argument: Any) -> None:
            del argument
            if frame.f_code.co_filename.startswith(_PACKAGE) and not left():
                reached(frame, event)

        return passed

    def _tracer(self) -> Callable[[FrameType, str, Any], Any]:
        left, reached, opcodes = self._left.__next__, self._raise, self.kind == "opcode"

        def inside(frame: FrameType, event: str, argument: Any) -> Any:
            del argument
            if not left():
                reached(frame, event)
            return inside

        def called(frame: FrameType, event: str, argument: Any) -> Any:
            del argument
            if not frame.f_code.co_filename.startswith(_PACKAGE):
                return None
            if opcodes:
                frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if not left():
                reached(frame, event)
            return inside

        return called


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
