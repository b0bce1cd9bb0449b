"""Which requests are in the next batch, if they have different LoRA adapters."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from llama_cffi.engine.priority import MAX_OVERTAKEN
from llama_cffi.engine.turns import Turns


def job(key: int = 0, priority: int = 0) -> Any:
    adapters = SimpleNamespace(key=((key, 1.0),) if key else ())
    return SimpleNamespace(adapters=adapters, request=SimpleNamespace(priority=priority))


def test_one_group_runs_whole() -> None:
    jobs = [job(1), job(1)]
    assert Turns().choose(jobs) is jobs
    assert Turns().choose([]) == []


def test_a_batch_holds_one_group_in_order() -> None:
    jobs, turns = [job(k % 3) for k in range(9)], Turns()
    for _ in range(40):
        chosen = turns.choose(jobs)
        assert chosen in [jobs[k::3] for k in range(3)]


def test_groups_of_a_priority_get_as_many_steps() -> None:
    jobs, turns = [job(0), job(0), job(1), job(2), job(2), job(2)], Turns()
    counts = Counter(turns.choose(jobs)[0].adapters.key for _ in range(120))
    assert list(counts.values()) == [40, 40, 40]


def test_a_turn_lasts_a_few_steps() -> None:
    jobs, turns = [job(0), job(1)], Turns()
    chosen = [turns.choose(jobs)[0] for _ in range(48)]
    assert sum(a is not b for a, b in zip(chosen, chosen[1:], strict=False)) == 48 // 4 - 1


def test_a_higher_priority_comes_first_and_others_do_not_starve() -> None:
    low, high, turns = job(1), job(2, 5), Turns()
    chosen = [turns.choose([low, high])[0] for _ in range(400)]
    assert chosen[:MAX_OVERTAKEN] == [high] * MAX_OVERTAKEN
    waits = [len(part) for part in "".join("l" if one is low else " " for one in chosen).split("l") if part]
    assert low in chosen and max(waits) <= MAX_OVERTAKEN + 4
    assert chosen.count(high) > 300


def test_a_group_that_ends_in_its_turn() -> None:
    one, other, turns = job(1), job(2), Turns()
    first = turns.choose([one, other])[0]
    rest = other if first is one else one
    assert turns.choose([rest]) == [rest]
    assert turns.choose([rest, job(3)])
