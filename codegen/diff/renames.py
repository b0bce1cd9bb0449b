"""Guesses what was renamed: two things that are equal except for their names, if one candidate fits best.

Each function takes the removed and the added things, and returns old name -> new name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TypeVar

from codegen.api.model import Constant, Field, Function, Record, Typedef, flat_fields

_T = TypeVar("_T")

# Required similarity of two names, 0 to 1: if types, place or value are equal, and if they differ a little.
_ALIKE, _NEARLY_THE_SAME = 0.7, 0.87


def likeness(old: str, new: str) -> float:
    """Return the similarity of two C names without the library's prefix, 0 to 1."""
    old, new = (name.lower().partition("_")[2] or name for name in (old, new))
    return SequenceMatcher(None, old, new, autojunk=False).ratio()


def _pairs(
    gone: Sequence[_T], came: Sequence[_T], name: Callable[[_T], str], score: Callable[[_T, _T], float]
) -> dict[str, str]:
    """Return the pairs that are each other's only best match. A score of 0 never matches."""
    scores = {(name(a), name(b)): score(a, b) for a in gone for b in came}
    found: dict[str, str] = {}
    for (a, b), value in scores.items():
        rivals = [other for pair, other in scores.items() if pair != (a, b) and (pair[0] == a or pair[1] == b)]
        if value > 0 and all(other < value for other in rivals):
            found[a] = b
    return found


def _alike(old: str, new: str, at_least: float = _ALIKE) -> float:
    value = likeness(old, new)
    return value if value >= at_least else 0.0


def functions(gone: Sequence[Function], came: Sequence[Function]) -> dict[str, str]:
    def score(old: Function, new: Function) -> float:
        if old.header != new.header:
            return 0.0
        same = old.returns == new.returns and [p.type for p in old.params] == [p.type for p in new.params]
        return _alike(old.name, new.name, _ALIKE if same else _NEARLY_THE_SAME)

    return _pairs(gone, came, lambda function: function.name, score)


def records(gone: Sequence[Record], came: Sequence[Record]) -> dict[str, str]:
    def members(record: Record) -> list[tuple[str, str]]:
        return [(field.name, field.type) for field in flat_fields(record)]

    def score(old: Record, new: Record) -> float:
        same = old.kind == new.kind and members(old) and members(old) == members(new)
        return 1.0 + likeness(old.spelling, new.spelling) if same else 0.0

    return _pairs(gone, came, lambda record: record.spelling, score)


def fields(old: Sequence[Field], new: Sequence[Field]) -> dict[str, str]:
    """Match fields of the same type between the same neighbours."""
    before, after = [field.name for field in old], [field.name for field in new]

    def around(names: Sequence[str], name: str) -> tuple[str, str]:
        index = names.index(name)
        return (["", *names][index], [*names, ""][index + 1])

    def score(a: Field, b: Field) -> float:
        same = a.type == b.type and a.bits == b.bits and around(before, a.name) == around(after, b.name)
        return _alike(a.name, b.name, 0.5) if same else 0.0

    gone = [field for field in old if field.name not in after]
    return _pairs(gone, [field for field in new if field.name not in before], lambda field: field.name, score)


def enumerators(old: Mapping[str, int | None], new: Mapping[str, int | None]) -> dict[str, str]:
    """Match enumerators of one enumeration that have the same value."""
    gone, came = [name for name in old if name not in new], [name for name in new if name not in old]
    return _pairs(gone, came, lambda name: name, lambda a, b: _alike(a, b) if old[a] == new[b] else 0.0)


def enums(gone: Mapping[str, Mapping[str, object]], came: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Match enumerations that have the same members."""

    def score(old: str, new: str) -> float:
        return 1.0 + likeness(old, new) if dict(gone[old]) == dict(came[new]) else 0.0

    return _pairs(list(gone), list(came), lambda name: name, score)


def constants(gone: Mapping[str, Constant], came: Mapping[str, Constant]) -> dict[str, str]:
    def score(old: str, new: str) -> float:
        same = gone[old].value == came[new].value and gone[old].header == came[new].header
        return _alike(old, new) if same else 0.0

    return _pairs(list(gone), list(came), lambda name: name, score)


def typedefs(gone: Sequence[Typedef], came: Sequence[Typedef]) -> dict[str, str]:
    def score(old: Typedef, new: Typedef) -> float:
        return _alike(old.name, new.name) if old.type == new.type else 0.0

    return _pairs(gone, came, lambda typedef: typedef.name, score)
