"""Formats a comparison as text, Markdown, JSON, or an entry for a changelog."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from codegen.diff.change import KINDS
from codegen.diff.entries import Entry, entries
from codegen.diff.impact import BREAKS, Finding

_TITLES = {
    "facade": "Breaks code that uses the facade",
    "raw": "Breaks only code that uses lib or ffi",
    "no": "Breaks nothing",
}

_SECTIONS = ("Breaking", "Added", "Changed", "Deprecated", "Removed")


@dataclass(frozen=True)
class Report:
    """The findings between two versions, given by their labels. `note` says why defaults were not compared."""

    old: str
    new: str
    findings: tuple[Finding, ...]
    note: str = ""


def kinds(findings: Iterable[Finding]) -> dict[str, int]:
    """Return the number of changes of each kind that occurs."""
    counted = Counter(finding.change.kind for finding in findings)
    return {kind: counted[kind] for kind in KINDS if counted[kind]}


def _breaks(findings: Iterable[Finding]) -> dict[str, int]:
    counted = Counter(finding.breaks for finding in findings)
    return {breaks: counted[breaks] for breaks in BREAKS}


def _summary(report: Report) -> str:
    if not report.findings:
        return "no differences"
    counted = _breaks(report.findings)
    text = f"{len(report.findings)} change{'s' * (len(report.findings) > 1)}"
    return f"{text}: {counted['facade']} break the facade, {counted['raw']} only raw code, {counted['no']} nothing"


def _grouped(report: Report) -> Iterable[tuple[str, dict[str, list[Entry]]]]:
    """Yield the entries by the code that they break and then by header, the most serious first."""
    found = entries(report.findings)
    for breaks in BREAKS:
        headers: dict[str, list[Entry]] = {}
        for entry in found:
            if entry.breaks == breaks:
                headers.setdefault(entry.header, []).append(entry)
        if headers:
            yield breaks, headers


def text(report: Report) -> str:
    """Format a report for a terminal."""
    lines = [f"{report.old} -> {report.new}", _summary(report)]
    for breaks, headers in _grouped(report):
        lines += ["", _TITLES[breaks]]
        for header, found in headers.items():
            lines.append(f"  {header}")
            for entry in found:
                words = [entry.text, f"[{', '.join(entry.facade)}]" if entry.facade else ""]
                lines.append(f"    {entry.kind}: {' '.join(filter(None, words))}{_reason(entry)}")
    return "\n".join([*lines, *(["", report.note] if report.note else [])]) + "\n"


def _reason(entry: Entry) -> str:
    """Return the reason and the header's hint, unless the kind of the change says it all."""
    told = entry.kind == "signature" and entry.text.partition(": ")[2] in entry.why
    why = entry.why.rpartition(": ")[0] if told else entry.why
    parts = [why if entry.breaks != "no" or told else "", f'"{entry.hint}"' if entry.hint else ""]
    said = "; ".join(filter(None, parts))
    return f" - {said}" if said else ""


def markdown(report: Report, level: int = 2) -> str:
    """Format a report as Markdown. `level` is the level of its heading."""
    lines = [f"{'#' * level} {report.old} to {report.new}", "", f"{_summary(report).capitalize()}.", ""]
    for breaks, headers in _grouped(report):
        lines += [f"{'#' * (level + 1)} {_TITLES[breaks]}", ""]
        for header, found in headers.items():
            lines.append(f"- `{header}`")
            lines += [f"  - **{entry.kind}** {_named(entry)}{_plain(_reason(entry))}" for entry in found]
        lines.append("")
    return "\n".join([*lines, *([report.note, ""] if report.note else [])])


def _named(entry: Entry) -> str:
    """Return the facade's names, then the C name."""
    if not entry.facade:
        return f"`{entry.text}`"
    return ", ".join(f"`{name}`" for name in entry.facade) + (f" (`{entry.text}`)" if entry.text else "")


def _plain(words: str) -> str:
    """Escape a header's text for Markdown."""
    return re.sub(r"([\[\]<>*|])", r"\\\1", words)


def to_json(report: Report) -> str:
    """Format a report as JSON, with every change on its own."""
    changes = [
        {**asdict(finding.change), "facade": list(finding.facade), "breaks": finding.breaks, "why": finding.why}
        for finding in report.findings
    ]
    data = {
        "old": report.old,
        "new": report.new,
        "kinds": kinds(report.findings),
        "breaks": _breaks(report.findings),
        "defaults_compared": not report.note,
        "changes": changes,
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def changelog(report: Report) -> str:
    """Format a report as an entry for a changelog."""
    sections: dict[str, list[Entry]] = {name: [] for name in _SECTIONS}
    for entry in entries(report.findings):
        sections[_section(entry)].append(entry)
    lines = [_heading(report), ""]
    for name, found in sections.items():
        if found:
            lines += [f"### {name}", "", *(f"- {_told(entry)}" for entry in found), ""]
    if not report.findings:
        lines += ["The API has not changed.", ""]
    return "\n".join(lines)


_LABEL = re.compile(r"llama\.cpp (?:([0-9a-f]{8})[0-9a-f]*|(b\d+)) \((\S+) (\S+)\)")


def _heading(report: Report) -> str:
    old, new = _LABEL.fullmatch(report.old), _LABEL.fullmatch(report.new)
    if old is None or new is None:
        return f"## {report.old} -> {report.new}"
    package = f"{new[3]} " if new[3] != old[3] else ""  # told twice only if it has changed
    return f"## llama.cpp {old[1] or old[2]} -> {new[1] or new[2]} ({old[3]} {old[4]} -> {package}{new[4]})"


def _section(entry: Entry) -> str:
    if entry.breaks == "facade":
        return "Breaking"
    if entry.kind == "deprecated":
        return "Deprecated"
    if entry.kind == "removed":
        return "Removed"
    added = entry.kind == "added" or (entry.breaks == "no" and entry.kind in ("struct layout", "enum value"))
    return "Added" if added and entry.why == "new" else "Changed"


def _told(entry: Entry) -> str:
    said = _plain(_reason(entry))
    if entry.kind == "default":
        name, _, values = entry.text.partition(": ")
        old, _, new = values.partition(" -> ")
        subject = f"`{entry.facade[0]}`" if entry.facade else f"`{name}`"
        return f"{subject}: the default has changed from `{old}` to `{new}`"
    if entry.kind == "added" and not entry.facade:
        return f"`lib`: `{entry.text}` ({entry.header})"
    return f"{_named(entry)}{said}" if entry.facade else f"`lib`: `{entry.text}` ({entry.header}){said}"
