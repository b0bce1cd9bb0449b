"""JSON Schemas of Python types, made by pydantic; limits and stricter formats for JSON Schemas."""

from __future__ import annotations

import copy
from typing import Any

from llama_cffi._core.checks import integer

# Formats that llguidance enforces. Others are left to pydantic, when it parses the text.
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
# llguidance also allows year 0, 29 February in every year, 60 seconds, and fractions of any length; these do not.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_DIVISIBLE_BY_4 = "(0[48]|[2468][048]|[13579][26])"
_DATE = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    f"|([0-9]{{2}}{_DIVISIBLE_BY_4}|{_DIVISIBLE_BY_4}00)-02-29)"
)
_TIME = "[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,6})?([zZ]|[+-][0-9]{2}:[0-9]{2})"
_STRICT_PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}[Tt]{_TIME}$"}
# Where a schema contains others: as values of an object, in a list, or alone.
_IN_OBJECTS = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
_IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE = ("items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains")
_LIMITS_LENGTH = ("maxLength", "pattern", "format", "enum", "const")


def adapter_of(kind: Any) -> Any:
    """Return pydantic's TypeAdapter for a type."""
    try:
        from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
    except ImportError as error:
        raise ImportError("Constraint.fromType needs pydantic: pip install 'llama-cffi[constrain]'") from error
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise TypeError(f"pydantic does not support the type {kind!r}: {error}") from error


def schema_of(adapter: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, without the parts that only pydantic can enforce."""
    from pydantic.errors import PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema

    class Schemas(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            limits = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
            return {"type": "number"} | {name: float(schema[key]) for key, name in limits.items() if key in schema}

    try:
        schema: dict[str, Any] = adapter.json_schema(schema_generator=Schemas)
    except PydanticUserError as error:  # also for a name in quotes that is not defined
        raise TypeError(f"this type has no JSON Schema: {error}") from error
    return _walk(schema, _plain)  # type: ignore[no-any-return]


def _plain(schema: dict[str, Any]) -> None:
    if schema.get("format") not in _FORMATS:
        schema.pop("format", None)
    # Objects have only the properties of the class; types that allow others (dict, extra="allow") say so.
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    schema.pop("uniqueItems", None)  # a Python set drops duplicates, so it need not be enforced


def narrow(schema: Any, max_length: int | None, max_items: int | None) -> Any:
    """Return a stricter copy of a schema: only dates that exist, and limits for strings and arrays without any."""
    for name, value in (("maxLength", max_length), ("maxItems", max_items)):
        if value is not None:
            integer(value, 0, 1 << 31, name)

    def change(part: dict[str, Any]) -> None:
        pattern = _STRICT_PATTERNS.get(str(part.get("format")))
        if pattern is not None:
            part["allOf"] = [*part.get("allOf", ()), {"pattern": pattern}]
        kinds = part.get("type", ())
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        if max_length is not None and "string" in kinds and not any(key in part for key in _LIMITS_LENGTH):
            part["maxLength"] = max(max_length, part.get("minLength", 0))
        if max_items is not None and "array" in kinds and "maxItems" not in part:
            part["maxItems"] = max(max_items, part.get("minItems", 0))
        if max_length is not None and "object" in kinds and isinstance(part.get("additionalProperties"), dict):
            if not part.get("properties") and not part.get("patternProperties"):  # then names are not limited
                part["patternProperties"] = {f"^(?s:.){{0,{max_length}}}$": part["additionalProperties"]}
                part["additionalProperties"] = False

    return _walk(copy.deepcopy(schema), change)


def _walk(schema: Any, change: Any) -> Any:
    """Apply `change` in place to a schema and to all schemas in it, but not to values such as defaults."""
    if isinstance(schema, dict):
        change(schema)
        for key in _IN_OBJECTS:
            if isinstance(schema.get(key), dict):
                for part in schema[key].values():
                    _walk(part, change)
        for key in _IN_LISTS:
            for part in schema.get(key) or ():
                _walk(part, change)
        for key in _ALONE:
            _walk(schema.get(key), change)
    return schema
