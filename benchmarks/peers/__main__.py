"""Installs the peers and prints how to start each, and why others are left out: `python -m benchmarks.peers`."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

from benchmarks import peers


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        for one in peers.contestants(Path(folder)):
            words = [f"{key}={value}" for key, value in one.env.items()] + one.command
            print(f"{one.name} {one.version} ({one.note}):\n  {shlex.join(words)}")
    for name, why in peers.reasons.items():
        print(f"{name} is left out: {why}")


if __name__ == "__main__":
    main()
