"""What a case of misuse is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.safety import isolated

Kind = Literal["check", "ownership", "guard"]

CHECK: Kind = "check"
"""Refused before the call, because llama.cpp would not survive it, or compute nonsense."""
OWNERSHIP: Kind = "ownership"
"""About who frees what, when, and which thread is in it."""
GUARD: Kind = "guard"
"""An assertion or a C++ exception of llama.cpp, caught on its way out."""


@dataclass(frozen=True)
class Case:
    """One misuse, in an interpreter of its own; see `child.misuse`."""

    name: str
    kind: Kind
    function: str
    """The C function that it is about."""
    code: str
    """The snippet, which has the names of `child.py` at hand."""
    error: str = ""
    """The class of the exception that it must end in; empty where it must succeed, as documented."""
    words: str = ""
    """Words of that exception's message: the limit, the value, or what to do."""
    alone: bool = False
    """Whether nothing may be loaded before it."""

    def run(self, folder: Path) -> isolated.Ended:
        code = f"misuse({self.code!r}, {self.error!r}, {self.words!r}, {self.alone})"
        return isolated.run(code, folder)
