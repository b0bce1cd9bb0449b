"""Parameters of requests: fields that are known, without an effect, not supported, or unknown.

- Known fields are checked; a wrong one is a 400 that names it.
- Fields without an effect are accepted: what the server does not store or bill.
- Fields that are known and not supported are a 400 that says so, unless their value is the default.
- Unknown fields are ignored and named in the header `X-Ignored-Parameters`; with `--strict` they are a 400.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llama_cffi.server.errors import ApiError, of_validation, unsupported

_MOST_NAMED = 20  # unknown fields in a header or a message
_LONGEST_NAME = 60


class Body(BaseModel):
    """The JSON body of a request."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())

    # Names of fields without an effect.
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset()
    # Fields that are not supported: their harmless values beside null, and the reason.
    UNSUPPORTED: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {}
    # Names of fields that are lists of objects without a model, and the fields that these may have.
    OBJECTS: ClassVar[dict[str, frozenset[str]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """Leave out fields that are null, and make numbers such as 4.0 integers: JSON knows numbers alone."""
        if not isinstance(given, dict):
            return given
        return {name: _number(value) for name, value in given.items() if value is not None}


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


B = TypeVar("B", bound=Body)


def read(kind: type[B], data: bytes, strict: bool) -> tuple[B, list[str]]:
    """Read a request's body. Returns it with the names of the fields that are ignored. Raises ApiError."""
    document = _document(data)
    for name, (harmless, why) in kind.UNSUPPORTED.items():
        value = document.get(name)
        if value is not None and value not in harmless:
            raise unsupported(name, why)
    try:
        body = kind.model_validate(document)
    except ValidationError as error:
        raise of_validation(error.errors(include_url=False, include_input=False), document) from None
    ignored = [name[:_LONGEST_NAME] for name in _unknown(body)][:_MOST_NAMED]
    if ignored and strict:
        names = ", ".join(map(repr, ignored))
        text = f"unknown parameters: {names} (the server refuses them with --strict)"
        raise ApiError(400, text, param=ignored[0], code="unknown_parameter")
    return body, ignored


def _unknown(body: Body, path: str = "") -> Iterator[str]:
    """Yield the unknown fields of a body and of the objects in it, as paths."""
    known = body.NO_EFFECT | body.UNSUPPORTED.keys()
    yield from (path + name for name in body.model_extra or () if name not in known)
    for field, fields in body.OBJECTS.items():
        objects: list[dict[str, Any]] = getattr(body, field) or []
        for index, part in enumerate(objects):
            yield from (f"{path}{field}[{index}].{name}" for name in part if name not in fields)
    for name, value in body:
        inner = value if isinstance(value, list) else [value]
        for part in inner:
            if isinstance(part, Body):
                yield from _unknown(part, f"{path}{name}.")


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise ApiError(400, f"the body must be a JSON object, got {type(document).__name__}", code="invalid_json")
    return document


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")
