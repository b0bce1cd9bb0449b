"""The JSON Schema of a response format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llama_cffi._core.checks import expected


def schema_text(given: Any) -> str:
    """Return the JSON Schema of a response format as text.

    `given` is a schema, OpenAI's `{"type": "json_schema", "json_schema": {"schema": ...}}` or `{"type":
    "json_object"}`, or a type that pydantic knows.
    """
    if isinstance(given, Mapping):
        wrapped = given.get("json_schema")
        if given.get("type") == "json_object":
            schema: Any = given.get("schema", {"type": "object"})
        elif given.get("type") == "json_schema" and isinstance(wrapped, Mapping):
            schema = wrapped.get("schema", {"type": "object"})
        else:
            schema = dict(given)
    elif isinstance(given, (str, bytes, int, float, list)) or given is None:
        raise expected("a JSON Schema or a type", given, name="responseFormat")
    else:
        from llama_cffi.constrain.types import adapter_of, schema_of

        schema = schema_of(adapter_of(given))
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"responseFormat is not JSON: {error}") from None
