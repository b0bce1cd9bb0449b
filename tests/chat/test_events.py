"""The parts of a streamed answer: plain text is passed on without a parse, with the result of one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llama_cffi import AnswerFormat, ChatTemplate, Model
from llama_cffi.chat import native
from llama_cffi.chat.answer_format import REASONING
from llama_cffi.chat.events import ChatEvent, EventParser
from tests.chat.test_answers import TEMPLATE, WEATHER

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": WEATHER}
WORDS = (
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    " ",
    "\n",
    "a",
    "[1]",
    "x > y",
    "<",
    ">",
    "]",
    "\u00e9",
    "</thi",
    "nk>",
)

native_only = pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")


def _events(form: AnswerFormat, pieces: list[str]) -> list[list[ChatEvent]]:
    parser = EventParser(form)
    return [list(parser.feed(piece)) for piece in pieces] + [list(parser.finish())]


def _count(form: AnswerFormat, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are parsed from now on."""
    parsed: list[str] = []
    parse = AnswerFormat.pieces

    def counted(self: AnswerFormat, text: str, partial: bool) -> Any:
        parsed.append(text)
        return parse(self, text, partial)

    monkeypatch.setattr(AnswerFormat, "pieces", counted)
    return parsed


@native_only
def test_plain_text_is_parsed_once(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    form = ChatTemplate(smol).format(HELLO)  # the model's own template, without thoughts and tools
    parsed = _count(form, monkeypatch)
    pieces = ["1 < 2, ", "3 > 2 ", "", "<think>x</think>", "[1]"] * 400
    events = _events(form, pieces)
    assert [[event.text for event in found] for found in events[:-1]] == [[piece] if piece else [] for piece in pieces]
    assert {event.kind for found in events for event in found} == {"content"} and events[-1] == []
    assert parsed == ["".join(pieces)]


@native_only
def test_content_after_a_thought_is_not_parsed(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    form = ChatTemplate(smol, TEMPLATE).format(HELLO)
    parsed = _count(form, monkeypatch)
    pieces = ["<think>", "a", "</think>", "b", *["<word> "] * 100]
    found = [event for events in _events(form, pieces) for event in events]
    assert "".join(event.text for event in found if event.kind == "reasoning") == "a"
    assert "".join(event.text for event in found if event.kind == "content") == "b" + "<word> " * 100
    assert len(parsed) == 5  # each of the first four pieces, and the end


def test_text_between_marks_is_not_parsed(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    form = ChatTemplate(smol, "chatml").format(HELLO)
    parsed = _count(form, monkeypatch)
    pieces = ["word "] * 100 + ["a[1]"] + ["word "] * 100
    assert "".join(event.text for found in _events(form, pieces) for event in found) == "".join(pieces)
    assert len(parsed) == 2  # after the bracket, and at the end


@pytest.mark.parametrize("reasoning", REASONING)
@pytest.mark.parametrize("name", ["chatml", "own", "thinking", "tools", "continued"])
def test_the_events_are_those_of_parses(
    smol: Model, name: str, reasoning: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "chatml" and not native.available():
        pytest.skip("this llama.cpp's chat code has another interface")
    source = {"chatml": "chatml", "own": None, "continued": None}.get(name, TEMPLATE)
    options: dict[str, Any] = {"tools": [TOOL]} if name == "tools" else {}
    messages = HELLO
    if name == "continued":
        messages, options = [*HELLO, {"role": "assistant", "content": "I "}], {"continueLast": True}
    form = ChatTemplate(smol, source).format(messages, reasoningFormat=reasoning, **options)
    chance = random.Random(name)
    texts = [[chance.choice(WORDS) for _ in range(chance.randrange(1, 12))] for _ in range(300)]
    found = [_events(form, pieces) for pieces in texts]
    monkeypatch.setattr(form, "_marks", None)
    assert found == [_events(form, pieces) for pieces in texts]


@pytest.mark.parametrize("name", ["chatml", "thinking"])
def test_long_texts_stay_in_order(smol: Model, name: str) -> None:
    if name == "thinking" and not native.available():
        pytest.skip("this llama.cpp's chat code has another interface")
    form = ChatTemplate(smol, TEMPLATE if name == "thinking" else name).format(HELLO)
    chance = random.Random(1)
    marks = ["[1]", "x > y", "<", ">", "]", " ", "a", "\n"]
    texts = [["word " * 120, *(chance.choice(marks) for _ in range(40))] for _ in range(30)]
    for pieces in texts:
        found = [event for events in _events(form, pieces) for event in events]
        assert "".join(event.text for event in found) == "".join(pieces)
