"""OpenMP's threads: how long they spin before they sleep, and another OpenMP runtime in the process.

The CPU backend computes on the threads of GCC's OpenMP runtime, libgomp. A thread that waits for the others spins, by
default for several milliseconds, and so takes CPUs from everybody who needs them. libgomp reads from its environment
how long, when it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# A tenth of libgomp's default.
_SPIN_COUNT = "30000"
# If a process has more OpenMP threads than CPUs, libgomp spins 100 times only, and 1000 times with this policy. 100 is
# too short for the barriers of a computation. Each Python thread that computes has OpenMP threads of its own, and these
# count even while they sleep.
_POLICY = "active"
_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # variables by which a user decides

_LIB = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib")


def spin_environment() -> dict[str, str]:
    """The environment variables with which libgomp is to be loaded. Empty if the user has made a choice."""
    if any(name in os.environ for name in _CHOICES):
        return {}
    return {"GOMP_SPINCOUNT": _SPIN_COUNT, "OMP_WAIT_POLICY": _POLICY}


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def foreign_runtime(path: str) -> str | None:
    """Return a warning if `path`, the libgomp in use, was loaded by somebody else, with other settings; else None."""
    ours = os.path.join(_LIB, "libgomp.so.1")
    if not path or any(name in os.environ for name in _CHOICES) or not os.path.isfile(ours):
        return None
    if os.path.realpath(path) == ours:
        return None
    return (
        f"another package loaded OpenMP before llama_cffi ({path}): its threads spin for long while they wait, which "
        "slows everything down on a busy machine. Run `from llama_cffi import Model` before the other import, or set "
        f"the environment variable GOMP_SPINCOUNT={_SPIN_COUNT} before Python starts"
    )
