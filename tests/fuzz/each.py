"""`python -m tests.fuzz.each FOLDER`: how often each call of the fuzzer succeeds where its values are valid.

A call that always fails tests little more than its first check. The steps of each public name are tried on new
objects, until one has succeeded or they were tried often; and so is each step of each scenario. What happened is
printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from random import Random

from tests.fuzz import calls
from tests.fuzz.machine import Facade
from tests.fuzz.report import Report

_TRIES = 96
_RENEW = 6  # tries with the same objects
_ROUNDS = 120  # of a scenario: luck decides about most steps, and few rounds do for nearly all
AFTER_CLOSE = "{llm@}.complete({word!}, maxTokens=2)"  # its scenario has closed what it uses


class Careful(Facade):
    """Without values that nobody should pass, except where a step is about them."""

    absurdly = 0.0


def machine(rng: Random) -> Careful:
    """A new one, with a context."""
    made = Careful()
    made.start(rng)
    return made


def try_group(steps_by_name: dict[str, list[str]], rng: Random) -> None:
    """Try the steps of each name of a group."""
    found = machine(rng)
    for name, steps in steps_by_name.items():
        for attempt in range(_TRIES):
            if attempt % _RENEW == _RENEW - 1:
                found.teardown()
                found = machine(rng)
            if found.step(steps[attempt % len(steps)], name, rng):
                break
    found.teardown()


def try_scenario(rows: list[calls.Row], rng: Random) -> list[str]:
    """The steps of a scenario that never succeeded. A race may fail by right: who frees first, wins."""
    left = dict.fromkeys(index for index, (name, _) in enumerate(rows) if name != "together")
    for _ in range(_ROUNDS):
        found = machine(rng)
        for index, (name, step) in enumerate(rows):
            if found.step(step, name, rng):
                left.pop(index, None)
        found.teardown()
        if all(rows[index][1] == AFTER_CLOSE for index in left):
            break
    return [rows[index][1] for index in left]


def main(folder: Path, seed: int = 0) -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed must not come between
    rng = Random(seed)
    Facade.report = report = Report(os.open(folder / "journal.py", os.O_RDWR | os.O_CREAT, 0o644))
    for steps in calls.GROUPS.values():
        try_group(steps, rng)
    stuck = [step for rows in calls.SCENARIOS.values() for step in try_scenario(rows, rng)]
    state = report.take()
    state |= {"never": sorted(calls.NAMES - state["succeeded"].keys()), "stuck": stuck}
    os.write(out, (json.dumps(state) + "\n").encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
