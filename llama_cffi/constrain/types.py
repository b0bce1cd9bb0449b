"""JSON Schemas of Python types, made by pydantic, such that its parser takes every text that satisfies them."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from typing import Any

from llama_cffi.constrain.patterns import FORMATS, HOST_AND_PATH, LOCAL_DATE_TIME, SAFE_REGEX

# Numbers of types that refuse infinity stay within these limits. With limits, they have no exponent either.
_LARGEST = 10.0**15

# The formats that only pydantic knows, as a pattern or another format.
_FORMATS = {
    **dict.fromkeys(("ipv4network", "ipv4interface", "ipvanyaddress", "ipvanynetwork", "ipvanyinterface"), "ipv4"),
    **dict.fromkeys(("ipv6network", "ipv6interface"), "ipv6"),
    "name-email": "email",
}
_PATTERNS = {
    "base64": "^([A-Za-z0-9+/]{4})*$",
    "base64url": "^([A-Za-z0-9_-]{4})*$",
    "color": "^#[0-9a-f]{6}$",
    "regex": SAFE_REGEX,
    **{
        f"uuid{version}": f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
        for version in range(1, 9)
    },
}
_WHOLE = "^(0|-?[1-9][0-9]{0,17})$"
_KEYS = {
    "int": _WHOLE,
    "float": _WHOLE,
    "decimal": _WHOLE,
    "bool": "^(true|false)$",
    "timedelta": "^P[1-9][0-9]{0,5}D$",
}
_LIMITS = {"ge", "gt", "le", "lt", "multiple_of"}
_NOT_KEYS = ("tuple", "list", "set", "frozenset", "dict", "model", "dataclass", "typed-dict")
_COMPLEX = "^-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,6})?[+-](0|[1-9][0-9]{0,8})(\\.[0-9]{1,6})?j$"
_BYTE_SIZE = "^[0-9]{1,12}(B|KB|MB|GB)?$"

# Where a schema contains others: as values of an object, in a list, or alone.
_IN_OBJECTS = ("$defs", "properties", "patternProperties", "dependentSchemas")
_IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE = ("items", "additionalProperties", "propertyNames", "contains")


def adapter_of(kind: Any) -> Any:
    """Return pydantic's TypeAdapter for a type."""
    try:
        from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
    except ImportError as error:
        raise ImportError("Constraint.fromType needs pydantic: pip install pydantic") from error
    if is_dataclass(kind) and not isinstance(kind, type):  # pydantic takes it for a class
        raise _not_a_type(kind)
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise TypeError(f"pydantic does not support the type {_shown(kind)}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # pydantic takes objects that are not types apart, and fails in many ways
        raise _not_a_type(kind, error) from error


def _not_a_type(kind: Any, error: Exception | None = None) -> TypeError:
    hint = "pass the class itself, such as list[str] or a pydantic model; fromJsonSchema takes a schema"
    reason = "" if error is None else f" ({type(error).__name__}: {error})"
    return TypeError(f"expected a type, got {_shown(kind)}: {hint}{reason}")


def _shown(kind: Any) -> str:
    """Return the text of an object for a message, even if its own `__repr__` fails."""
    try:
        text = repr(kind)
    except Exception:
        text = f"a {type(kind).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def schema_of(adapter: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, without the parts that only pydantic can enforce."""
    from pydantic.errors import PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema

    class Schemas(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            return _decimal(schema)

        def float_schema(self, schema: Any) -> dict[str, Any]:
            found: dict[str, Any] = super().float_schema(schema)
            return found if schema.get("allow_inf_nan", True) else _bounded(found)

        def url_schema(self, schema: Any) -> dict[str, Any]:
            schemes = "|".join(map(re.escape, schema.get("allowed_schemes") or ("http", "https")))
            after = "(/[A-Za-z0-9._-]*)+" if schemes == "file" else HOST_AND_PATH
            return {"type": "string", "pattern": f"^({schemes})://{after}$"} | _lengths(schema)

        multi_host_url_schema = url_schema

        def datetime_schema(self, schema: Any) -> dict[str, Any]:
            naive = schema.get("tz_constraint") == "naive"
            return {"type": "string", "pattern": LOCAL_DATE_TIME} if naive else super().datetime_schema(schema)

        def complex_schema(self, schema: Any) -> dict[str, Any]:
            return {"type": "string", "pattern": _COMPLEX}

        def dict_schema(self, schema: Any) -> dict[str, Any]:
            found: dict[str, Any] = super().dict_schema(schema)
            return _with_keys(found, schema.get("keys_schema", {}))

    try:
        schema: dict[str, Any] = adapter.json_schema(schema_generator=Schemas)
    except PydanticUserError as error:  # also for a name in quotes that is not defined
        raise TypeError(f"this type has no JSON Schema: {error}") from error
    except (TypeError, MemoryError):
        raise
    except Exception as error:  # its own code, such as a `__get_pydantic_json_schema__`
        raise TypeError(f"this type has no JSON Schema: {type(error).__name__}: {error}") from error
    return _walk(schema)  # type: ignore[no-any-return]


def _with_keys(found: dict[str, Any], keys: Any) -> dict[str, Any]:
    """Return the schema of a dict with rules for its keys, which pydantic's own leaves out."""
    kind = keys.get("type")
    if "patternProperties" in found:
        found["additionalProperties"] = False
    elif kind in _KEYS:
        names: dict[str, Any] = {"pattern": _KEYS[kind]}
        if keys.keys() & _LIMITS:
            names["not"] = {"pattern": ""}  # cannot be enforced
        found["propertyNames"] = names
    elif kind in _NOT_KEYS:
        raise TypeError(f"a dict in JSON cannot have keys of the type {kind}: use str, int, an Enum, or the like")
    return found


def _lengths(schema: Any) -> dict[str, Any]:
    return {"maxLength": schema["max_length"]} if "max_length" in schema else {}


def _decimal(schema: Any) -> dict[str, Any]:
    limits = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
    found = {"type": "number"} | {name: float(schema[key]) for key, name in limits.items() if key in schema}
    digits, places = schema.get("max_digits"), schema.get("decimal_places")
    if places is not None:
        found |= {"type": "integer"} if places == 0 else {"multipleOf": 10.0**-places}
    if schema.get("multiple_of") is not None:
        found["multipleOf"] = float(schema["multiple_of"])
    if digits is not None:
        # Without a number of places, each digit after the point would count: then there are none.
        found |= {} if places is not None else {"type": "integer"}
        found = _bounded(found, 10.0 ** min(digits - (places or 0), 15))
    return _bounded(found)


def _bounded(found: dict[str, Any], limit: float = _LARGEST) -> dict[str, Any]:
    """Return a schema of numbers with limits on both sides."""
    if "minimum" not in found and "exclusiveMinimum" not in found:
        found["exclusiveMinimum"] = -limit
    if "maximum" not in found and "exclusiveMaximum" not in found:
        found["exclusiveMaximum"] = limit
    return found


def _plain(schema: dict[str, Any]) -> None:
    name = schema.get("format")
    if name is not None and name not in FORMATS:
        del schema["format"]
        if name in _FORMATS:
            schema["format"] = _FORMATS[name]
        elif name in _PATTERNS and "pattern" not in schema:
            schema["pattern"] = _PATTERNS[name]
    if schema.get("pattern", "").startswith(r"^\s*(\d*\.?\d+)\s*(\w+)?"):  # pydantic.ByteSize
        schema["pattern"] = _BYTE_SIZE
    if "contentMediaType" in schema and "json" in str(schema["contentMediaType"]):
        raise TypeError("JSON inside a string (pydantic.Json) cannot be enforced: use the type that it holds")
    # Objects have only the properties of the class; types that allow others (dict, extra="allow") say so.
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    if schema.get("minItems", 0) < 2:
        schema.pop("uniqueItems", None)  # a Python set drops duplicates, so it need not be enforced
    if "oneOf" in schema:  # the parser takes the tag, or the first that fits
        tag = schema.get("discriminator", {}).get("propertyName")
        options = schema.pop("oneOf")
        schema["anyOf"] = [{"allOf": [option, {"required": [tag]}]} for option in options] if tag else options


def _walk(schema: Any) -> Any:
    """Apply `_plain` in place to a schema and to all schemas in it, but not to values such as defaults."""
    if isinstance(schema, dict):
        _plain(schema)
        for key in _IN_OBJECTS:
            if isinstance(schema.get(key), dict):
                for part in schema[key].values():
                    _walk(part)
        for key in _IN_LISTS:
            for part in schema.get(key) or ():
                _walk(part)
        for key in _ALONE:
            _walk(schema.get(key))
    return schema
