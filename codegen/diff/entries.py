"""Groups findings into entries for a report: one per enumeration or struct instead of one per member."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codegen.diff.impact import Finding

# Members of a group that are listed; more are abbreviated.
_SHOWN = 4


@dataclass(frozen=True)
class Entry:
    """One line of a report: the facade's names, then `text` (may be empty) and the reason `why`."""

    breaks: str
    kind: str
    header: str
    text: str
    why: str
    facade: tuple[str, ...] = ()
    hint: str = ""


def entries(findings: Iterable[Finding]) -> list[Entry]:
    """Return one entry per group, in the order of the findings."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        groups.setdefault(_group(finding), []).append(finding)
    return [_entry(group) for group in groups.values()]


def _group(finding: Finding) -> tuple[str, ...]:
    change = finding.change
    key = finding.breaks, change.kind, change.header
    if change.kind == "enum value":
        return *key, change.owner, change.detail
    if change.kind == "struct layout":
        return *key, _struct(finding)
    if change.kind == "added" and change.what == "function":
        return *key, change.what, "shown" if finding.facade else ""
    return *key, change.what, change.name


def _struct(finding: Finding) -> str:
    change = finding.change
    return change.name.partition(".")[0] if change.what == "field" else change.name.rpartition(" ")[2]


def _entry(group: Sequence[Finding]) -> Entry:
    first = group[0]
    change = first.change
    whys = list(dict.fromkeys(finding.why for finding in group))
    parts = {
        "enum value": lambda: _enum(group),
        "struct layout": lambda: f"{_struct(first)}: " + "; ".join(map(_layout, group)),
        "added": lambda: _added(group),
    }
    text = parts[change.kind]() if change.kind in parts else _single(first)
    names = tuple(dict.fromkeys(name for finding in group for name in finding.facade))
    if change.kind == "enum value" and len(names) > _SHOWN:
        names = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return Entry(first.breaks, change.kind, change.header, text, "; ".join(whys), names, change.hint)


def _enum(group: Sequence[Finding]) -> str:
    detail, owner = group[0].change.detail, group[0].change.owner
    if detail in ("added", "removed"):
        return f"{owner}: {', '.join(_numbered(finding) for finding in group)} {detail}"
    pairs = [f"{finding.change.name} {finding.change.old} -> {finding.change.new}" for finding in group]
    pairs = [f"perhaps {f.change.name} -> {f.change.new}" for f in group] if detail == "renamed" else pairs
    if len(pairs) > _SHOWN:
        pairs = [*pairs[: _SHOWN - 1], "...", pairs[-1]]
        return f"{owner}: {len(group)} {detail} ({', '.join(pairs)})"
    return f"{owner}: {detail} {', '.join(pairs)}"


def _numbered(finding: Finding) -> str:
    change = finding.change
    return f"{change.name} = {change.new or change.old}"


def _layout(finding: Finding) -> str:
    change = finding.change
    match change.detail:
        case "size":
            return f"size {change.old} -> {change.new}"
        case "fields moved" | "fields reordered":
            pairs = change.old.split(" ")
            return f"{len(pairs) // 2} {change.detail}"
        case "field added":
            return f"+ {change.new}"
        case "field removed":
            return f"- {change.old}"
        case "field renamed":
            return f"perhaps renamed: {change.old} -> {change.new}"
        case "field type changed":
            return f"{change.old} -> {change.new}"
        case _:
            return change.detail


def _added(group: Sequence[Finding]) -> str:
    change = group[0].change
    if change.what == "function":  # the entry begins with the facade's names, if there are any
        return "" if group[0].facade else ", ".join(finding.change.name for finding in group)
    return f"{change.name} {change.new}" if change.what == "enum" else f"{change.name}: {change.new}"


def _single(finding: Finding) -> str:
    change = finding.change
    match change.kind:
        case "renamed":
            new = change.detail or change.new
            return f"{change.name} -> {new}" if change.sure else f"perhaps {change.name} -> {new}"
        case "signature" | "parameter names":
            return f"{change.name}: {change.detail}"
        case "deprecated":
            return f"{change.name}{f' ({change.detail})' if change.detail else ''}"
        case "removed":
            return change.name
        case "header":
            return f"{change.name}: from {change.old} to {change.new}"
        case _:
            return f"{change.name}: {change.old} -> {change.new}"
