"""Child processes for code that may crash, such as drivers and the load of untrusted files.

A child reads a request as JSON from stdin and writes its answer as JSON to stdout.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ChildError(Exception):
    """A child did not answer. `how` completes "the child ...", `log` is its stderr."""

    def __init__(self, how: str, log: str = "") -> None:
        self.how = how
        self.log = log
        super().__init__(f"a child process {how}")


def can_ask() -> bool:
    """Return True if `sys.executable` is a Python interpreter: it is not in frozen and embedding programs."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def ask(program: Path, request: Mapping[str, Any], seconds: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a program of this package in a new Python interpreter and return its answer. Raises ChildError.

    The child starts with -I and gets our `sys.path` in the request, as `path`: it imports modules from the same places
    as this process, and from nowhere else. `environment` is added to that of this process.
    """
    with subprocess.Popen(
        [sys.executable, "-I", str(program)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            out, err = child.communicate(json.dumps({"path": sys.path, **request}).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            raise ChildError(f"did not end within {seconds:.0f} seconds") from None
        except BaseException:
            child.kill()
            raise
    log = err.decode(errors="replace")
    if child.returncode < 0:
        raise ChildError(f"ended by {_signal_name(-child.returncode)}", log)
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        raise ChildError(f"ended with exit code {child.returncode} and without a result", log) from None
    return answer


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
