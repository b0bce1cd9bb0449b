"""What the doctor says: checks with marks, printed as they come or as one JSON document."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"
_WIDTH = 110
_INDENT = 8


class Check(NamedTuple):
    """One finding. `advice` is what to do, a line each."""

    mark: str
    text: str
    advice: tuple[str, ...] = ()

    def lines(self) -> str:
        """The finding as text, with its mark in front."""
        out = [_wrapped(self.text, f"  {self.mark:{_INDENT - 2}}")]
        out += [_wrapped(f"-> {line}", " " * _INDENT, "   ") for line in self.advice]
        return "\n".join(out)


class Section(NamedTuple):
    """The checks of one subject, and what was found out, for programs."""

    title: str
    checks: list[Check]
    facts: dict[str, Any]

    def lines(self) -> str:
        return "\n".join([self.title, *(check.lines() for check in self.checks)])


def failed(sections: list[Section]) -> bool:
    """Whether something is broken. What is only missing is not."""
    return any(check.mark == FAIL for section in sections for check in section.checks)


def summary(sections: list[Section]) -> str:
    """The last line."""
    marks = [check.mark for section in sections for check in section.checks]
    if FAIL in marks:
        return f"{marks.count(FAIL)} failed, {marks.count(WARN)} to note: see the lines that begin with ->"
    if WARN in marks:
        return f"Nothing is broken; {marks.count(WARN)} to note: see the lines that begin with ->"
    return "All is well."


def document(sections: list[Section]) -> dict[str, Any]:
    """The same as an object for JSON."""
    return {
        "ok": not failed(sections),
        "summary": summary(sections),
        "checks": [{"section": s.title, **c._asdict()} for s in sections for c in s.checks],
        "facts": {section.title.lower(): section.facts for section in sections},
    }


def _wrapped(text: str, first: str, hanging: str = "") -> str:
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * _INDENT + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
