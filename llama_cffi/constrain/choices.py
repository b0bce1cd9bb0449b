"""`oneOf` as `anyOf`: where no value fits two of the choices, or where they can be narrowed so that none does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from llama_cffi.constrain import keywords
from llama_cffi.constrain.patterns import APART, FORMATS

Schema = Any

_MOST_PAIRS = 40_000
_MOST_STEPS = 200_000  # comparisons of two schemas for a whole document
_DEPTH = 8
_MOST_PARTS = 64
_MOST_OPPOSITES = 400  # of choices in a whole document
_KINDS = {"number": ("fraction", "integer")}
_FORMAT_OF = {FORMATS[name][0][0]: name for name in APART}


class Choices:
    """Compares rewritten schemas."""

    def __init__(self, defs: dict[str, Schema], narrowed: MutableMapping[int, set[str] | None]) -> None:
        self._defs, self._narrowed = defs, narrowed
        self._steps = self._opposites = 0
        self._parts_of: dict[int, list[dict[str, Any]]] = {}
        self._kinds_of: dict[int, set[str]] = {}
        self._known: dict[tuple[int, int], bool] = {}

    def settle(
        self, options: list[Schema], opposite: Callable[[int], tuple[Schema, bool] | None]
    ) -> list[Schema] | None:
        """Return options of which no value fits two, for `anyOf`; None if that cannot be said.

        `opposite` returns a schema for what an option excludes, and True if it covers all of that; or None.
        """
        if len(options) * (len(options) - 1) // 2 > _MOST_PAIRS:
            return None
        settled = []
        for number, option in enumerate(options):
            rules: list[Any] = []
            for place, other in enumerate(options):
                if place == number or self._disjoint(option, other, _DEPTH):
                    continue
                rule: Any = self._telling(option, other)
                if rule is None:
                    self._opposites += 1
                    found = opposite(place) if self._opposites <= _MOST_OPPOSITES else None
                    if found is None:
                        return None
                    rule, exact = found
                    if not exact:
                        if self._disjoint(option, rule, _DEPTH):
                            return None  # what is missing may be all that the option stands for
                        rule = {"anyOf": [rule]}
                        self._narrowed[id(rule)] = None
                elif self._kinds(option) & self._kinds(other) != {"object"}:
                    rule["type"] = "object"
                if rule not in rules and rule is not True:
                    rules.append(rule)
            if option is not False and False not in rules:
                settled.append({"allOf": [option, *rules]} if rules else option)
        return settled

    def _telling(self, option: Schema, other: Schema) -> dict[str, Any] | None:
        """Return a further rule for objects of an option, such that no value fits both that and the other."""
        mine, theirs = self._parts(option), self._parts(other)
        for name in dict.fromkeys(name for part in mine for name in part.get("properties", ())):
            pairs = [(one, two) for one in _of_property(mine, name) for two in _of_property(theirs, name)]
            if any(self._disjoint(one, two, _DEPTH) for one, two in pairs) and False not in (one for one, _ in pairs):
                return {"required": [name]}
        needed = self._required(option)
        absent = next((name for name in self._required(other) if name not in needed), None)
        return None if absent is None else {"properties": {absent: False}}

    def _parts(self, schema: Schema) -> list[dict[str, Any]]:
        """Return the schemas that a value must all fit: the schema, those of `allOf` and of references."""
        if id(schema) not in self._parts_of:
            self._parts_of[id(schema)] = self._collect(schema)
        return self._parts_of[id(schema)]

    def _collect(self, schema: Schema) -> list[dict[str, Any]]:
        todo, seen = [schema], set()
        found: list[dict[str, Any]] = []
        while todo and len(found) < _MOST_PARTS:
            part = todo.pop()
            if isinstance(part, dict) and id(part) not in seen:
                seen.add(id(part))
                if id(part) in self._narrowed:
                    part = self._wide(part)
                found.append(part)
                todo.extend(part.get("allOf", ()))
                if "$ref" in part:
                    todo.append(self._defs[part["$ref"].rpartition("/")[2]])
        return found

    def _wide(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return a schema without the keywords that are stricter than those it stands for."""
        keys = self._narrowed[id(part)]
        return {} if keys is None else {key: value for key, value in part.items() if key not in keys}

    def _required(self, schema: Schema) -> list[str]:
        return list(dict.fromkeys(name for part in self._parts(schema) for name in part.get("required", ())))

    def _kinds(self, schema: Schema) -> set[str]:
        if id(schema) not in self._kinds_of:
            self._kinds_of[id(schema)] = self._all_kinds(schema)
        return self._kinds_of[id(schema)]

    def _all_kinds(self, schema: Schema) -> set[str]:
        kinds = _expanded(keywords.TYPES)
        for part in self._parts(schema):
            kinds &= _expanded(keywords.types_of(part))
            if "enum" in part:
                kinds &= {keywords.type_of(value).replace("number", "fraction") for value in part["enum"]}
        return kinds

    def _disjoint(self, one: Schema, other: Schema, depth: int) -> bool:
        """Return True if no value fits both schemas; False if that is not certain."""
        if one is False or other is False:
            return True
        self._steps += 1
        if one is True or other is True or not depth or self._steps > _MOST_STEPS:
            return False
        key = (id(one), id(other))
        if key not in self._known:
            self._known[key] = False  # for schemas that lead back to themselves
            self._known[key] = self._compare(one, other, depth - 1)
        return self._known[key]

    def _compare(self, one: Schema, other: Schema, depth: int) -> bool:
        mine, theirs = self._parts(one), self._parts(other)
        kinds = self._kinds(one) & self._kinds(other)
        if not kinds:
            return True
        for parts, whole in ((mine, other), (theirs, one)):
            for part in parts:
                for key in ("anyOf", "oneOf"):
                    if key in part and all(self._disjoint(option, whole, depth) for option in part[key]):
                        return True
        for parts, others in ((mine, theirs), (theirs, mine)):
            for part in parts:
                if "enum" in part and all(any(_refuses(rule, value) for rule in others) for value in part["enum"]):
                    return True
        return all(self._apart(kind, mine, theirs, depth) for kind in kinds)

    def _apart(self, kind: str, mine: list[dict[str, Any]], theirs: list[dict[str, Any]], depth: int) -> bool:
        parts = [*mine, *theirs]
        if kind in ("integer", "fraction"):
            low = max(part.get("minimum", part.get("exclusiveMinimum", -1e999)) for part in parts)
            high = min(part.get("maximum", part.get("exclusiveMaximum", 1e999)) for part in parts)
            edges = {part.get("exclusiveMinimum") for part in parts} | {part.get("exclusiveMaximum") for part in parts}
            return low > high or (low == high and low in edges)
        if kind in ("string", "array"):
            low_key, high_key = ("minLength", "maxLength") if kind == "string" else ("minItems", "maxItems")
            low = max(part.get(low_key, 0) for part in parts)
            if any(part.get(high_key, low) < low for part in parts):
                return True
            formats = [
                {_FORMAT_OF[p["pattern"]] for p in side if p.get("pattern") in _FORMAT_OF} for side in (mine, theirs)
            ]
            return kind == "string" and bool(formats[0] and formats[1]) and not formats[0] & formats[1]
        if kind == "object":
            names = {name: None for part in parts for name in part.get("required", ())}
            return any(
                self._disjoint(first, second, depth)
                for name in names
                for first in _of_property(mine, name)
                for second in _of_property(theirs, name)
            )
        return False


def _expanded(types: Any) -> set[str]:
    return {kind for name in types for kind in _KINDS.get(name, (name,))}


def _of_property(parts: list[dict[str, Any]], name: str) -> Iterator[Schema]:
    """Yield the schemas that the property must fit."""
    for part in parts:
        if name in part.get("properties", ()):
            yield part["properties"][name]
        elif not part.get("patternProperties"):
            yield part.get("additionalProperties", True)


def _refuses(rule: dict[str, Any], value: Any) -> bool:
    """Return True if a value certainly violates the plain keywords of a schema."""
    if not keywords.has_type(value, keywords.types_of(rule)):
        return True
    if "enum" in rule:
        return not any(keywords.same(value, one) for one in rule["enum"])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(
            value < rule.get("minimum", value)
            or value > rule.get("maximum", value)
            or value <= rule.get("exclusiveMinimum", value - 1)
            or value >= rule.get("exclusiveMaximum", value + 1)
        )
    if isinstance(value, str):
        return not rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value))
    return False
