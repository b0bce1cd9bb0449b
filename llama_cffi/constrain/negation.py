"""Schemas for what another schema does not allow: for `not`, and for `if` with `else`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from llama_cffi.constrain import keywords
from llama_cffi.constrain.patterns import FORMATS, other_than

_MOST_CHOICES = 64
_MOST_IN_ONE_OF = 8
_MOST_REFERENCES = 20
_LONGEST = 60  # characters of a literal that a pattern excludes: a level of nesting for each
_LEVELS = {"minLength": ("string", "maxLength", -1), "maxLength": ("string", "minLength", 1)} | {
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
}
_SIDES = {"minimum": "exclusiveMaximum", "maximum": "exclusiveMinimum"}
_SIDES |= {"exclusiveMinimum": "maximum", "exclusiveMaximum": "minimum"}
# Values of keywords that any value satisfies.
_ANYTHING: tuple[Any, ...] = (True, {})
_NEUTRAL: dict[str, tuple[Any, ...]] = dict.fromkeys(("items", "additionalItems", "additionalProperties"), _ANYTHING)
_NEUTRAL |= dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "propertyNames"), _ANYTHING)
_NEUTRAL |= {"uniqueItems": (False,), "minProperties": (0,), "pattern": ("",), "patternProperties": ({},)}


class _NoWayError(Exception):
    """A schema whose opposite cannot be said."""


def _is_known(name: Any) -> bool:
    return name in FORMATS or name == "regex"


class Negation:
    """Negates schemas. The result may be stricter than the opposite: it never allows what the schema allows."""

    def __init__(
        self,
        note: Callable[[str], None],
        read: Callable[[Any, int], Any],
        resolve: Callable[[dict[str, Any], str], Any],
        narrow: Callable[[dict[str, Any]], None],
        strict_formats: bool,
    ) -> None:
        self._note, self._read, self._resolve, self._narrow = note, read, resolve, narrow  # of the reader
        self._strict_formats = strict_formats
        self._exact: bool | None = (
            True  # of the opposite that is being made: False if fractions are missing, None if more
        )

    def choice(self, node: Any, keyword: str, depth: int) -> Any:
        """Return the opposite of a schema, rewritten; None, with a note, if it cannot be said."""
        try:
            opposite, exact = self._opposite(node, depth)
        except _NoWayError as error:
            self._note(f"{keyword} with {error}")
            return None
        if not exact and isinstance(opposite, dict):
            self._narrow(opposite)
        return opposite

    def exact(self, node: Any, depth: int) -> tuple[Any, bool] | None:
        """Return the opposite of a schema, rewritten, and True if it is exact; None if it cannot be said.

        Where it is not exact, it is stricter: only numbers with a fraction are missing.
        """
        try:
            opposite, exact = self._opposite(node, depth)
        except _NoWayError:
            return None
        return None if exact is None else (opposite, exact)

    def _opposite(self, node: Any, depth: int) -> tuple[Any, bool | None]:
        """Return the opposite, a new dict if not a bool; and True if it is exact, False if it lacks only fractions."""
        outer, self._exact = self._exact, True
        try:
            options = self._options(node, depth, _MOST_REFERENCES)
            if True in options:
                return True, True
            return ({"anyOf": options} if options else False), self._exact
        finally:
            self._exact = outer

    def _options(self, node: Any, depth: int, fuel: int) -> list[Any]:
        if isinstance(node, bool):
            return [] if node else [True]
        if not isinstance(node, dict):
            raise keywords.malformed("a schema", "an object, true or false", node)
        keywords.check(node)
        found: list[Any] = []
        for key, value in node.items():
            found.extend(self._part(node, key, value, depth, fuel))
            if len(found) > _MOST_CHOICES:
                raise _NoWayError(f"more than {_MOST_CHOICES} alternatives")
        return found

    def _part(self, node: dict[str, Any], key: str, value: Any, depth: int, fuel: int) -> list[Any]:
        """Return the ways to violate one keyword."""
        if key not in keywords.READ or key in ("then", "else") or (key in _NEUTRAL and value in _NEUTRAL[key]):
            return []
        if key == "format" and not self._strict_formats and not _is_known(value):
            return []  # an annotation
        if key == "type":
            types = keywords.types_of(node)
            left = [name for name in keywords.TYPES if name not in types]
            if "integer" in types:  # numbers with a fraction cannot be said
                left.remove("number")
                self._exact = self._exact and False
            return [{"type": left}] if left else []
        if key in ("const", "enum"):
            values = value if key == "enum" else [value]
            if any(isinstance(one, (list, dict)) for one in values):
                self._exact = None
            return _other_values(values)
        if key == "required":
            names = keywords.strings(key, value)
            return [{"type": "object", "properties": {name: False}} for name in names]
        if key == "properties":
            options = [(name, option) for name, part in value.items() for option in self._options(part, depth, fuel)]
            return [{"type": "object", "required": [name], "properties": {name: option}} for name, option in options]
        if key in _LEVELS:
            kind, opposite, step = _LEVELS[key]
            limit = (keywords.count(node, key) or 0) + step
            return [{"type": kind, opposite: limit}] if limit >= 0 else []
        if key in _SIDES and type(value) in (int, float) and type(node.get("exclusiveMinimum")) is not bool:
            return [{"type": "number", **keywords.bounds({_SIDES[key]: value})}]
        if key == "not":
            return [self._read(value, depth)]
        if key == "allOf":
            return [option for part in value for option in self._options(part, depth, fuel)]
        if key == "anyOf":
            parts = [self._options(part, depth, fuel) for part in value]
            if any(not options for options in parts):
                return []
            return [{"allOf": [{"anyOf": options} for options in parts if True not in options]}]
        if key == "oneOf":  # none fits, or two do
            if len(value) > _MOST_IN_ONE_OF:
                raise _NoWayError(f"a oneOf of more than {_MOST_IN_ONE_OF} choices")
            parts = [self._options(part, depth, fuel) for part in value]
            none = [{"allOf": [{"anyOf": options} for options in parts]}] if all(parts) else []
            return [*none, *({"allOf": [self._read(part, depth) for part in two]} for two in combinations(value, 2))]
        if key == "$ref" and fuel:
            return self._options(self._resolve(node, value), depth, fuel - 1)
        raise _NoWayError(repr(key))


def _other_values(values: list[Any]) -> list[Any]:
    """Return schemas for all values but some."""
    keywords.check_literals(values)
    types = {keywords.type_of(value).replace("integer", "number") for value in values}
    found: list[Any] = [{"type": [name for name in keywords.TYPES if name not in types]}]
    if "string" in types:
        words = [value for value in values if isinstance(value, str)]
        if max(map(len, words)) > _LONGEST or len(words) > _MOST_CHOICES:
            raise _NoWayError(f"a value of more than {_LONGEST} characters")
        found.append({"type": "string", "pattern": other_than(words)})
    if "boolean" in types:
        found.extend({"enum": [value]} for value in (True, False) if not any(value is one for one in values))
    if "number" in types:
        numbers = sorted(value for value in values if keywords.has_type(value, ["number"]))
        sides: list[Any] = [None, *numbers, None]
        for low, high in zip(sides[:-1], sides[1:], strict=True):
            limits = {"exclusiveMinimum": low, "exclusiveMaximum": high}
            found.append({"type": "number", **{key: value for key, value in limits.items() if value is not None}})
    return [one for one in found if one.get("type") != []]
