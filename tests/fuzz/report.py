"""The journal of the example that runs, and what happened so far."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from typing import Any

from tests.fuzz.oracle import Boom, fingerprint, is_fine, places, reached_native


class Report:
    """What happened so far in this process."""

    def __init__(self, journal: int) -> None:
        self.journal = journal
        self.total = self.steps = 0
        self.raised: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        self.succeeded: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        self.native: dict[str, str] = {}

    def begin(self) -> None:
        """A new example, and a new journal."""
        os.lseek(self.journal, 0, os.SEEK_SET)
        os.ftruncate(self.journal, 0)

    def write(self, line: str) -> None:
        os.write(self.journal, f"{line}\n".encode("utf-8", "backslashreplace"))

    def lines(self) -> str:
        size = os.fstat(self.journal).st_size
        return os.pread(self.journal, size, 0).decode()

    def take(self) -> dict[str, Any]:
        """What happened in the example that ends here."""
        self.total += self.steps
        state: dict[str, Any] = {"steps": self.steps}
        self.steps = 0
        for name in ("raised", "tried", "succeeded", "findings", "native"):
            state[name] = dict(getattr(self, name))
            getattr(self, name).clear()
        return state

    def judge(self, error: BaseException) -> None:
        """Count an exception; keep the journal of one that should not be."""
        self.raised[type(error).__name__] += 1
        if is_fine(error):
            return
        found = self.native if reached_native(error) else self.findings
        if fingerprint(error) not in found:
            text = "".join(traceback.format_exception(error)).replace("\n", "\n# ")
            found[fingerprint(error)] = f"{self.lines()}# {text}\n"

    def unraisable(self, hook: Any) -> None:
        """An exception that Python could only print. Callbacks of the steps may cause some, the package none."""
        error = hook.exc_value
        if error is None or isinstance(error, Boom) or "<step>" in str(traceback.extract_tb(error.__traceback__)):
            return
        if "log.py" in str(places(error)[-1:]):  # what a target of the log raises is documented to end here
            return
        self.findings.setdefault(f"unraisable {fingerprint(error)}", f"{self.lines()}# {hook.err_msg} {error!r}\n")
