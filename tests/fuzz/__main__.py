"""`python -m tests.fuzz --steps 50000 --seed 0`: calls the whole facade in random order and reports what is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.calls import GROUPS, SCENARIOS
from tests.fuzz.supervisor import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the journals of findings")
    parser.add_argument("--only", default="", help="most steps of these groups and scenarios: media,training")
    options = parser.parse_args()
    only = tuple(filter(None, options.only.split(",")))
    if unknown := [name for name in only if name not in GROUPS and name not in SCENARIOS]:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(dict.fromkeys([*GROUPS, *SCENARIOS]))}")
    with tempfile.TemporaryDirectory() as folder:
        supervisor = Supervisor(Path(folder), options.keep, only)
        supervisor.run(options.steps, options.seed, options.workers, progress=True)
    print(supervisor.summary())
    return 0 if supervisor.clean else 1


if __name__ == "__main__":
    sys.exit(main())
