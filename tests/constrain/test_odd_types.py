"""`Constraint.fromType` with objects that are not types: TypeError that names the object, whatever pydantic raises."""

from __future__ import annotations

import sys
from typing import Any

import pydantic
import pytest

from llama_cffi import ChatMessage, Constraint


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Broken:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise ZeroDivisionError("of its own")


class BrokenSchema(int):
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler(int)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        raise KeyError("of its own")


ODD = [
    ChatMessage("user", "hello"),
    object(),
    Unprintable(),
    Broken,
    BrokenSchema,
    3,
    "no type of this name",
    "list[",
    b"int",
    [int],
    {"type": "object"},
    (int, str),
    {int},
    len,
    sys,
    ...,
    NotImplemented,
    3.5,
    iter([]),
    list[3],  # type: ignore[misc]
    dict[str, object()],  # type: ignore[misc]
    int.__add__,
    property(),
    pydantic,
    pydantic.Field(gt=3),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_an_object_that_is_not_a_type(odd: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Constraint.fromType(odd)
    assert "pass the class itself" in str(caught.value) or caught.value.__cause__ is not None


def test_the_message_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"(?s)got .*ChatMessage.*fromJsonSchema"):
        Constraint.fromType(ChatMessage("user", "hello"))
