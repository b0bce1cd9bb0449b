"""Eighty cycles of each class leave nothing behind; `make leaks` does 10,000 and looks at resident memory too."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cffi import Sampler, logGet, logSet
from tests.leaks.__main__ import measure
from tests.leaks.measure import Memory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def discarded_log() -> Iterator[None]:
    """The logger makes records of the warnings, and drops them. pytest's log capture would keep each one.

    (A filter, because pytest adds its handler to loggers that do not propagate as well.)
    """
    logger, before = logging.getLogger("llama_cffi"), logGet()

    def drop(record: logging.LogRecord) -> bool:
        return False

    logSet(logger)
    logger.addFilter(drop)
    yield
    logger.removeFilter(drop)
    logSet(*before)


def test_cycles_of_every_class_leave_nothing() -> None:
    """In a process of its own: pytest's log capture would keep each warning, and its objects slow the collector."""
    command = [sys.executable, "-m", "tests.leaks", "--cycles", "80", "--repeats", "4"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    found = re.search(r"^classes: ([0-9]+), leaks: ([0-9]+)", ran.stdout, re.MULTILINE)
    assert found is not None, ran.stderr[-2000:]
    assert (found[2], ran.returncode) == ("0", 0), ran.stdout
    assert int(found[1]) > 60
    assert "leaks, as documented" in ran.stdout


@pytest.mark.parametrize("size", [0, 40])
def test_a_leak_is_found(size: int) -> None:
    """An object of Python, or 40 bytes of C, in each cycle."""
    kept: list[object] = []
    _, leaked = measure(lambda: kept.append(bytearray(size) if size else object()), 80, 1)
    assert leaked
    _, leaked = measure(lambda: bytearray(size), 80, 1)
    assert not leaked


def test_threads_that_end_leave_no_lines_of_the_log(discarded_log: None) -> None:
    """Each thread has its own lines, for exceptions. The threads live at the same time, so that none reuses a name."""
    threads, prints = 32, 100

    def log_a_lot() -> None:
        with Sampler.chainInit() as chain:
            for _ in range(prints):
                chain.perfSamplerPrint()
        barrier.wait()

    def cycle() -> None:
        started = [threading.Thread(target=log_a_lot) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    barrier = threading.Barrier(threads)
    cycle()  # malloc keeps arenas for as many threads
    before = Memory.now()
    cycle()
    assert (Memory.now() - before).heap < threads * prints * 32  # a line is at least that long
