"""Small operations on the parts of a rewritten JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Schema = Any  # a dict or a bool


def keys_of(schema: Any) -> Iterable[str]:
    """Return the keywords of a schema; none for true and false."""
    return schema if isinstance(schema, dict) else ()


def joined(parts: list[Schema]) -> Schema:
    """Return a schema that demands all parts."""
    parts = [part for part in parts if part is not True and part != {}]
    if any(part is False for part in parts):
        return False
    return (parts[0] if len(parts) == 1 else {"allOf": parts}) if parts else True


def one_pattern(own: dict[str, Any]) -> str:
    """Return a pattern for the strings that a schema allows; "" if it takes more than one."""
    low, high = own.get("minLength", 0), own.get("maxLength")
    if "allOf" in own or ("pattern" in own and (low or high is not None)):
        return ""
    return own.get("pattern") or f"^(?s:.){{{low},{'' if high is None else high}}}$"
