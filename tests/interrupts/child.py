"""`python -m tests.interrupts.child <folder> <operation> <kind>`: interrupt one operation, and report as JSON.

This process must neither die nor wait without end: a watchdog shows where each thread is, and ends it.
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
from pathlib import Path
from typing import Any

from llama_cffi import BusyError, ClosedError
from llama_cffi._core import handle
from llama_cffi._core.ownership import n_owned
from tests.interrupts.operations import operations
from tests.interrupts.points import Interrupted, Points, Signals

PATIENCE_S = 60
TRANSIENT_S = 5  # for threads that are at their end
VERBOSE = "INTERRUPTS_VERBOSE" in os.environ
_BLOCKS_A_POINT = 0.5  # Python objects that an interrupted operation may leave behind: caches fill up


class Trial:
    """One operation, prepared once. It is prepared again only where an interruption has used up its objects."""

    def __init__(self, prepare: Any) -> None:
        self.prepare = prepare
        gc.collect()
        self.before = counts()
        self.unraisable: list[tuple[Any, ...]] = []
        sys.unraisablehook = self._note
        self.renew()

    def renew(self) -> None:
        """Make new objects."""
        self.operate: Any = None
        self.unraisable.clear()  # their frames refer to objects
        if not settled(self.before):
            raise SystemExit(f"{counts()} C objects and open files outlive the operation, not {self.before}")
        self.operate = self.prepare()
        for _ in range(3):
            self.operate()
        gc.collect()
        self.made = counts()
        self.unraisable.clear()

    def _note(self, what: Any) -> None:
        self.unraisable.append((what.exc_value, what.object, what.err_msg, what.exc_traceback))  # may be interrupted

    def check(self, where: str) -> str:
        """After an interruption: the same operation works, and nothing is left over. Returns what is wrong."""
        end = time.monotonic() + TRANSIENT_S
        while (error := self._attempt()) is not None:
            if isinstance(error, ClosedError):
                del error  # it refers to objects
                self.renew()
            elif not isinstance(error, BusyError) or time.monotonic() > end:
                return f"{where}: afterwards {type(error).__name__}: {error}"
            time.sleep(0.001)  # a thread of asyncio computes until its step ends
        if not settled(self.made):
            return f"{where}: {counts()} C objects and open files, not {self.made}"
        if handle._in_use():
            return f"{where}: a handle is still in use"
        if self.unraisable:
            error, what, message, trace = self.unraisable[0]
            return f"{where}: {error!r} in {what!r}: {message}\n{''.join(traceback.format_tb(trace))}"
        return ""

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
    return counts() == expected


def points(trial: Trial, kind: str, seed: int, budget: float) -> dict[str, Any]:
    """Interrupt the operation at each point, or at random ones for `budget` seconds."""
    with Points(kind) as counted:
        trial.operate()
    order = list(range(1, counted.count + 1))
    if budget:
        random.Random(seed).shuffle(order)
    end, tried, failures = time.monotonic() + (budget or 1e9), 0, []
    before = blocks()
    for n in order:
        if time.monotonic() > end:
            break
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        if VERBOSE:
            print(kind, n, file=sys.stderr, flush=True)
        with Points(kind, n) as at:
            try:
                trial.operate()
            except Interrupted:
                pass
            except Exception:  # what the facade made of it
                if not at.where:
                    raise
        tried += 1
        if failure := trial.check(f"{kind} {n}, {at.where}"):
            failures.append(failure)
            print(failure, file=sys.stderr, flush=True)  # in case that the next line ends this process
            trial.renew()
            if len(failures) > 5:
                break
    grown = blocks() - before
    if grown > _BLOCKS_A_POINT * tried + 2000:
        failures.append(f"{grown} memory blocks more after {tried} points")
    return {"points": counted.count, "tried": tried, "failures": failures}


def signals(trial: Trial, seconds: float) -> dict[str, Any]:
    """Interrupt the operation by real signals."""
    end, tried, failures, timer = time.monotonic() + seconds, 0, [], Signals()
    while time.monotonic() < end:
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        try:
            try:
                timer.arm()
                while time.monotonic() < end:
                    trial.operate()
                timer.left = 0
            except (Interrupted, Exception):
                timer.left = 0
        except Interrupted:  # the second, right here: none is left
            pass
        timer.disarm()
        tried += 1
        if failure := trial.check("signal"):
            failures.append(failure)
            print(failure, file=sys.stderr, flush=True)  # in case that the next line ends this process
            trial.renew()
        if len(failures) > 5:
            break
    return {"points": tried, "tried": tried, "failures": failures}


def blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("operation")
    parser.add_argument("kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=0)
    options = parser.parse_args()
    logging.getLogger("llama_cffi").disabled = True
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    trial = Trial(operations(options.folder)[options.operation])
    if options.kind == "signal":
        result = signals(trial, options.budget or 5)
    else:
        result = points(trial, options.kind, options.seed, options.budget)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
