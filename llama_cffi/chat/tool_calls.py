"""Tool calls in what a model wrote, in the ways of the template families that declare them."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class ToolFormat(enum.Enum):
    """How a family of models writes the call of a tool."""

    HERMES = "hermes"
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many others."""
    LLAMA3 = "llama3"
    """`{"name": ..., "parameters": {...}}`, maybe after `<|python_tag|>`: Llama 3.1 and later."""
    MISTRAL = "mistral"
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}]`, and of newer ones `[TOOL_CALLS]name[ARGS]{...}`."""

    @classmethod
    def ofTemplate(cls, template: str) -> ToolFormat | None:
        """The format that the text of a chat template declares; None for none, and for one that is not known here."""
        if "[TOOL_CALLS]" in template:
            return cls.MISTRAL
        if any(tag in template for tag in ("<function=", "<arg_key>", "<invoke name=")):  # in place of JSON
            return None
        if "<tool_call>" in template:
            return cls.HERMES
        if "<|python_tag|>" in template or ("<|start_header_id|>" in template and "ipython" in template):
            return cls.LLAMA3
        return None


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants called. `arguments` is what it wrote: check it before you use it."""

    name: str
    arguments: dict[str, Any]
    id: str = ""
    """Which call it is, for the result: the model's own word, or one made up."""


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer, taken apart."""

    content: str
    """The text without the calls; what looks like a call and cannot be read stays in it."""
    toolCalls: list[ToolCall] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why something that looks like a call was left in the text."""


class _Unreadable(ValueError):
    """What stands there is no call."""


def parseToolCalls(text: str, format: ToolFormat | None) -> ParsedAnswer:
    """Take the tool calls out of what a model wrote. A pure function; broken calls stay in the text, with a reason."""
    if not isinstance(text, str):
        raise TypeError(f"text is a str, not {type(text).__name__}")
    if format is None:
        return ParsedAnswer(text)
    finder = {ToolFormat.HERMES: _hermes, ToolFormat.LLAMA3: _llama3, ToolFormat.MISTRAL: _mistral}[ToolFormat(format)]
    calls: list[ToolCall] = []
    problems: list[str] = []
    kept: list[str] = []
    for found in finder(text):
        if isinstance(found, str):
            kept.append(found)
        elif isinstance(found, ToolCall):
            calls.append(found)
        else:
            problems.append(str(found))
    content = "".join(kept)
    if calls:
        content = content.strip()
        calls = [ToolCall(c.name, c.arguments, c.id or f"call{n:05}") for n, c in enumerate(calls, 1)]
    return ParsedAnswer(content, calls, problems)


_Found = str | ToolCall | _Unreadable


def _hermes(text: str) -> Iterator[_Found]:
    place = 0
    for begin in re.finditer(r"<tool_call>\s*", text):
        if begin.start() < place:  # within the arguments of the call before
            continue
        yield text[place : begin.start()]
        try:
            value, end = _json(text, begin.end())
            call = _call(value)
        except _Unreadable as problem:
            yield problem
            yield begin[0]
            place = begin.end()
            continue
        yield call
        closing = re.compile(r"\s*(</tool_call>)?").match(text, end)
        assert closing is not None
        place = closing.end()
    yield text[place:]


def _llama3(text: str) -> Iterator[_Found]:
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
            calls.append(_call(value))
        if not calls:
            raise _Unreadable("nothing follows <|python_tag|>")
    except _Unreadable as problem:
        yield problem
        yield text
        return
    if tag:
        yield before
    yield from calls


def _mistral(text: str) -> Iterator[_Found]:
    place = 0
    for begin in re.finditer(r"\[TOOL_CALLS\]\s*", text):
        if begin.start() < place:
            continue
        yield text[place : begin.start()]
        try:
            calls, place = _mistral_calls(text, begin.end())
        except _Unreadable as problem:
            yield problem
            yield begin[0]
            place = begin.end()
            continue
        yield from calls
    yield text[place:]


def _mistral_calls(text: str, place: int) -> tuple[list[ToolCall], int]:
    named = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?\[ARGS\]\s*").match(text, place)
    if named is not None:
        arguments, end = _json(text, named.end())
        return [_call({"name": named[1], "arguments": arguments, "id": named[2]})], end
    values, end = _json(text, place)
    return [_call(value) for value in (values if isinstance(values, list) else [values])], end


def _skip(text: str, place: int, pattern: str) -> int:
    found = re.compile(pattern).match(text, place)
    return place if found is None else found.end()


def _json(text: str, place: int) -> tuple[Any, int]:
    """A JSON value in a text, and where it ends."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        shown = text[place : place + 40]
        raise _Unreadable(f"no JSON of a call at {shown!r}: {error}") from None


def _call(value: Any) -> ToolCall:
    """A call from what the model wrote as one."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = {**value, **value["function"]}
    name = value.get("name", value.get("function")) if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        raise _Unreadable(f"a call names no tool: {json.dumps(value)[:80]}")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # JSON in JSON
        arguments = _json(arguments, 0)[0] if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _Unreadable(f"the arguments of {name} are no object: {json.dumps(arguments)[:80]}")
    identity = value.get("id")
    return ToolCall(name, arguments, identity if isinstance(identity, str) else "")
