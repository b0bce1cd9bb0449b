"""Conversations: a history, and what the context's memory holds of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.checks import expected
from llama_cffi.chat.template import ChatTemplate, Message
from llama_cffi.chat.tool_calls import ParsedAnswer, ToolCall, ToolFormat, parseToolCalls
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, ContextFullError
from llama_cffi.generation.generation import Generation
from llama_cffi.generation.run import Run
from llama_cffi.generation.steps import StopReason
from llama_cffi.generation.token_cache import room_of
from llama_cffi.sampling.sampler import Sampler


class ChatAnswer(Generation):
    """The assistant's answer while it comes: a `Generation`. When it ends, it is part of the session's history.

    An answer that was cancelled is part of it as far as it came; where nothing came, neither is the message that it
    would have answered.
    """

    _format: ToolFormat | None
    _tools: bool  # whether the model was told of some

    @property
    def toolCalls(self) -> list[ToolCall]:
        """The tools that the model wants called: do that, give the results to `addToolResult`, and `send()`."""
        return self._parsed().toolCalls

    @property
    def content(self) -> str:
        """The text without the calls of tools."""
        return self._parsed().content

    @property
    def problems(self) -> list[str]:
        """Why something that looks like a call was left in the text."""
        return self._parsed().problems

    def _parsed(self) -> ParsedAnswer:
        if self._tools and self._format is None:
            return ParsedAnswer(self.text, problems=["how this model writes calls of tools is not known here"])
        return parseToolCalls(self.text, self._format)


class ChatSession:
    """A conversation in one sequence of a context. A turn decodes only what is new in it.

    `messages` is the history, as dicts with `role` and `content`; it may be edited between turns: what the memory
    shares with the new text is kept.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        system: str | None = None,
        template: ChatTemplate | str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        overflow: Literal["error", "drop"] = "error",
        seqId: SeqId = 0,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """`template` None takes the model's own; a str is what `ChatTemplate` takes. `tools` and `variables` are what
        its `render` takes.

        When the conversation does not fit the context, "error" raises ContextFullError, and "drop" removes the oldest
        turns from the history, though neither the system message nor the newest turn; `dropped` has them then.
        """
        if not isinstance(ctx, Context):
            raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
        if overflow not in ("error", "drop"):
            raise ValueError(f'overflow is "error" or "drop", not {overflow!r}')
        self._context, self._seqId, self._overflow = ctx, seqId, overflow
        self.template = template if isinstance(template, ChatTemplate) else ChatTemplate(ctx.getModel(), template)
        self._answering = False
        self.messages = []
        self.dropped = []
        self.variables = dict(variables or {})
        self.tools = list(tools)
        if self.tools and not self.template.takesTools:
            raise ValueError("this chat template does not tell the model of tools: leave tools out")
        self.system = system

    template: ChatTemplate
    messages: list[dict[str, Any]]
    """The history, the system message first, if there is one."""
    dropped: list[dict[str, Any]]
    """What was removed from the history for want of room."""
    tools: list[Mapping[str, Any]]
    """What the model may want called."""
    variables: dict[str, Any]
    """The template's own variables."""

    @property
    def system(self) -> str | None:
        """What the model is told before the conversation; None for nothing."""
        return self.messages[0]["content"] if self._begins() else None

    @system.setter
    def system(self, text: str | None) -> None:
        if text is not None and not isinstance(text, str):
            raise TypeError(f"system is a str or None, not {type(text).__name__}")
        del self.messages[: self._begins()]
        if text is not None:
            self.messages.insert(0, {"role": "system", "content": text})

    def _begins(self) -> int:
        """The index of the first message that is not the system's."""
        return int(bool(self.messages) and self.messages[0].get("role") == "system")

    def send(
        self,
        message: str | Mapping[str, Any] | None = None,
        *,
        sampler: Sampler | None = None,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        logProbs: int | None = None,
    ) -> ChatAnswer:
        """Send a message, and iterate over the answer. None has the model answer what is in the history already.

        A str is the user's. The other parameters are those of `Generation`. Raises ContextFullError where the
        conversation does not fit, ValueError where the template refuses it; the history is then as before.
        """
        self._require_idle()
        new = [] if message is None else [_as_message(message)]
        if not self.messages[self._begins() :] + new:
            raise ValueError("there is nothing to answer: send a message")
        tokens, dropped = self._fit(new, maxTokens)
        tool_format = self.template.toolFormat if self.tools else None
        answer = ChatAnswer(
            self._context,
            tokens,
            sampler=sampler,
            maxTokens=maxTokens,
            stop=stop,
            logProbs=logProbs,
            seqId=self._seqId,
            special=tool_format in (ToolFormat.LLAMA3, ToolFormat.MISTRAL),  # their marks are control tokens
        )
        answer._format, answer._tools = tool_format, bool(self.tools)
        first = self._begins()

        def begin() -> None:
            self._require_idle()
            self._answering = True
            self.dropped += self.messages[first : first + dropped]
            del self.messages[first : first + dropped]
            self.messages.extend(new)

        def end(run: Run) -> None:
            self._answering = False
            text = "".join(run.texts)
            if text or run.reason not in (None, StopReason.CANCELLED):
                self.messages.append(_answer(parseToolCalls(text, tool_format)))
            elif new and self.messages and self.messages[-1] is new[0]:
                self.messages.pop()

        answer._run.when_begun, answer._run.when_ended = begin, end
        return answer

    def _require_idle(self) -> None:
        if self._answering:
            raise BusyError("an answer of this session has not ended: iterate to its end, or close() it, first")

    def addToolResult(self, call: ToolCall, result: str) -> None:
        """Add what a tool gave to the history; call `send()` when all results are there."""
        if not isinstance(call, ToolCall):
            raise TypeError(f"call is one of an answer's toolCalls, not {type(call).__name__}")
        if not isinstance(result, str):
            raise TypeError(f"result is a str, not {type(result).__name__}: use json.dumps for data")
        self.messages.append({"role": "tool", "name": call.name, "tool_call_id": call.id, "content": result})

    def render(self, new: Sequence[Message] = ()) -> list[Token]:
        """The conversation as tokens, up to where the assistant's answer begins."""
        return self._tokens([*self.messages, *new])

    def _tokens(self, messages: Sequence[Message]) -> list[Token]:
        return self.template.tokens(messages, tools=self.tools or None, **self.variables)

    # Making room

    def _fit(self, new: list[dict[str, Any]], limit: int | None) -> tuple[list[Token], int]:
        """The conversation as tokens that leave room for an answer, and how many messages were left out for that.

        An answer needs `limit` tokens, or one. Once something has to go, a quarter of the context is made free, so that
        the rest is not read anew in every turn.
        """
        tokens = self.render(new)
        room = room_of(self._context)
        if room is None or len(tokens) + (limit or 1) <= room:
            return tokens, 0
        if self._overflow == "error":
            if len(tokens) > room:
                raise ContextFullError(
                    f"the conversation has {len(tokens)} tokens, and a sequence of the context takes {room}: remove "
                    'old messages, make the session with overflow="drop", or raise Context.Params.nCtx'
                )
            return tokens, 0
        first, dropped = self._begins(), 0
        goal = room - max(limit or 1, room // 4)
        for end in self._turns(new):
            if len(tokens) <= goal:
                break
            dropped = end - first
            tokens = self._tokens([*self.messages[:first], *self.messages[end:], *new])
        if len(tokens) > room:
            raise ContextFullError(
                f"the newest turn has {len(tokens)} tokens with the system message, and a sequence of the context "
                f"takes {room}: shorten it, or raise Context.Params.nCtx"
            )
        return tokens, dropped

    def _turns(self, new: list[dict[str, Any]]) -> list[int]:
        """Where each turn but the newest ends: before a message of the user's."""
        ends = [i for i, m in enumerate(self.messages) if i > self._begins() and m.get("role") == "user"]
        return [*ends, len(self.messages)] if new and new[0]["role"] == "user" and self.messages else ends

    def __repr__(self) -> str:
        return f"<ChatSession, {len(self.messages)} messages>"


def _as_message(message: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(message, str):
        return {"role": "user", "content": message}
    if not isinstance(message, Mapping):
        raise TypeError(f'message is a str or {{"role": ..., "content": ...}}, not {type(message).__name__}')
    if not isinstance(message.get("role"), str):
        raise ValueError(f'a message needs a role ("user", "tool"): {message!r}')
    return dict(message)


def _answer(parsed: ParsedAnswer) -> dict[str, Any]:
    """The assistant's message for the history."""
    message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
    if parsed.toolCalls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in parsed.toolCalls
        ]
    return message
