"""How many tokens to guess, and what a prompt lookup guesses. No model is needed."""

from __future__ import annotations

import pytest

from llama_cffi.generation.pace import Pace

pytestmark = pytest.mark.filterwarnings("error")


def _seen(pace: Pace, cost: float, sizes: tuple[int, ...] = (1, 4, 9, 17), times: int = 20) -> Pace:
    """After decodes where each further token costs `cost` of the first."""
    for _ in range(times):
        for size in sizes:
            pace.took(size, 0.01 * (1 + cost * (size - 1)))
    return pace


def _judged(pace: Pace, rate: float, times: int = 40) -> Pace:
    """After guesses of which this part was right, one by one."""
    due = 0.0
    for _ in range(times):
        due += rate
        right = int(due >= 1)
        due -= right
        pace.judged(0, right, 1 - right)
    return pace


def test_nothing_is_guessed_before_a_single_token_was_timed() -> None:
    pace = Pace((0.9,))
    assert pace.choose(8, 0) == 0
    pace.took(1, 0.01)
    assert pace.choose(8, 0) > 0


@pytest.mark.parametrize(
    ("cost", "rate", "low", "high"),
    [(0.0, 0.9, 16, 16), (0.05, 0.95, 8, 16), (0.1, 0.8, 4, 9), (0.5, 0.9, 1, 6), (0.9, 0.5, 0, 0), (0.3, 0.1, 0, 0)],
)
def test_the_number_follows_cost_and_rate(cost: float, rate: float, low: int, high: int) -> None:
    assert low <= _judged(_seen(Pace((0.5,)), cost), rate).choose(16, 0) <= high


def test_guesses_that_take_long_are_fewer() -> None:
    quick, slow = (_judged(_seen(Pace((0.8,)), 0.1), 0.8) for _ in range(2))
    for _ in range(20):
        slow.guessing_took(4, 4 * 0.005)
    assert 0 < slow.choose(16, 0) < quick.choose(16, 0)
    for _ in range(20):
        slow.guessing_took(4, 4 * 0.05)
    assert slow.choose(16, 0) == 0


def test_what_was_given_up_is_tried_again_some_day() -> None:
    pace = _judged(_seen(Pace((0.5,)), 0.2), 0.0)
    skipped = 0
    while not pace.choose(8, 0):
        pace.skipped(0)
        skipped += 1
        assert skipped < 2000
    assert skipped > 30


def test_one_slow_decode_is_forgotten() -> None:
    pace = _judged(_seen(Pace((0.8,)), 0.05), 0.9)
    chosen = pace.choose(8, 0)
    for size in range(2, 10):
        pace.took(size, 10.0)
    for _ in range(3000):
        if pace.choose(8, 0):
            break
        pace.skipped(0)
        pace.took(1, 0.01)
    assert pace.choose(8, 0) > 0
    assert chosen > 4


def test_a_machine_that_becomes_slower_changes_nothing() -> None:
    pace = _judged(_seen(Pace((0.8,)), 0.1), 0.8)
    before = pace.choose(16, 0)
    for _ in range(60):
        for size in (1, 4, 9, 17):
            pace.took(size, 0.05 * (1 + 0.1 * (size - 1)))
    assert abs(pace.choose(16, 0) - before) <= 1


def test_without_adapting_it_is_always_the_most() -> None:
    pace = _judged(Pace((0.5,), adapts=False), 0.0)
    assert pace.choose(8, 0) == 8
    assert pace.choose(0, 0) == pace.choose(-3, 0) == 0
