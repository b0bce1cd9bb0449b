"""Values of JSON Schema keywords: their checks, and what follows from them for types and numbers."""

from __future__ import annotations

import math
from typing import Any

from llama_cffi.errors import GrammarError

TYPES = ("null", "boolean", "number", "string", "array", "object")
# Numbers up to here are the same as a 64-bit float, which is what llguidance reads them as.
_EXACT = 1 << 53
_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1

# Keywords that apply other schemas to the same value.
APPLICATORS = ("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf")
# All keywords that have a meaning here.
READ = frozenset(
    (*APPLICATORS, "type", "enum", "const", "not", "if", "then", "else", "minimum", "maximum", "exclusiveMinimum")
    + ("exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format", "items", "prefixItems")
    + ("additionalItems", "unevaluatedItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains")
    + ("maxContains", "properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "required")
    + ("minProperties", "maxProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies")
)

# The types of the keywords that are read. All others are annotations, as the standard says.
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(
        ("properties", "patternProperties", "dependentRequired", "dependentSchemas", "dependencies"),
        (dict, "an object"),
    ),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "enum", "prefixItems"), (list, "an array")),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), ((int, float), "a number")),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), ((int, float, bool), "a number")),
    **dict.fromkeys(("pattern", "format", "$ref", "$dynamicRef", "$recursiveRef"), (str, "a string")),
    "uniqueItems": (bool, "true or false"),
}
_COUNTS = frozenset(
    ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")
)


def malformed(key: str, kind: str, value: Any) -> GrammarError:
    """Return the error for a keyword with a value of the wrong type."""
    return GrammarError(f"{key} must be {kind}, got {type(value).__name__}: {str(value)[:60]}")


def check(node: dict[str, Any]) -> None:
    """Raise GrammarError for a keyword whose value is not what the standard says."""
    for key, value in node.items():
        if key in _COUNTS:
            count(node, key)
        elif key in _KINDS:
            kinds, words = _KINDS[key]
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds not in (bool, (int, float, bool))):
                raise malformed(key, words, value)
            if key in ("anyOf", "oneOf", "allOf") and not value:
                raise GrammarError(f"{key} must hold at least one schema")
            if not isinstance(value, (str, bool, dict, list)):
                within_64_bits(value)


def count(node: dict[str, Any], key: str, default: int | None = None) -> int | None:
    """Return a count such as `minItems`: 2.0 is 2."""
    value = node.get(key, default)
    if value is None and key not in node:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != int(value):
        raise malformed(key, "a number of 0 or more, without a fraction", value)
    return min(int(value), (1 << 63) - 1)


def strings(key: str, value: Any) -> list[str]:
    """Return a list of names, each once."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise malformed(key, "an array of strings", value)
    return list(dict.fromkeys(value))


def types_of(node: dict[str, Any]) -> list[str]:
    """Return the types that a schema allows."""
    value = node.get("type")
    if value is None and "type" not in node:
        return [*TYPES]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(name in (*TYPES, "integer") for name in names):
        raise malformed("type", f"one of {', '.join((*TYPES, 'integer'))}, or an array of them", value)
    return [name for name in dict.fromkeys(names) if name != "integer" or "number" not in names]


def type_of(value: Any) -> str:
    """Return the type of a JSON value: "integer" for a number without a fraction."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "integer" if value == int(value) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def has_type(value: Any, types: list[str]) -> bool:
    """Return whether a value has one of the types."""
    kind = type_of(value)
    return kind in types or (kind == "integer" and "number" in types)


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def within_64_bits(value: float) -> None:
    """Raise GrammarError for an integer beyond 64 bits."""
    if isinstance(value, int) and not _LOWEST <= value <= _HIGHEST:
        raise GrammarError(f"an integer must be between -2^63 and 2^64 - 1, got {value}")


def check_literals(value: Any) -> None:
    """Raise GrammarError for a value of `const` or `enum` with a number that llguidance would change."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        within_64_bits(value)
        if abs(value) > _EXACT and int(float(value)) != value:
            raise GrammarError(f"an integer in const or enum must be exact as a 64-bit float, got {value}")
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            check_literals(item)


def bounds(node: dict[str, Any]) -> dict[str, float]:
    """Return the limits of numbers, in the form of draft 2020-12, and such that a float does not widen them."""
    found: dict[str, float] = {}
    for key, exclusive, toward in (
        ("minimum", "exclusiveMinimum", math.inf),
        ("maximum", "exclusiveMaximum", -math.inf),
    ):
        limit, beyond = node.get(key), node.get(exclusive)
        if beyond is True and limit is not None:  # draft 4
            found[exclusive] = _inward(limit, toward)
        elif limit is not None:
            found[key] = _inward(limit, toward)
        if beyond is not None and not isinstance(beyond, bool):
            found[exclusive] = _inward(beyond, toward)
    return found


def _inward(limit: float, toward: float) -> float:
    number = float(limit)
    if number == limit:
        return limit if abs(limit) <= _EXACT else number
    if (number < limit) == (toward > 0):
        return math.nextafter(number, toward)
    return number
