"""The assistant's answer while it is generated: its parts, and the sampler that keeps it in its format."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from llama_cffi._core.user_warnings import warn
from llama_cffi.chat.answer_format import AnswerFormat
from llama_cffi.chat.events import ChatEvent, EventParser
from llama_cffi.chat.formatted_sampler import FormattedSampler
from llama_cffi.chat.thinking_budget import ThinkingBudget, ThoughtLimit
from llama_cffi.chat.tool_calls import ParsedAnswer, ToolCall
from llama_cffi.generation.async_steps import AsyncSteps
from llama_cffi.generation.generation import Generation
from llama_cffi.sampling.sampler import Sampler


class AnswerParts:
    """The parts of an answer: what `ChatAnswer` and the requests of `Engine.chat` have in common."""

    _format: AnswerFormat
    _taken: set[str]  # ids of calls in the history

    if TYPE_CHECKING:

        @property
        def text(self) -> str: ...

    @property
    def toolCalls(self) -> list[ToolCall]:
        """The tool calls in the answer: run them, and add each result to the history (`ChatSession.addToolResult`)."""
        return self._parsed().toolCalls

    @property
    def content(self) -> str:
        """The text without thoughts and tool calls."""
        return self._parsed().content

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered; "" with `reasoningFormat` "keep" or "drop"."""
        return self._parsed().reasoning

    @property
    def problems(self) -> list[str]:
        """Why text that looks like a tool call could not be parsed and stays in `content`."""
        return self._parsed().problems

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message for the history, in OpenAI's form."""
        return answer_message(self._parsed())

    def events(self) -> ChatEvents:
        """Iterate over the parts of the answer instead: pieces of reasoning, content and tool calls, each once.

        For `for` and `async for`. Text that will be part of a call is never yielded as content.
        """
        return ChatEvents(cast("Any", self))

    def _parsed(self) -> ParsedAnswer:
        return self._format.parse(self.text, taken=self._taken)


class ChatAnswer(AnswerParts, Generation):
    """The assistant's answer, as it is generated: a `Generation`. When it ends, it is added to the session's history.

    Iterating yields the text as the model writes it, with thoughts and tool calls; `events` yields its parts. A
    cancelled answer is added as far as it came. If it has no text at all, the message that it would have answered is
    removed instead. One that is dropped before it has begun changes nothing, and issues a RuntimeWarning.
    """

    _awaited = False  # `send` has returned it, and nobody has been told that it has not begun

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._warn_if_unread()

    def _warn_if_unread(self) -> None:
        """Warn once about an answer that was sent for, and never computed."""
        if self._awaited and not self._run.begun and not self.done and not self._run._cancelled:
            self._awaited = False
            warn(
                "a message was sent, but its answer was never computed: iterate over session.send(message), or call "
                "session.send(message).result()",
                RuntimeWarning,
            )

    def _follow(self, format: AnswerFormat, taken: set[str], limit: ThoughtLimit | None = None) -> None:
        """Keep the answer in a format. `taken` are the ids in the history, `limit` is that of a thought."""
        self._format, self._taken = format, taken
        run = self._run
        grammar = format.grammarSampler(run.model.vocab)
        if grammar is not None:
            sampler = FormattedSampler(grammar, format.begin, run.sampler, run.owns_sampler)
            run.sampler, run.owns_sampler = cast("Sampler", sampler), True
        if limit is not None:
            limited = ThinkingBudget(run.sampler, run.owns_sampler, limit)
            run.sampler, run.owns_sampler = cast("Sampler", limited), True


class _Pieces(Protocol):
    """An answer that is generated."""

    _format: AnswerFormat

    def __iter__(self) -> Iterator[str]: ...
    def cancel(self) -> None: ...


class ChatEvents(Iterator[ChatEvent]):
    """An iterator over the parts of an answer; `events` of an answer makes it."""

    _MADE_BY = "answer.events() makes one"

    def __init__(self, answer: _Pieces) -> None:
        """Not for users: `answer.events()` makes it."""
        self._answer = answer
        self._texts = iter(answer)
        self._parser = EventParser(answer._format)
        self._waiting: list[ChatEvent] = []
        self._ended = False

    def __next__(self) -> ChatEvent:
        while not self._waiting:
            if self._ended:
                raise StopIteration
            text = next(self._texts, None)
            self._ended = text is None
            found = self._parser.finish() if text is None else self._parser.feed(text)
            self._waiting = [*found][::-1]
        return self._waiting.pop()

    def __aiter__(self) -> AsyncSteps[ChatEvent]:
        return AsyncSteps(self, self._answer.cancel)


def answer_message(parsed: ParsedAnswer) -> dict[str, Any]:
    """Return the assistant's message for the history."""
    message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
    if parsed.reasoning:
        message["reasoning_content"] = parsed.reasoning
    if parsed.toolCalls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in parsed.toolCalls
        ]
    return message
