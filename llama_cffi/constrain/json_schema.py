"""Python types as JSON Schema, by pydantic; and JSON Schema made narrower."""

from __future__ import annotations

import copy
from typing import Any

from llama_cffi._core.checks import integer

# Formats that llguidance keeps to. Those of others stay remarks, which pydantic may look at when it reads the text.
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
# What llguidance lets through besides: the year 0, 29 February in every year, seconds of 60, fractions without an end.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURTH = "(0[48]|[2468][048]|[13579][26])"
_DATE = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    f"|([0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
)
_TIME = "[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,6})?([zZ]|[+-][0-9]{2}:[0-9]{2})"
_EXACT = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}[Tt]{_TIME}$"}
_NAMED = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains")
_BOUNDED_ELSEWHERE = ("maxLength", "pattern", "format", "enum", "const")


def adapter_of(kind: Any) -> Any:
    """pydantic's adapter for a type."""
    try:
        from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
    except ImportError as error:
        raise ImportError("Constraint.fromType needs pydantic: pip install 'llama-cffi[constrain]'") from error
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise TypeError(f"pydantic makes no schema of {kind!r}: {error}") from error


def schema_of(adapter: Any) -> dict[str, Any]:
    """The JSON Schema of a type, with the parts that only pydantic knows left out."""
    from pydantic.errors import PydanticInvalidForJsonSchema
    from pydantic.json_schema import GenerateJsonSchema

    class Schemas(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            limits = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
            return {"type": "number"} | {name: float(schema[key]) for key, name in limits.items() if key in schema}

    try:
        schema: dict[str, Any] = adapter.json_schema(schema_generator=Schemas)
    except PydanticInvalidForJsonSchema as error:
        raise TypeError(f"this type has no JSON Schema: {error}") from error
    return _walk(schema, _plain)  # type: ignore[no-any-return]


def _plain(schema: dict[str, Any]) -> None:
    if schema.get("format") not in _FORMATS:
        schema.pop("format", None)
    # A class has the properties that it has. What takes any others says so: dict, or extra="allow".
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    schema.pop("uniqueItems", None)  # a set: what is there twice, is in it once


def narrow(schema: Any, most_characters: int | None, most_items: int | None) -> Any:
    """A copy of a schema whose dates exist, with limits for the strings and arrays that have none.

    What fits it, fits the one that was given.
    """
    for name, value in (("maxLength", most_characters), ("maxItems", most_items)):
        if value is not None:
            integer(value, 0, 1 << 31, name)

    def change(part: dict[str, Any]) -> None:
        exact = _EXACT.get(str(part.get("format")))
        if exact is not None:
            part["allOf"] = [*part.get("allOf", ()), {"pattern": exact}]
        kinds = part.get("type", ())
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        if most_characters is not None and "string" in kinds and not any(key in part for key in _BOUNDED_ELSEWHERE):
            part["maxLength"] = max(most_characters, part.get("minLength", 0))
        if most_items is not None and "array" in kinds and "maxItems" not in part:
            part["maxItems"] = max(most_items, part.get("minItems", 0))
        if most_characters is not None and "object" in kinds and isinstance(part.get("additionalProperties"), dict):
            if not part.get("properties") and not part.get("patternProperties"):  # then the names are free
                part["patternProperties"] = {f"^(?s:.){{0,{most_characters}}}$": part["additionalProperties"]}
                part["additionalProperties"] = False

    return _walk(copy.deepcopy(schema), change)


def _walk(schema: Any, change: Any) -> Any:
    """Apply `change` to a schema and to all schemas in it, in place; values such as defaults are none."""
    if isinstance(schema, dict):
        change(schema)
        for key in _NAMED:
            if isinstance(schema.get(key), dict):
                for part in schema[key].values():
                    _walk(part, change)
        for key in _LISTS:
            for part in schema.get(key) or ():
                _walk(part, change)
        for key in _SINGLE:
            _walk(schema.get(key), change)
    return schema
