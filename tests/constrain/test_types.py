"""`fromType` writes only what its own `parse` takes."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import json
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, FiniteFloat, HttpUrl, Json, NaiveDatetime, condecimal

from llama_cffi import ChatMessage, Constraint, GrammarError
from tests.constrain.walks import accepts, write


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    loud: bool = True


class Left(BaseModel):
    side: Literal["left"] = Field("left", alias="at")


class Right(BaseModel):
    side: Literal["right"] = Field("right", alias="at")


class Home(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    seats: list[Annotated[Left | Right, Field(discriminator="side")]] = Field(default=[], max_length=2)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


TYPES = [
    Home, Annotated[Cat | Dog, Field(discriminator="kind")], Cat | Dog,
    dict[Colour, int], dict[Level, int], dict[Literal["x", "y"], float], dict[Literal["x"], int], dict[int, str],
    dict[datetime.date, int], dict[uuid.UUID, int], dict[bool, int], dict[Annotated[str, Field(pattern="^a")], int],
    Decimal, condecimal(max_digits=5, decimal_places=2), condecimal(max_digits=3), condecimal(ge=0, decimal_places=0),
    datetime.timedelta, datetime.date, datetime.time, datetime.datetime, NaiveDatetime, FiniteFloat,
    uuid.UUID, ipaddress.IPv4Network, ipaddress.IPv6Address, HttpUrl, complex, bytes, set[int],
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_parse_takes_what_is_written(kind: Any) -> None:
    constraint = Constraint.fromType(kind, whitespace=False, maxLength=8, maxItems=3)
    ended = 0
    for seed in range(30):
        text = write(constraint, seed)
        if text is not None:
            constraint.parse(text)
            ended += 1
    assert ended > 20


def test_the_tag_of_a_union_is_required() -> None:
    constraint = Constraint.fromType(Home, whitespace=False)
    assert accepts(constraint, '{"pet":{"kind":"dog"}}')
    assert accepts(constraint, '{"pet":{"kind":"cat","lives":1},"seats":[{"at":"left"}]}')
    assert not accepts(constraint, '{"pet":{}}')
    assert not accepts(constraint, '{"pet":{"kind":"cat"},"seats":[{}]}')
    assert accepts(Constraint.fromType(Dog, whitespace=False), "{}")  # alone, its default stands


def test_keys_of_dicts() -> None:
    assert accepts(Constraint.fromType(dict[Colour, int], whitespace=False), '{"red":1}')
    assert not accepts(Constraint.fromType(dict[Colour, int], whitespace=False), '{"green":1}')
    assert not accepts(Constraint.fromType(dict[int, str], whitespace=False), '{"a":""}')
    with pytest.raises(TypeError, match="keys of the type tuple"):
        Constraint.fromType(dict[tuple[int, int], int])


def test_what_only_the_parser_can_check() -> None:
    pairs = Annotated[set[int], Field(min_length=2)]
    with pytest.raises(GrammarError, match="uniqueItems"):
        Constraint.fromType(pairs)
    late = Constraint.fromType(pairs, unenforced="check")
    assert late.parse("[1,2]") == {1, 2}
    with pytest.raises(ValueError, match="at least 2 items"):
        late.parse("[1,1]")
    with pytest.raises(TypeError, match="JSON inside a string"):
        Constraint.fromType(Json[int])


def test_formats_that_pydantic_refuses_are_not_written() -> None:
    long = Constraint.fromType(datetime.timedelta, whitespace=False)
    for text in ("P9999999999D", "PT9999999H", "P99999999Y"):
        assert not accepts(long, json.dumps(text))
    assert accepts(long, '"P1DT2H"')
    assert not accepts(Constraint.fromType(Decimal, whitespace=False), "1E400")


def test_an_object_of_a_dataclass_is_not_a_type() -> None:
    with pytest.raises(TypeError, match=r"expected a type, got ChatMessage\(.*pass the class itself"):
        Constraint.fromType(ChatMessage("user", "a"))
