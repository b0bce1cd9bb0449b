"""`python -m tests.fuzz --steps 50000 --seed 0`: calls the whole facade in random order and reports what is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.supervisor import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the journals of findings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        supervisor = Supervisor(Path(folder), options.keep)
        supervisor.run(options.steps, options.seed, options.workers, progress=True)
    print(supervisor.summary())
    return 0 if supervisor.clean else 1


if __name__ == "__main__":
    sys.exit(main())
