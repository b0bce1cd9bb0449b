"""Python functions as tools: their names, docstrings and annotations as a JSON Schema."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", None: "null"}
# Where the sections of a docstring begin that are not about the function as a whole.
_SECTION = re.compile(
    r"^\s*(?:(?:Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples)\s*:?\s*$|:\w+)", re.M
)
_OF_PARAMETER = re.compile(r"^\s*(?::param )?\**(\w+)(?: *\([^)]*\))?:[ \t]+(\S.*)$", re.M)


class _Unknown(Exception):
    """A type that only pydantic can describe."""


def tool_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the description of a function as a tool: name, description and parameters.

    Raises TypeError, with what to write, for a function without annotations or that cannot be called by names.
    """
    name = getattr(function, "__name__", "")
    if isinstance(function, type) or not name:
        kind = f"the class {name}" if isinstance(function, type) else type(function).__name__
        raise TypeError(f"a tool: expected a function or a dict, got {kind}: write def weather(city: str) -> str")
    text = inspect.getdoc(function) or ""
    of_parameters = dict(_OF_PARAMETER.findall(text))
    kinds, required = _parameters(function, name)
    try:
        properties = {one: _schema(kind) for one, kind in kinds.items()}
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    except _Unknown:
        schema = _by_pydantic(name, kinds, required)
    for one, described in schema["properties"].items():
        if one in of_parameters and "description" not in described:
            described["description"] = of_parameters[one]
    end = _SECTION.search(text)
    return {"name": name, "description": text[: end.start() if end else None].strip(), "parameters": schema}


def _parameters(function: Callable[..., Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the types of a function's parameters, and the names of those without a default."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise TypeError(f"the tool {name}: Python does not know its parameters: write a def that calls it") from None
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:  # names in quotes can be any text
        raise TypeError(
            f"the tool {name}: its annotations cannot be read ({error}): use types that its module defines"
        ) from error
    for one, parameter in found.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(
                f"the tool {name}: the parameter {one} cannot be passed by its name: write def {name}({one}: str)"
            )
        if one not in hints:
            raise TypeError(
                f"the tool {name}: the parameter {one} has no type: write {one}: str, or the type that it has, or pass "
                "a dict with name, description and parameters"
            )
    required = [one for one, parameter in found.items() if parameter.default is parameter.empty]
    return {one: hints[one] for one in found}, required


def _schema(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type of Python's own. Raises _Unknown for others."""
    if kind is Any:
        return {}
    if kind is list or kind is dict:
        return {"type": "array" if kind is list else "object"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated and all([isinstance(one, str) for one in kind.__metadata__]):
        return {**_schema(arguments[0]), "description": " ".join(kind.__metadata__)}
    if origin is Literal and all([type(one) in _PLAIN for one in arguments]):
        types_of = {_PLAIN[type(one)] for one in arguments}
        return {**({"type": types_of.pop()} if len(types_of) == 1 else {}), "enum": [*arguments]}
    if origin is Union or origin is types.UnionType:
        return {"anyOf": [_schema(one) for one in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if isinstance(kind, type) or kind is None:
        if kind in _PLAIN and origin is None:
            return {"type": _PLAIN[kind]}
    raise _Unknown


def _by_pydantic(name: str, kinds: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Return the JSON Schema of an object whose fields have these types."""
    from llama_cffi.constrain.types import adapter_of, schema_of

    try:
        from typing_extensions import NotRequired, TypedDict
    except ImportError as error:
        raise ImportError(f"the types of the tool {name} need pydantic: pip install pydantic") from error
    fields = {one: kind if one in required else NotRequired[kind] for one, kind in kinds.items()}
    try:
        schema = schema_of(adapter_of(TypedDict(name, fields)))  # type: ignore[operator]
    except TypeError as error:
        raise TypeError(f"the tool {name}: {error}") from error
    return {"type": "object", "properties": {}, "required": [], **schema}
