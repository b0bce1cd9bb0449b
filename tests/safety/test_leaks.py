"""Two hundred cycles of each class leave nothing behind; `make leaks` does 10,000 and looks at resident memory too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cffi import Sampler, logGet, logSet
from tests.fuzz.models import write_all
from tests.leaks.cycles import KNOWN, cycles
from tests.leaks.measure import Memory, growth

_CYCLES = 200
_REPEATS = 4  # a cache fills up (lines of the log that errors quote); a leak goes on


def _leaks(grown: Memory) -> bool:
    """Half an object or 32 bytes a cycle: what leaks leaves one or more in each."""
    return grown.blocks > _CYCLES // 2 or grown.heap > 32 * _CYCLES


@pytest.fixture
def discarded_log() -> Iterator[None]:
    """The logger makes records of the warnings, and drops them. pytest's log capture would keep each one: 200 a class.

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


def test_cycles_of_every_class_leave_nothing(tmp_path: Path, discarded_log: None) -> None:
    write_all(tmp_path)
    left, seen = {}, 0
    for name, cycle in cycles(tmp_path):
        grown = growth(cycle, _CYCLES, _CYCLES)
        seen += 1
        if name == KNOWN:
            assert 4000 <= grown.heap / _CYCLES < 4100, "a list of 1,000 numbers, as raise.h says"
            continue
        repeats = 0
        while _leaks(grown) and repeats < _REPEATS:
            grown = growth(cycle, 0, _CYCLES)
            repeats += 1
        if _leaks(grown):
            left[name] = f"{grown.blocks} objects of Python, {grown.heap} bytes of C in {_CYCLES} cycles"
    assert left == {}
    assert seen > 60


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
