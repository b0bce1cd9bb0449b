"""Run a snippet of Python in an interpreter of its own, and say how that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.busy import patience

ROOT = Path(__file__).resolve().parents[2]
_BEGINNING = "from tests.safety.child import *\n"


@dataclass(frozen=True)
class Ended:
    """How an interpreter ended, and what it wrote."""

    how: str
    """`passed`; or what became of it: `exception`, `exit status 3`, `SIGSEGV`, `timeout after 60 s`, `output`."""
    text: str
    """What it wrote. Nothing, where it passed."""

    @property
    def passed(self) -> bool:
        return self.how == "passed"

    @property
    def killed(self) -> bool:
        """Whether something other than Python ended it, or nothing did."""
        return self.how not in ("passed", "exception", "output")

    def __str__(self) -> str:
        return f"{self.how}\n{self.text}".rstrip()


def run(code: str, *arguments: str | Path, timeout: float = 60, says: str = "") -> Ended:
    """Run a snippet, which has everything of `child.py` at hand. It passes by ending quietly: no word, status 0.

    `arguments` are its `sys.argv[1:]`; the first is the folder of models that `load` takes them from. `says` is how
    what llama.cpp itself prints begins.
    """
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", _BEGINNING + code, *map(os.fspath, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=patience(timeout))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the children that it may have forked
        text, _ = process.communicate()
        return Ended(f"timeout after {timeout:g} s", text)
    if says and text.startswith(says) and process.returncode == 0:
        return Ended("passed", "")
    return Ended(_ending(process.returncode, text), text)


def run_with_mounts(code: str, *arguments: str | Path) -> None:
    """Run a snippet that may mount file systems, which are gone when it ends. It must succeed. Needs root."""
    ended = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", _BEGINNING + code, *map(os.fspath, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr


def _ending(status: int, text: str) -> str:
    if status < 0:
        return signal.Signals(-status).name
    if status == 1 and "Traceback (most recent call last):" in text:
        return "exception"
    if status:
        return f"exit status {status}"
    return "output" if text else "passed"
