"""Parses tool calls in generated text, in the formats of several model families.

This serves builds without llama.cpp's chat code (`native.py`), which reads many more formats.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from llama_cffi._core.checks import expected
from llama_cffi._suggest import SuggestingEnum


class ToolFormat(enum.Enum, metaclass=SuggestingEnum):
    """The format in which a family of models writes tool calls."""

    HERMES = "hermes"
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many others."""
    LLAMA3 = "llama3"
    """`{"name": ..., "parameters": {...}}`, optionally after `<|python_tag|>`: Llama 3.1 and later."""
    MISTRAL = "mistral"
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`; newer models write `[TOOL_CALLS]name[ARGS]{...}`."""

    @classmethod
    def ofTemplate(cls, template: str) -> ToolFormat | None:
        """The format that the text of a chat template declares; None if it declares none, or an unknown one."""
        if "[TOOL_CALLS]" in template:
            return cls.MISTRAL
        if any(
            [tag in template for tag in ("<function=", "<arg_key>", "<invoke name=", "<tool_calls>")]
        ):  # other formats
            return None
        if "<tool_call>" in template:
            return cls.HERMES
        if "<|python_tag|>" in template or ("<|start_header_id|>" in template and "ipython" in template):
            return cls.LLAMA3
        return None


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool. `arguments` is what the model wrote: check it before you use it."""

    name: str
    arguments: dict[str, Any]
    id: str = ""
    """Identifies the call in the history: from the model, or made up."""


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer, split into its text and its tool calls."""

    content: str
    """The text without the calls. Calls that cannot be parsed stay in it."""
    toolCalls: list[ToolCall] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why text that looks like a call could not be parsed, one reason for each."""
    reasoning: str = ""
    """What the model thought before it answered."""


class AnswerParser(Protocol):
    """What `ChatTemplate.format` returns."""

    def parse(self, text: str, *, taken: Iterable[str] = ()) -> ParsedAnswer: ...


class _Unreadable(ValueError):
    """The text is not a valid call."""


def parseToolCalls(
    text: str,
    format: ToolFormat | AnswerParser | None,
    *,
    tools: Iterable[str] | None = None,
    taken: Iterable[str] = (),
) -> ParsedAnswer:
    """Split generated text into reasoning, content and tool calls. Invalid calls stay in the content.

    `problems` has a reason for each of them. `format` is what `ChatTemplate.format` returns, or one of the families of
    `ToolFormat`. `tools` are the names of the tools that were given: a call of another one stays text. Calls without an
    id get one that is not in `taken`.
    """
    if not isinstance(text, str):
        raise expected("a str", text, name="text")
    if format is not None and not isinstance(format, (ToolFormat, str)):
        if not hasattr(format, "parse"):
            raise expected("a ToolFormat or an AnswerFormat", format, "ChatTemplate.format makes one", "format")
        return format.parse(text, taken=taken)
    reasoning, rest = _split_thought(text)
    if format is None:
        return ParsedAnswer(rest, reasoning=reasoning)
    finder = {ToolFormat.HERMES: _hermes, ToolFormat.LLAMA3: _llama3, ToolFormat.MISTRAL: _mistral}[ToolFormat(format)]
    known = None if tools is None else set(tools)
    used = set(taken)
    calls: list[ToolCall] = []
    problems: list[str] = []
    kept: list[str] = []
    for found in finder(rest, known):
        if isinstance(found, str):
            kept.append(found)
        elif isinstance(found, ToolCall):
            calls.append(ToolCall(found.name, found.arguments, new_id(found.id, used)))
        else:
            problems.append(str(found))
    content = "".join(kept)
    return ParsedAnswer(content.strip() if calls else content, calls, problems, reasoning)


def new_id(given: str, taken: set[str]) -> str:
    """Return the id of a call, or another one if it is empty or taken; and take it."""
    number, found = len(taken), given
    while not found or found in taken:
        number += 1
        found = f"call{number:05}"
    taken.add(found)
    return found


_THOUGHT = re.compile(r"\s*(?:<think>|\[THINK\])?(.*?)(?:</think>|\[/THINK\])\s*", re.DOTALL)


def _split_thought(text: str) -> tuple[str, str]:
    """Split a thought from the text after it. The template may have opened it already; without its end, it is all."""
    found = _THOUGHT.match(text)
    if found is not None:
        return found[1].strip(), text[found.end() :]
    opened = re.match(r"\s*(?:<think>|\[THINK\])", text)
    return (text[opened.end() :].strip(), "") if opened else ("", text)


_Found = str | ToolCall | _Unreadable


def _hermes(text: str, tools: set[str] | None) -> Iterator[_Found]:
    place = 0
    for begin in re.finditer(r"<tool_call>\s*", text):
        if begin.start() < place:  # inside the arguments of the previous call
            continue
        yield text[place : begin.start()]
        try:
            calls, end = [], begin.end()
            while True:  # several objects may follow each other
                value, end = _json(text, end)
                calls.append(_call(value, tools))
                closing = re.compile(r"\s*(</tool_call>)?").match(text, end)
                assert closing is not None
                place = end = closing.end()
                if closing[1] or not text.startswith("{", end):
                    break
        except _Unreadable as problem:
            yield problem
            yield begin[0]
            place = begin.end()
            continue
        yield from calls
    yield text[place:]


def _llama3(text: str, tools: set[str] | None) -> Iterator[_Found]:
    before, tag, rest = text.partition("<|python_tag|>")
    body = rest if tag else text
    if not tag and not re.match(r"\s*\{\s*\"(name|type|function|parameters)\"", body):
        yield text
        return
    try:
        calls, place = [], 0
        while True:
            place = _skip(body, place, r"[\s;]*")
            if place == len(body):
                break
            value, place = _json(body, place)
            if not tag and isinstance(value, dict) and not ("arguments" in value or "parameters" in value):
                raise _Unreadable(f"a call has no arguments: {_shown(value)}")  # it is a text in JSON
            calls.append(_call(value, tools))
        if not calls:
            raise _Unreadable("nothing follows <|python_tag|>")
    except _Unreadable as problem:
        yield problem
        yield text
        return
    if tag:
        yield before
    yield from calls


def _mistral(text: str, tools: set[str] | None) -> Iterator[_Found]:
    place = 0
    for begin in re.finditer(r"\[TOOL_CALLS\]\s*", text):
        if begin.start() < place:
            continue
        yield text[place : begin.start()]
        try:
            calls, place = _mistral_calls(text, begin.end(), tools)
        except _Unreadable as problem:
            yield problem
            yield begin[0]
            place = begin.end()
            continue
        yield from calls
    yield text[place:]


def _mistral_calls(text: str, place: int, tools: set[str] | None) -> tuple[list[ToolCall], int]:
    named = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?\[ARGS\]\s*").match(text, place)
    if named is not None:
        arguments, end = _json(text, named.end())
        return [_call({"name": named[1], "arguments": arguments, "id": named[2]}, tools)], end
    values, end = _json(text, place)
    if values == []:
        raise _Unreadable("the list of calls is empty")
    return [_call(value, tools) for value in (values if isinstance(values, list) else [values])], end


def _skip(text: str, place: int, pattern: str) -> int:
    found = re.compile(pattern).match(text, place)
    return place if found is None else found.end()


def _json(text: str, place: int) -> tuple[Any, int]:
    """Parse the JSON value at an index. Returns it and the index after it.

    It is parsed from the next few characters, and from more of them where these end within it: for an error, Python's
    decoder counts the lines of all it was given, which takes quadratic time in a text of many invalid calls.
    """
    size = _WINDOW
    while True:
        part = text[place : place + size]
        whole = place + size >= len(text)
        try:
            value, end = _DECODER.raw_decode(part)
            if whole or end < len(part):  # else it may be a number that goes on
                return value, place + end
        except json.JSONDecodeError as error:
            if whole or not (error.msg.startswith("Unterminated") or error.pos > len(part) - _LONGEST_WORD):
                raise _unreadable(part, error.msg) from None
        except (ValueError, RecursionError) as error:
            raise _unreadable(part, str(error)) from None
        size *= 4


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse)
_WINDOW = 512  # characters
_LONGEST_WORD = 16  # characters: -Infinity, and an escape in a text


def _unreadable(part: str, why: str) -> _Unreadable:
    return _Unreadable(f"a call has invalid JSON at {part[:40]!r}: {why}")


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:80]
    except RecursionError:
        return "a value that is nested too deep"


def _call(value: Any, tools: set[str] | None) -> ToolCall:
    """Make a call from its JSON value, of one of these tools."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = {**value, **value["function"]}
    name = value.get("name", value.get("function")) if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        raise _Unreadable(f"a call has no tool name: {_shown(value)}")
    if tools is not None and name not in tools:
        raise _Unreadable(f"{name!r} is not one of the tools: {', '.join(sorted(tools))}")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # JSON in JSON
        arguments = _json(arguments, 0)[0] if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _Unreadable(f"the arguments of {name} are not an object: {_shown(arguments)}")
    identity = value.get("id")
    return ToolCall(name, arguments, identity if isinstance(identity, str) else "")
