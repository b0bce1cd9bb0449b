"""Child processes for what may crash: drivers, files of strangers. A child reads its request as JSON from its input and
answers in JSON; how it ended otherwise is told in words.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ChildError(Exception):
    """A child gave no answer. `how` ends the sentence "the child ..."; `log` is what it wrote to its error output."""

    def __init__(self, how: str, log: str = "") -> None:
        self.how = how
        self.log = log
        super().__init__(f"a child process {how}")


def can_ask() -> bool:
    """Whether `sys.executable` is a Python to start: not inside a frozen or an embedding program."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def ask(program: Path, request: Mapping[str, Any], seconds: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a program of ours in a Python of its own, and return its answer. Raises ChildError.

    The request is given our `sys.path` as `path`, for the child itself starts with -I: it takes its modules from where
    this process has them, and from nowhere else. `environment` is added to the one of this process.
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
