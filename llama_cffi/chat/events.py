"""The parts of an answer while it is generated: pieces of reasoning, of content, and of tool calls, each once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llama_cffi.chat.answer_format import AnswerFormat

_AGAIN = 128  # the text is parsed again once it has grown by a part of this size: the time stays linear


@dataclass(frozen=True)
class ChatEvent:
    """A piece of an answer, while it is generated."""

    kind: Literal["reasoning", "content", "call", "arguments"]
    """What `text` is a piece of. "call": a tool call begins, with its name; "arguments": JSON text of its arguments."""
    text: str = ""
    """Text to append to what came before; "" for a "call"."""
    index: int = 0
    """The number of the call, from 0."""
    name: str = ""
    """The tool's name, for "call" and "arguments"."""
    id: str = ""
    """The id that the model gave the call, often ""."""


class EventParser:
    """Parses an answer again and again while it grows, and returns what is new.

    Text that must be content as it is, by what came before and by its characters, is not parsed.

    Nothing that was returned is taken back: a piece waits until the parser is sure of it.
    """

    def __init__(self, format: AnswerFormat) -> None:
        self._format = format
        self._parts: list[str] = []
        self._plain: list[str] = []  # parts since the last parse, which were yielded as they are
        self._size = 0  # characters of the text
        self._parsed = 0  # characters that the last parse has seen
        self._goes_on = format._marks is not None and not format._tail  # the content goes on as the text does
        self._reasoning = self._content = ""
        self._calls: list[str] = []  # the arguments of each call so far

    def feed(self, text: str) -> Iterator[ChatEvent]:
        """Add generated text, and yield the pieces that it completes."""
        plain = self.is_plain(text)
        self._parts.append(text)
        self._size += len(text)
        if plain:
            self._plain.append(text)
            if text:
                yield ChatEvent("content", text)
        elif text:
            self._goes_on = False  # what follows must not overtake this text
            if self._size - self._parsed > self._parsed // _AGAIN:
                yield from self._parse(partial=True)

    def is_plain(self, text: str) -> bool:
        """Return True if the next text is content as it is, so that `feed` parses nothing."""
        marks = self._format._marks
        return self._goes_on and marks is not None and not any([mark in text for mark in marks])

    def finish(self) -> Iterator[ChatEvent]:
        """Yield the rest, at the end of the text."""
        yield from self._parse(partial=False)

    def _parse(self, partial: bool) -> Iterator[ChatEvent]:
        text = "".join(self._parts)
        self._content += "".join(self._plain)
        self._parts, self._plain, self._parsed, self._goes_on = [text], [], self._size, False
        try:
            reasoning, content, calls = self._format.pieces(text, partial)
        except ValueError:
            if partial:
                return  # more text may make it readable; if not, `finish` yields it as content
            found = self._format.parse(text)
            reasoning, content, calls = found.reasoning, found.content, []
            if self._calls or not content.startswith(self._content):  # parts of it are out already
                return
        yield from self._grown("reasoning", self._reasoning, reasoning)
        yield from self._grown("content", self._content, content)
        if reasoning.startswith(self._reasoning):
            self._reasoning = reasoning
        if content.startswith(self._content):
            self._content = content
            begun = content != "" if self._format._tail else content == text
            self._goes_on = partial and begun and self._format._marks is not None
        for index, (name, arguments, identity) in enumerate(calls):
            if index == len(self._calls):
                if not name:
                    return
                self._calls.append("")
                yield ChatEvent("call", "", index, name, identity)
            known = self._calls[index]
            if arguments.startswith(known) and len(arguments) > len(known):
                self._calls[index] = arguments
                yield ChatEvent("arguments", arguments[len(known) :], index, name)

    @staticmethod
    def _grown(kind: Literal["reasoning", "content"], known: str, now: str) -> Iterator[ChatEvent]:
        if now.startswith(known) and len(now) > len(known):
            yield ChatEvent(kind, now[len(known) :])
