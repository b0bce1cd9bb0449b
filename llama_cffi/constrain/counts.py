"""Limits that llguidance cannot count: `minProperties` and `maxProperties`, and `uniqueItems` of an enumeration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from math import comb, perm
from typing import Any

from llama_cffi.constrain import keywords

_MOST_CHOICES = 100  # into which a keyword may be expanded


def limited(
    note: Callable[[str], None], narrow: Callable[[dict[str, Any]], None], node: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Apply `minProperties` and `maxProperties`. Names that come twice must not count twice."""
    low = keywords.count(node, "minProperties") or 0
    high = keywords.count(node, "maxProperties")
    known, required = own.get("properties", {}), own.get("required", [])
    needed = frozenset(required)
    optional = [name for name, part in known.items() if part is not False and name not in needed]
    listed = needed.issuperset(known)  # llguidance counts the others, but not optional names
    closed = own.get("additionalProperties") is False and not own.get("patternProperties")
    missing = max(low - len(required), 0)
    room = None if high is None else high - len(required)  # for optional and other names
    if (room is not None and room < 0) or (closed and missing > len(optional)):
        return own | {"minProperties": 1, "maxProperties": 0}
    choices: list[list[Any]] = []
    if missing and optional and (closed or missing == 1) and comb(len(optional), missing) <= _MOST_CHOICES:
        # Where other names are allowed, one of them alone is refused: that cannot be said.
        choices.append([{"type": "object", "required": [*some]} for some in combinations(optional, missing)])
    elif missing == 1 and listed:
        own["minProperties"] = low
    elif missing:
        note(f"minProperties {low}: the name of a property could come twice")
    if room is not None and not (closed and room >= len(optional)):
        absent = max(len(optional) - room, 0)
        if listed:
            own["maxProperties"] = high
        elif (closed or not room) and comb(len(optional), absent) <= _MOST_CHOICES:
            if not room:
                own |= {"additionalProperties": False}
                own.pop("patternProperties", None)
            sets = combinations(optional, absent)
            choices.append([{"properties": dict.fromkeys(some, False)} for some in sets])
        else:
            note(f"maxProperties {high} beside optional properties")
    if choices:
        types = own.get("type")
        others = [{"type": [name for name in keywords.TYPES if name != "object"]}] if types != "object" else []
        rules = [{"anyOf": [*choice, *others]} for choice in choices]
        own["allOf"] = [*own.get("allOf", ()), *rules]
        for rule in [] if closed else rules:
            narrow(rule)
    return own


def distinct(values: list[Any], low: int, high: int | None) -> list[Any] | None:
    """Return a schema for each array of different values, of `low` to `high` items; None if there are too many."""
    several: list[Any] = []
    if len(values) > _MOST_CHOICES:
        return None
    for value in values:
        if not any(keywords.same(value, one) for one in several):
            several.append(value)
    sizes = range(low, min(len(several) if high is None else high, len(several)) + 1)
    if sum(perm(len(several), size) for size in sizes) > _MOST_CHOICES:
        return None
    return [
        {"type": "array", "prefixItems": [{"enum": [value]} for value in some], "minItems": size, "maxItems": size}
        for size in sizes
        for some in permutations(several, size)
    ]
