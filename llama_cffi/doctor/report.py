"""The doctor's report: checks marked ok, warn or fail, as text or as one JSON document."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"
_WIDTH = 110
_INDENT = 8


class Check(NamedTuple):
    """The result of one check; `advice` says what to do, one line per step."""

    mark: str
    text: str
    advice: tuple[str, ...] = ()

    def lines(self) -> str:
        """The result as text, with its mark in front."""
        out = [_wrapped(self.text, f"  {self.mark:{_INDENT - 2}}")]
        out += [_wrapped(f"-> {line}", " " * _INDENT, "   ") for line in self.advice]
        return "\n".join(out)


class Section(NamedTuple):
    """The checks of one subject, and the facts behind them for the JSON document."""

    title: str
    checks: list[Check]
    facts: dict[str, Any]

    def lines(self) -> str:
        return "\n".join([self.title, *(check.lines() for check in self.checks)])


def failed(sections: list[Section]) -> bool:
    """Return whether a check failed. Warnings do not count."""
    return any(check.mark == FAIL for section in sections for check in section.checks)


def summary(sections: list[Section]) -> str:
    """The last line of the report."""
    marks = [check.mark for section in sections for check in section.checks]
    if FAIL in marks:
        return f"{marks.count(FAIL)} failed, {_warnings(marks)}: see the lines that begin with ->"
    if WARN in marks:
        return f"Nothing failed, {_warnings(marks)}: see the lines that begin with ->"
    return "All checks passed."


def _warnings(marks: list[str]) -> str:
    count = marks.count(WARN)
    return f"{count} warning" if count == 1 else f"{count} warnings"


def document(sections: list[Section]) -> dict[str, Any]:
    """The report as a JSON object."""
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
