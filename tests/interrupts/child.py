"""`python -m tests.interrupts.child <folder> <operation> <kind>`: interrupt one operation, and report as JSON.

This process must neither die nor wait without end: a watchdog shows where each thread is, and ends it. The file `at` in
the folder holds the number of the point that was tried last.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import logging
import os
import random
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_cffi import BusyError, ClosedError
from llama_cffi._core import handle
from llama_cffi._core.ownership import n_owned
from tests.interrupts.operations import operations
from tests.interrupts.points import Interrupted, Points, Signals
from tests.leaks.measure import Memory

PATIENCE_S = 60
TRANSIENT_S = 5  # for threads that are at their end
MOST = 5  # failures of one process
VERBOSE = "INTERRUPTS_VERBOSE" in os.environ
# What an interrupted operation may leave behind, since caches fill up: Python objects, and bytes of C's heap.
_BLOCKS, _BLOCKS_A_POINT = 2000, 0.5
_HEAP, _HEAP_A_POINT = 1 << 20, 32


class Trial:
    """One operation, prepared once. It is prepared again only where an interruption has used up its objects."""

    def __init__(self, prepare: Any) -> None:
        self.prepare = prepare
        gc.collect()
        self.before = counts()
        self.unraisable: list[tuple[Any, ...]] = []
        sys.unraisablehook = self._note
        self.renew()
        # What all operations share is never garbage. The collections after each point need not look at it: they take
        # 0.1 ms in place of 15. The objects of this operation are made after the freeze.
        self._drop()
        gc.freeze()
        self.renew()

    def renew(self) -> None:
        """Make new objects."""
        self._drop()
        self.operate = self.prepare()
        for _ in range(3):
            self.operate()
        gc.collect()
        self.made = counts()
        self.unraisable.clear()

    def _drop(self) -> None:
        self.operate: Any = None
        self.unraisable.clear()  # their frames refer to objects
        if not settled(self.before):
            raise SystemExit(f"{counts()} C objects and open files outlive the operation, not {self.before}")

    def _note(self, what: Any) -> None:
        self.unraisable.append((what.exc_value, what.object, what.err_msg, what.exc_traceback))  # may be interrupted

    def check(self, where: str) -> tuple[str, str]:
        """After an interruption: the same operation works, and nothing is left over. Returns a verdict, and why."""
        end = time.monotonic() + TRANSIENT_S
        while (error := self._attempt()) is not None:
            if isinstance(error, ClosedError):
                del error  # it refers to objects
                self.renew()
            elif not isinstance(error, BusyError) or time.monotonic() > end:
                return "harmed", f"{where}: afterwards {type(error).__name__}: {error}"
            time.sleep(0.001)  # a thread of asyncio computes until its step ends
        if not settled(self.made):
            return "leaked", f"{where}: {counts()} C objects and open files, not {self.made}"
        if handle._in_use():
            return "harmed", f"{where}: a handle is still in use"
        if self.unraisable:
            error, what, message, trace = self.unraisable[0]
            return "harmed", f"{where}: {error!r} in {what!r}: {message}\n{''.join(traceback.format_tb(trace))}"
        return "ok", ""

    def _attempt(self) -> BaseException | None:
        try:
            self.operate()
        except BaseException as error:
            return error.with_traceback(None)
        return None


def counts() -> tuple[int, int]:
    """The numbers of C objects and of open files."""
    return n_owned(), len(os.listdir("/proc/self/fd"))


def settled(expected: tuple[int, int]) -> bool:
    """Wait for these counts: a thread may be at its end."""
    end = time.monotonic() + TRANSIENT_S
    gc.collect()
    while counts() != expected and time.monotonic() < end:
        time.sleep(0.001)
        gc.collect()
    if counts() != expected and gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    return counts() == expected


class Run:
    """What was tried, and what came of it."""

    def __init__(self, trial: Trial, at: int) -> None:
        self.trial, self.at = trial, at
        self.tried = self.next = 0
        self.failures: list[tuple[str, str]] = []
        self.before = Memory.now()

    def reaches(self, n: int) -> None:
        """The n-th point is tried now."""
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        os.pwrite(self.at, b"%12d" % n, 0)

    def check(self, where: str) -> bool:
        """Look at what the interruption has left. Returns False after many failures."""
        self.tried += 1
        failure = self.trial.check(where)
        if failure[0] != "ok":
            self.failures.append(failure)
            print(*failure, file=sys.stderr, flush=True)  # in case that the next line ends this process
            self.trial.renew()
        return len(self.failures) < MOST

    def result(self, points: int) -> dict[str, Any]:
        grown = Memory.now() - self.before
        if grown.blocks > _BLOCKS_A_POINT * self.tried + _BLOCKS or grown.heap > _HEAP_A_POINT * self.tried + _HEAP:
            text = f"{grown.blocks} Python objects and {grown.heap} bytes of C's heap more after {self.tried} points"
            self.failures.append(("leaked", text))
        return {"points": points, "tried": self.tried, "next": self.next, "failures": self.failures}


def points(run: Run, kind: str, first: int, seconds: float, seed: int | None) -> dict[str, Any]:
    """Interrupt the operation at each point from `first` on, or (with a seed) at random ones."""
    with Points(kind) as counter:
        run.trial.operate()
    count = counter.count
    order: Iterable[int] = range(first, count + 1)
    if seed is not None:
        order = random.Random(seed).sample(range(1, count + 1), count)
    end = time.monotonic() + seconds
    for n in order:
        if time.monotonic() > end and run.tried:
            run.next = n
            break
        run.reaches(n)
        if VERBOSE:
            print(kind, n, file=sys.stderr, flush=True)
        with Points(kind, n) as at:
            try:
                run.trial.operate()
            except Interrupted:
                pass
            except Exception:  # what the facade made of it
                if not at.where:
                    raise
        if not run.check(f"{kind} {n}, {at.where}"):
            run.next = n + 1
            break
    return run.result(count)


def signals(run: Run, seconds: float) -> dict[str, Any]:
    """Interrupt the operation by real signals."""
    end, timer = time.monotonic() + seconds, Signals()
    while time.monotonic() < end:
        run.reaches(run.tried + 1)
        try:
            try:
                timer.arm()
                while time.monotonic() < end:
                    run.trial.operate()
                timer.left = 0
            except (Interrupted, Exception):
                timer.left = 0
        except Interrupted:  # the second, right here: none is left
            pass
        timer.disarm()
        if not run.check("signal"):
            break
    return run.result(run.tried)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("operation")
    parser.add_argument("kind")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    logging.getLogger("llama_cffi").disabled = True
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    at = os.open(options.folder / "at", os.O_WRONLY | os.O_CREAT)  # before open files are counted
    run = Run(Trial(operations(options.folder)[options.operation]), at)
    if options.kind == "signal":
        result = signals(run, options.seconds)
    else:
        result = points(run, options.kind, options.first, options.seconds, options.seed)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
