"""Constraints hold for a model with random weights, and their errors say what is not supported."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union

import jsonschema
import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from benchmarks import constraints
from llama_cffi import Constraint, Context, Generation, GrammarError, Model, Sampler, StopReason

Write = Callable[..., str]


def test_every_run_is_valid(tiny: Model) -> None:
    """A smaller number of the thousand that the benchmark does."""
    results = list(constraints.runs(tiny, range(64)))
    assert [(name, text, wrong) for name, text, wrong in results if wrong] == []
    assert {name for name, _, _ in results} == {*constraints.SCHEMAS}
    assert len({text for _, text, _ in results}) > 50


# JSON Schema


def test_a_schema_as_text_and_what_it_gives(write: Write) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    constraint = Constraint.fromJsonSchema(json.dumps(schema))
    assert constraint.schema == schema
    assert constraint.parse(write(constraint))["a"] in (True, False)
    with pytest.raises(ValueError, match="JSON, was it cut off"):
        constraint.parse('{"a": tr')


def test_white_space(write: Write) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 4, "maxItems": 4}
    compact = Constraint.fromJsonSchema(schema, whitespace=False)
    assert all(re.fullmatch(r"\[[12],[12],[12],[12]\]", write(compact, seed)) for seed in range(5))
    texts = [write(Constraint.fromJsonSchema(schema), seed) for seed in range(5)]
    assert any(re.search(r"\s", text) for text in texts)
    assert max(map(len, texts)) < 250


def test_limits_for_what_has_none(write: Write) -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "short": {"type": "string", "maxLength": 2},
            "long": {"type": "string", "minLength": 9},
            "list": {"type": "array", "items": {"type": "string"}},
            "map": {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 3},
        },
        "required": ["text", "short", "long", "list", "map"],
        "additionalProperties": False,
    }
    constraint = Constraint.fromJsonSchema(schema, maxLength=5, maxItems=2)
    assert "maxLength" not in schema["properties"]["text"]  # type: ignore[index]
    for seed in range(8):
        value = constraint.parse(write(constraint, seed))
        jsonschema.validate(value, schema)
        assert len(value["text"]) <= 5 and len(value["short"]) <= 2 and len(value["long"]) == 9
        assert len(value["list"]) <= 2 and all(len(item) <= 5 for item in value["list"])
        assert all(len(name) <= 5 for name in value["map"])


@pytest.mark.parametrize("format", ["date", "date-time", "time"])
def test_dates_exist(write: Write, format: str) -> None:
    constraint = Constraint.fromJsonSchema({"type": "string", "format": format})
    read: Any = {"date": datetime.date, "date-time": datetime.datetime, "time": datetime.time}[format]
    for seed in range(30):
        text = constraint.parse(write(constraint, seed))
        read.fromisoformat(re.sub(r"\.(\d+)", lambda m: "." + m[1].ljust(6, "0"), text.upper()).replace("Z", "+00:00"))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"not": {"pattern": "a"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "greater than maximum"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        (False, "cannot be enforced"),
    ],
)
def test_what_cannot_be_kept_to_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        Constraint.fromJsonSchema(schema)


def test_wrong_arguments(tiny: Model) -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        Constraint.fromJsonSchema("{")
    with pytest.raises(TypeError, match="dict, a bool or JSON text"):
        Constraint.fromJsonSchema([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="maxLength"):
        Constraint.fromJsonSchema({}, maxLength=-1)
    with pytest.raises(TypeError, match="fromJsonSchema"):
        Constraint()
    with pytest.raises(TypeError, match=r"model\.vocab"):
        Constraint.fromJsonSchema({}).sampler(tiny)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text.*str, got bytes"):
        Constraint.fromRegex("a").parse(b"a")  # type: ignore[arg-type]


# Types


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Row(TypedDict):
    name: str
    size: int


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    loud: bool = True


class Tree(BaseModel):
    name: str
    children: list[Tree] = Field(default=[], max_length=1)


class Everything(BaseModel):
    colour: Colour
    point: Point
    row: Row
    maybe: Optional[int]  # noqa: UP045
    either: Union[bool, str]  # noqa: UP007
    several: list[Point]
    table: dict[str, int] = Field(max_length=3)
    pair: tuple[int, str]
    chosen: set[Literal["a", "b"]]
    nothing: None
    day: datetime.date
    price: Annotated[Decimal, Field(ge=0, le=100)]
    pet: Cat | Dog = Field(discriminator="kind")


@pytest.mark.parametrize(
    "kind",
    [
        Colour, Point, Row, Cat, Tree, Everything, int, float, str, bool, Literal[1, "one"],
        Optional[int], int | str,  # noqa: UP045
        list[Point], dict[str, int], tuple[int, str], None,
    ],
)  # fmt: skip
def test_a_type_and_its_values(write: Write, kind: Any) -> None:
    from pydantic import TypeAdapter

    constraint = Constraint.fromType(kind, maxLength=8, maxItems=3)
    for seed in range(3):
        text = write(constraint, seed)
        value = constraint.parse(text)
        assert TypeAdapter(kind).validate_python(value) == value or value != value
        jsonschema.validate(json.loads(text), constraint.schema)
    if kind in (Point, Cat, Tree, Everything, Colour):
        assert isinstance(value, kind)


def test_a_check_in_python_is_the_parsers(write: Write) -> None:
    class Even(BaseModel):
        number: int = Field(ge=0, le=9)

        @field_validator("number")
        @classmethod
        def even(cls, number: int) -> int:
            if number % 2:
                raise ValueError("odd")
            return number

    constraint = Constraint.fromType(Even)
    assert constraint.parse('{"number": 4}').number == 4
    with pytest.raises(ValidationError, match="odd"):
        constraint.parse('{"number": 5}')
    assert repr(constraint) == "<Constraint Even>"


def test_types_that_have_no_schema() -> None:
    class Plain:
        pass

    for kind in (Plain, Callable[[int], int]):
        with pytest.raises(TypeError, match=r"schema|Schema"):
            Constraint.fromType(kind)


def test_types_that_are_not_defined() -> None:
    @dataclasses.dataclass
    class Node:
        child: Missing  # type: ignore[name-defined]  # noqa: F821

    for kind in ("Missing", list["Missing"], Node):  # type: ignore[name-defined]  # noqa: F821
        with pytest.raises(TypeError, match=r"not (fully )?defined"):
            Constraint.fromType(kind)


# Texts


def test_a_regular_expression(write: Write) -> None:
    constraint = Constraint.fromRegex(r"[a-c]{2,5}(-[0-9]+){1,2}")
    for seed in range(5):
        text = write(constraint, seed)
        assert re.fullmatch(r"[a-c]{2,5}(-[0-9]+){1,2}", text)
        assert constraint.parse(text) == text
    assert constraint.schema is None
    with pytest.raises(GrammarError, match="look-around"):
        Constraint.fromRegex("a(?=b)")


def test_a_lark_grammar(write: Write) -> None:
    constraint = Constraint.fromLark('start: "<" NAME ("," NAME){0,2} ">"\nNAME: /[a-z]{1,4}/\n')
    for seed in range(5):
        assert re.fullmatch(r"<[a-z]{1,4}(,[a-z]{1,4}){0,2}>", write(constraint, seed))
    with pytest.raises(GrammarError, match="unknown name"):
        Constraint.fromLark("start: missing")


def test_gbnf_is_llama_cpps(tiny: Model, write: Write) -> None:
    constraint = Constraint.fromGbnf('top ::= "yes" | "no" "!"?', root="top")
    assert {write(constraint, seed) for seed in range(12)} == {"yes", "no", "no!"}
    assert constraint.sampler(tiny.vocab).name == "grammar"
    assert constraint.parse("yes") == "yes"
    with pytest.raises(GrammarError, match="cannot parse this grammar"):
        Constraint.fromGbnf("root ::= missing").sampler(tiny.vocab)
    with pytest.raises(ValueError, match="empty"):
        Constraint.fromGbnf(" ")


# Without the extra


@pytest.mark.parametrize(
    ("missing", "call"),
    [("llguidance", "fromRegex('a')"), ("numpy", "fromJsonSchema({})"), ("pydantic", "fromType(int)")],
)
def test_what_is_missing_is_named(missing: str, call: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from llama_cffi import Constraint; Constraint.{call}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert missing in last.split("pip install ")[1].split(), result.stderr


def test_gbnf_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules.update(llguidance=None, numpy=None, pydantic=None); from llama_cffi import Constraint;"
        " print(Constraint.fromGbnf('root ::= \"a\"'))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "<Constraint GBNF>\n"


def test_gemma_writes_a_person(gemma: Model) -> None:
    class Person(BaseModel):
        name: str = Field(max_length=40)
        age: int = Field(ge=0, le=150)

    constraint = Constraint.fromType(Person)
    with Context.initFromModel(gemma, Context.Params(nCtx=256)) as ctx:
        from llama_cffi import tokenize

        chain = constraint.chain(gemma.vocab, Sampler.initGreedy())
        prompt = tokenize(gemma.vocab, "Ada Lovelace was 36 years old. As JSON: ")
        text, ended = constraints.write(ctx, chain, prompt, 100)
    assert ended
    person = constraint.parse(text)
    assert "Ada" in person.name and 0 <= person.age <= 150


def test_a_generation_under_a_constraint(room: Context) -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 5}
    constraint = Constraint.fromJsonSchema(schema)
    chain = constraint.chain(room.getModel().vocab, Sampler.initDist(3))
    texts = []
    for _ in range(2):  # a generation resets its sampler
        generation = Generation(room, "hello", sampler=chain, maxTokens=200)
        texts.append("".join(generation))
        assert generation.stopReason is StopReason.END
        assert all(0 <= number <= 99 for number in constraint.parse(texts[-1]))
    assert texts[0] == texts[1]
    cut = Generation(room, "hello", sampler=chain, maxTokens=1)
    with pytest.raises(ValueError, match="was it cut off"):
        constraint.parse("".join(cut))
    assert cut.stopReason is StopReason.LENGTH
