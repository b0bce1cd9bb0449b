"""How long to wait for a process that may hang, on a machine that others use too."""

from __future__ import annotations

import os


def patience(seconds: float) -> float:
    """Return how long something may take that takes up to `seconds` with a CPU to itself."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
