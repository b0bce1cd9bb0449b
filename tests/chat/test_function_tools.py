"""Python functions as tools: what the model is told about them, and what cannot be described."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest

from llama_cffi import ChatSession, ChatTemplate, Context, Engine, Model, Sampler
from llama_cffi.chat import native
from llama_cffi.chat.function_tool import tool_of
from tests.chat.test_answers import ASK, CALL, TEMPLATE, Copied


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather of a city.

    It is made up.

    Args:
        city: Its name
        days (int): How many days ahead

    Returns:
        A sentence.
    """
    return f"{days} degrees {unit} in {city}"


WEATHER = {
    "name": "weather",
    "description": "Tell the weather of a city.\n\nIt is made up.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name"},
            "days": {"type": "integer", "description": "How many days ahead"},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city"],
    },
}


def test_name_docstring_and_types() -> None:
    assert tool_of(weather) == WEATHER


class Shop:
    def find(self, words: list[str], most: float | None = None, filters: Optional[dict[str, bool]] = None) -> Any:  # noqa: UP045
        """Find goods.

        :param words: What to look for
        """


async def later(what: Any, more: Annotated[dict, "anything"], many: list, mixed: Literal[1, "a", None]) -> None: ...  # type: ignore[type-arg]


def nothing() -> None: ...


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            Shop().find,
            {
                "words": {"type": "array", "items": {"type": "string"}, "description": "What to look for"},
                "most": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "filters": {
                    "anyOf": [{"type": "object", "additionalProperties": {"type": "boolean"}}, {"type": "null"}]
                },
            },
        ),
        (
            later,
            {
                "what": {},
                "more": {"type": "object", "description": "anything"},
                "many": {"type": "array"},
                "mixed": {"enum": [1, "a", None]},
            },
        ),
        (nothing, {}),
    ],
    ids=["method", "async", "no parameters"],
)
def test_types_of_python(function: Callable[..., Any], expected: dict[str, Any]) -> None:
    assert tool_of(function)["parameters"]["properties"] == expected


@dataclass
class Place:
    name: str
    height: float = 0.0


def travel(start: Place, stops: tuple[Place, ...] = (), by: Annotated[str, "a vehicle"] = "train") -> None:
    """Plan a journey."""


def test_types_that_pydantic_knows(tiny: Model) -> None:
    found = tool_of(travel)["parameters"]
    assert found["required"] == ["start"] and set(found["properties"]) == {"start", "stops", "by"}
    reference = found["properties"]["start"]["$ref"]
    assert reference == "#/$defs/Place" and set(found["$defs"]["Place"]["properties"]) == {"name", "height"}
    if native.available():
        form = ChatTemplate(tiny, TEMPLATE).format(ASK, tools=[travel], toolChoice="required")
        assert "height" in form.grammar


def plain(city):  # type: ignore[no-untyped-def]
    return city


def partly(city: str, days=3):  # type: ignore[no-untyped-def]
    return city, days


def many(*cities: str) -> None: ...


def named(**cities: str) -> None: ...


def placed(city: str, /) -> None: ...


def unknown(city: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


def foreign(city: Callable[[], int]) -> None: ...


class Called:
    def __call__(self, city: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (plain, r"plain.*city has no type: write city: str"),
        (partly, r"partly.*days has no type: write days: str"),
        (many, r"many.*cities.*def many\(cities: str\)"),
        (named, r"named.*cities.*def named"),
        (placed, r"placed.*city.*by its name"),
        (unknown, r"unknown.*'Nowhere'"),
        (foreign, r"the tool foreign"),
        (Called(), r"expected a function or a dict, got Called: write def"),
        (Place, r"expected a function or a dict, got the class Place"),
        (functools.partial(weather, "Bern"), r"expected a function or a dict, got partial"),
        (dict.fromkeys, r"fromkeys"),
    ],
)
def test_what_cannot_be_described(tiny: Model, function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        ChatTemplate(tiny, TEMPLATE).render(ASK, tools=[function])


def test_the_name_of_a_lambda(tiny: Model) -> None:
    with pytest.raises(ValueError, match="name of a tool.*64.*'<lambda>'"):
        ChatTemplate(tiny, TEMPLATE).render(ASK, tools=[lambda: 1])


@pytest.mark.parametrize("name", ["", "a b", "a\n", 'say"', "f()", "x" * 65])
def test_names_of_tools(tiny: Model, name: str) -> None:
    with pytest.raises(ValueError, match="name of a tool must have 1 to 64 characters"):
        ChatTemplate(tiny, TEMPLATE).render(ASK, tools=[{"name": name}])


@pytest.mark.parametrize("tools", [WEATHER, weather, "weather", 3])
def test_one_tool_is_not_a_list(ctx: Context, tiny: Model, tools: Any) -> None:
    words = f"tools: expected a list of tools, got {type(tools).__name__}: write tools=\\[tool\\]"
    with pytest.raises(TypeError, match=words):
        ChatSession(ctx, template=TEMPLATE, tools=tools)
    with pytest.raises(TypeError, match=words):
        ChatTemplate(tiny, TEMPLATE).render(ASK, tools=tools)


def test_a_wrong_tool_in_a_list(ctx: Context) -> None:
    with pytest.raises(TypeError, match="a function or a dict, got int: pass def weather"):
        ChatSession(ctx, template=TEMPLATE, tools=[3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match='a tool needs a name.*write {"name": "weather"'):
        ChatSession(ctx, template=TEMPLATE, tools=[{"description": "of nothing"}])


def test_functions_and_dicts_describe_the_same(tiny: Model) -> None:
    template = ChatTemplate(tiny, TEMPLATE)
    assert template.render(ASK, tools=[weather]) == template.render(ASK, tools=[WEATHER])


@pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")
def test_a_session_and_an_engine_take_functions(tiny: Model, tmp_path: Path) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=1024, nThreads=2)) as ctx:
        session = ChatSession(ctx, template=TEMPLATE, tools=[weather])
        with Sampler.init(Copied(tiny, CALL, "Cold.")) as sampler:
            answer = session.send("What is it like in Bern?", sampler=sampler)
            answer.result()
            (call,) = answer.toolCalls
            assert weather(**call.arguments) == "1 degrees C in Bern"
            session.addToolResult(call, weather(**call.arguments))
            assert session.send(sampler=sampler).result().strip() == "Cold."
        session.tools.append(nothing)  # type: ignore[arg-type]
        session.save(tmp_path / "a.session")
        loaded = ChatSession.load(ctx, tmp_path / "a.session", template=TEMPLATE)
        assert json.loads(json.dumps(loaded.tools))[0]["function"] == WEATHER and len(loaded.tools) == 2
    with Engine(tiny, nCtx=1024, nSeqMax=1, nThreads=1) as engine, Sampler.init(Copied(tiny, CALL)) as sampler:
        request = engine.chat(ASK, template=TEMPLATE, tools=[weather], sampler=sampler)
        request.result()
        assert [weather(**call.arguments) for call in request.toolCalls] == ["1 degrees C in Bern"]
