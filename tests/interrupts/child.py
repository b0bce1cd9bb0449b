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
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_cffi import BusyError, ClosedError
from llama_cffi._core import handle
from llama_cffi._core.ownership import n_owned
from tests.busy import patience
from tests.interrupts.operations import operations
from tests.interrupts.points import Interrupted, Points, Signals, Tracer
from tests.leaks.measure import Memory

PATIENCE_S = patience(60)
TRANSIENT_S = patience(5)  # for threads that are at their end
WAIT_S = 600  # of a process that uses no CPU time
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

    def renew(self, leaked: bool = False) -> None:
        """Make new objects. With `leaked`, some of the old ones may stay for good."""
        self._drop(leaked)
        self.operate = self.prepare()
        for _ in range(3):
            self.operate()
        gc.collect()
        self.made = counts()
        self.unraisable.clear()

    def _drop(self, leaked: bool = False) -> None:
        self.operate: Any = None
        self.unraisable.clear()  # their frames refer to objects
        if not settled(self.before):
            if leaked:
                self.before = counts()
                return
            raise SystemExit(f"{counts()} C objects, open files and threads outlive the operation, not {self.before}")

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
            return "leaked", f"{where}: {counts()} C objects, open files and threads, not {self.made}"
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


def counts() -> tuple[int, int, int]:
    """The numbers of C objects, open files, and threads that Python started."""
    return n_owned(), len(os.listdir("/proc/self/fd")), threading.active_count()


def settled(expected: tuple[int, int, int]) -> bool:
    """Wait for these counts: a thread may be at its end."""
    end = time.monotonic() + TRANSIENT_S
    gc.collect()
    while differs(expected) and time.monotonic() < end:
        time.sleep(0.001)
        gc.collect()
    if differs(expected) and gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    return not differs(expected)


def differs(expected: tuple[int, int, int]) -> bool:
    """True if these are not the counts. Fewer threads are fine: one may have been at its end when they were seen."""
    objects, files, threads = counts()
    return (objects, files) != expected[:2] or threads > expected[2]


class Run:
    """What was tried, and what came of it."""

    def __init__(self, trial: Trial, at: int) -> None:
        self.trial, self.at = trial, at
        self.tried = self.next = 0
        self.failures: list[tuple[str, str]] = []
        self.before = Memory.now()  # of Python's heap and of C's

    def reaches(self, n: int) -> None:
        """The n-th point is tried now."""
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        os.pwrite(self.at, b"%12d" % n, 0)
        if VERBOSE:
            print(n, file=sys.stderr, flush=True)

    def check(self, where: str) -> bool:
        """Look at what an interruption has left, and note what is wrong. Returns False if something is."""
        failure = self.trial.check(where)
        if failure[0] != "ok":
            self.note(*failure)
            self.trial.renew(leaked=True)
        return failure[0] == "ok"

    def note(self, verdict: str, text: str) -> None:
        self.failures.append((verdict, text))
        print(verdict, text, file=sys.stderr, flush=True)  # in case that the next line ends this process

    @property
    def goes_on(self) -> bool:
        return len(self.failures) < MOST

    def result(self, points: int) -> dict[str, Any]:
        grown = Memory.now() - self.before
        if grown.blocks > _BLOCKS_A_POINT * self.tried + _BLOCKS or grown.heap > _HEAP_A_POINT * self.tried + _HEAP:
            text = f"{grown.blocks} Python objects and {grown.heap} bytes of C's heap more after {self.tried} points"
            self.failures.append(("leaked", text))
        return {"points": points, "tried": self.tried, "next": self.next, "failures": self.failures}


class PointRun(Run):
    """Interruptions at points.

    The operation is done whole after each group of points, as each next point of the group does it up to there: what an
    interruption leaves (a lock, an object that is used up, one too many) shows there, or in the counts at the end. If a
    group fails, its points are tried again one by one.
    """

    GROUP = 8

    def __init__(self, trial: Trial, at: int, tracer: Tracer, kind: str) -> None:
        super().__init__(trial, at)
        self.tracer, self.kind = tracer, kind
        with Points(tracer, kind) as counter:
            trial.operate()
        self.count = counter.count
        self.places: dict[int, str] = {}  # the points since the last check

    def interrupt(self, n: int) -> bool:
        """Interrupt at the n-th point. Returns False if the operation failed before it."""
        self.reaches(n)
        error: BaseException | None = None
        with Points(self.tracer, self.kind, n) as at:
            try:
                self.trial.operate()
            except Interrupted:
                pass
            except Exception as raised:  # what the facade made of it
                error = raised.with_traceback(None)
        if error is None or at.where:
            self.places[n] = f"{self.kind} {n}, {at.where}"
        return n in self.places

    def finish(self) -> None:
        """Look at what the points since the last check have left."""
        places, self.places = self.places, {}
        before = len(self.failures)
        if not places or self.check(", ".join(places.values())) or len(places) == 1:
            return
        together = self.failures.pop()
        for n in places:
            if self.goes_on:
                self.alone(n)
        self.places = {}
        if len(self.failures) == before:
            self.failures.append(together)

    def alone(self, n: int) -> None:
        """Interrupt at the n-th point, and look at what that has left."""
        if self.interrupt(n):
            self.check(self.places.pop(n))
        else:
            self.note("harmed", f"{self.kind} {n}: the operation fails before this point, on new objects")

    def tries(self, n: int) -> None:
        if not self.interrupt(n):
            self.finish()  # which makes new objects, if these are used up
            if not self.interrupt(n):
                self.alone(n)
        self.tried += 1
        if len(self.places) >= self.GROUP:
            self.finish()

    def all(self, first: int, seconds: float, seed: int | None) -> dict[str, Any]:
        """Interrupt at each point from `first` on, or (with a seed) at random ones, for seconds of CPU time."""
        order: Iterable[int] = range(first, self.count + 1)
        if seed is not None:
            order = random.Random(seed).sample(range(1, self.count + 1), self.count)
        self.before = Memory.now()
        cpu, end = time.process_time() + seconds, time.monotonic() + WAIT_S
        for n in order:
            late = time.process_time() > cpu or time.monotonic() > end
            if (late and self.tried) or not self.goes_on:
                self.next = n
                break
            self.tries(n)
        self.finish()
        return self.result(self.count)


def signals(run: Run, seconds: float) -> dict[str, Any]:
    """Interrupt the operation by real signals."""
    end, timer = time.monotonic() + seconds, Signals()
    while time.monotonic() < end and run.goes_on:
        run.reaches(run.tried + 1)
        try:
            try:
                timer.arm()
                while time.monotonic() < end:
                    run.trial.operate()
                timer.left = 0
            except (Interrupted, Exception):
                timer.left = 0
        except Interrupted:  # right here: the second, or the first after an error of the operation's own
            timer.left = 0  # an assignment: no signal is handled before it
        try:
            timer.disarm()
        except Interrupted:  # one that the facade had put off
            timer.disarm()
        run.tried += 1
        run.check("signal")
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
    trial = Trial(operations(options.folder)[options.operation])
    if options.kind == "signal":
        result = signals(Run(trial, at), options.seconds)
    else:
        run = PointRun(trial, at, Tracer(options.folder), options.kind)
        result = run.all(options.first, options.seconds, options.seed)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
