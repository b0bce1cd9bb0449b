"""One process that runs examples until it has made its steps, or dies: `python -m tests.fuzz.worker`.

It says on its standard output what happened, a line of JSON an example, and keeps the journal of the example it is at.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
from pathlib import Path

EXAMPLE = 50  # steps
_CHUNK = 10  # examples a call of hypothesis
_MEMORY = 8 << 30


def main(folder: Path, seed: int, steps: int, *only: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    out = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed must not come between

    from hypothesis import HealthCheck, Phase, Verbosity, seed as seeded, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.fuzz.machine import Facade
    from tests.fuzz.report import Report

    report = Facade.report = Report(os.open(folder / "journal.py", os.O_RDWR | os.O_CREAT, 0o644))

    Facade.only = only

    class Reporting(Facade):
        def teardown(self) -> None:
            super().teardown()
            os.write(out, (json.dumps(report.take()) + "\n").encode())

    chosen = settings(
        max_examples=_CHUNK,
        stateful_step_count=EXAMPLE,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    while report.total < steps:
        run_state_machine_as_test(seeded(seed)(Reporting), settings=chosen)
        seed += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
