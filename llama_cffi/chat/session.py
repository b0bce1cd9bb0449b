"""Conversations: a message history, rendered by a chat template, whose common prefix stays in the KV cache."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llama_cffi._core.arguments import StrPath
from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.checks import expected
from llama_cffi._core.ownership import atomic
from llama_cffi.chat.answer import ChatAnswer, answer_message
from llama_cffi.chat.answer_format import AnswerFormat, ReasoningFormat
from llama_cffi.chat.content_parts import MediaReader
from llama_cffi.chat.messages import Message, Tool, as_tools, call_ids, without_functions
from llama_cffi.chat.template import ChatTemplate
from llama_cffi.chat.thinking_budget import thought_limit
from llama_cffi.chat.tool_calls import ToolCall
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, ContextFullError
from llama_cffi.generation.overflow import check_overflow
from llama_cffi.generation.prefix import shown
from llama_cffi.generation.request_options import require_sampler
from llama_cffi.generation.run import Run
from llama_cffi.generation.speculation import Speculation, require_speculation
from llama_cffi.generation.steps import StopReason
from llama_cffi.generation.token_cache import context_capacity
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

    from llama_cffi.generation.projector import Projector
    from llama_cffi.generation.prompt_cache.cache import PromptCache


class ChatSession:
    """A conversation in one sequence of a context. Each turn decodes only what is new in it.

    `messages` is the history, as dicts with `role` and `content`. You can edit it between turns: the prefix before the
    edit is not decoded again.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        system: str | None = None,
        template: ChatTemplate | str | None = None,
        tools: Sequence[Tool] = (),
        overflow: Literal["stop", "error", "drop"] = "stop",
        seqId: SeqId = 0,
        variables: Mapping[str, Any] | None = None,
        thinking: bool = True,
        reasoningFormat: ReasoningFormat = "split",
        sampler: Sampler | None = None,
        speculation: Speculation | None = None,
        mtmd: Projector | None = None,
        promptCache: PromptCache | StrPath | None = None,
    ) -> None:
        """`template` is a ChatTemplate, or a str for one; None is the model's own. `tools`, `variables`, `thinking` and
        `reasoningFormat` are those of `ChatTemplate.format`. `sampler` picks the tokens of all answers for which `send`
        gets no other one; None is `defaultSampler()`. `speculation` guesses tokens of all answers: see `Generation`.
        `mtmd` is an Mtmd.Context, for images and sounds in messages.
        `promptCache` keeps long conversations on disk: a `PromptCache`, or its folder.

        A conversation that does not fit the context window raises ContextFullError with `overflow="stop"` (or "error").
        "drop" removes the oldest turns from the history and puts them into `dropped`; the system message and the newest
        turn always stay. An answer that fills the window ends with StopReason.CONTEXT_FULL.
        """
        _require_context(ctx)
        check_overflow(overflow, ("stop", "error", "drop"))
        self._context, self._seqId, self._drops = ctx, seqId, overflow == "drop"
        self.template = template if isinstance(template, ChatTemplate) else ChatTemplate(ctx.getModel(), template)
        self._answering: weakref.ref[ChatAnswer] | None = None
        self._sent: weakref.ref[ChatAnswer] | None = None  # the last answer that `send` has returned
        self.messages = []
        self.dropped = []
        self.variables = dict(variables or {})
        self.thinking, self.reasoningFormat = thinking, reasoningFormat
        self.sampler = None if sampler is None else require_sampler(sampler)
        self.speculation = None if speculation is None else require_speculation(speculation)
        self._media = MediaReader(mtmd)
        self.promptCache = None if promptCache is None else _prompt_cache(promptCache)
        self.tools = without_functions(tools)
        if as_tools(self.tools):
            self.template._require_tools()
        self.system = system

    template: ChatTemplate
    messages: list[dict[str, Any]]
    """The history; the system message comes first, if there is one."""
    dropped: list[dict[str, Any]]
    """The messages that were removed from the history to make room."""
    tools: list[Mapping[str, Any]]
    """The tools that the model may call; functions as their descriptions."""
    variables: dict[str, Any]
    """Variables of the template itself."""
    thinking: bool
    """False asks the model to answer without a thought."""
    sampler: Sampler | None
    """The sampler of answers for which `send` gets no other one; None is `defaultSampler()`."""
    speculation: Speculation | None
    """How tokens of answers are guessed; None does not guess."""
    promptCache: PromptCache | None
    """The cache of prompts on disk, or None."""

    @property
    def mtmd(self) -> Projector | None:
        """The projector for images and sounds; None if there is none."""
        projector: Projector | None = self._media.projector
        return projector

    reasoningFormat: ReasoningFormat
    """Where thoughts go: "split" from the content, "keep" in it, or "drop"."""

    @property
    def system(self) -> str | None:
        """The system message, or None."""
        return self.messages[0]["content"] if self._first_turn() else None

    @system.setter
    def system(self, text: str | None) -> None:
        if text is not None and not isinstance(text, str):
            raise expected("a str or None", text, name="system")
        del self.messages[: self._first_turn()]
        if text is not None:
            self.messages.insert(0, {"role": "system", "content": text})

    def _first_turn(self) -> int:
        """The index of the first message after the system message."""
        return int(bool(self.messages) and self.messages[0].get("role") == "system")

    def send(
        self,
        message: str | Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        sampler: Sampler | None = None,
        maxTokens: int | None = None,
        stop: Sequence[str] = (),
        logProbs: int | None = None,
        penalizePrompt: bool = True,
        toolChoice: str = "auto",
        parallelToolCalls: bool | None = None,
        responseFormat: Any = None,
        prefill: str | None = None,
        thinkingBudget: int | None = None,
        thinkingClose: str = "",
    ) -> ChatAnswer:
        """Send a message; iterate over the answer, or take its `result()`. None answers the history as it is.

        Nothing is computed before that: an answer that nobody reads issues a RuntimeWarning.

        A str is a message of the user. So is a list of parts: texts, images and sounds, as plain objects (paths, bytes
        of files, arrays, images of Pillow, bitmaps) or in OpenAI's form (`image_url` with a data: URL, `input_audio`).
        The history keeps all of them in OpenAI's form.

        `prefill` is how the answer begins. A thought ends after `thinkingBudget` tokens, with the text `thinkingClose`.
        `toolChoice`, `parallelToolCalls` and `responseFormat` are those of
        `ChatTemplate.format`, the other parameters those of `Generation`. The prompt of an answer is the conversation
        so far, so penalties count all turns. Raises ContextFullError if the conversation
        exceeds the context window, ValueError if the template rejects it; the history is then as before.
        """
        self._require_idle()
        earlier = None if self._sent is None else self._sent()
        if earlier is not None:
            earlier._warn_if_unread()
        new = [] if message is None else [self._media.plain(_as_message(message))]
        if not self.messages[self._first_turn() :] + new:
            raise ValueError("there is nothing to answer: send a message")
        begun = [] if prefill is None else [{"role": "assistant", "content": prefill}]
        options = {"toolChoice": toolChoice, "parallelToolCalls": parallelToolCalls, "responseFormat": responseFormat}
        options["thinkFirst"] = bool(thinkingBudget)
        form, tokens, dropped = self._fit(new + begun, maxTokens, {**options, "continueLast": bool(begun)})
        limit = thought_limit(form, self._context.getModel().vocab, thinkingBudget, thinkingClose)
        answer = ChatAnswer(
            self._context,
            tokens,
            sampler=self.sampler if sampler is None else sampler,
            maxTokens=maxTokens,
            stop=[*stop, *form.stop],
            logProbs=logProbs,
            penalizePrompt=penalizePrompt,
            seqId=self._seqId,
            special=form.special,
            speculation=self.speculation,
            promptCache=self.promptCache,
        )
        taken = call_ids(self.messages)
        answer._follow(form, taken, limit)
        first = self._first_turn()

        started: list[bool] = []
        this = weakref.ref(answer)

        def begin() -> None:
            self._require_idle()
            begins = slice(first, first + dropped)
            atomic(
                (
                    (self.dropped.extend, self.messages[begins]),
                    (self.messages.__delitem__, begins),
                    (self.messages.extend, new),
                    (setattr, self, "_answering", this),
                    (started.append, True),
                )
            )

        def end(run: Run) -> None:
            if not started:
                return
            self._answering = None
            text = "".join(run.texts)
            if text or run.rules.reason not in (None, StopReason.CANCELLED):
                self.messages.append(answer_message(form.parse(text, taken=taken)))
            elif new and self.messages and self.messages[-1] is new[0]:
                self.messages.pop()

        answer._run.is_chat = True
        answer._run.when_begun, answer._run.when_ended = begin, end
        answer._awaited, self._sent = True, this
        return answer

    def _require_idle(self) -> None:
        answer = None if self._answering is None else self._answering()
        if answer is not None and not answer.done:
            raise BusyError("an answer of this session has not ended: iterate to its end, or close() it, first")

    def addToolResult(self, call: ToolCall, result: str) -> None:
        """Add the result of a tool call to the history. Call `send()` when all results are there."""
        if not isinstance(call, ToolCall):
            raise expected("a ToolCall", call, "pass one of answer.toolCalls", "call")
        if not isinstance(result, str):
            raise expected("a str", result, "use json.dumps for data", "result")
        self.messages.append({"role": "tool", "name": call.name, "tool_call_id": call.id, "content": result})

    def render(self, new: Sequence[Message] = ()) -> list[Token]:
        """The conversation as tokens, up to the point where the assistant's answer begins."""
        return self._tokens([*self.messages, *new])

    def _tokens(self, messages: Sequence[Message]) -> list[Token]:
        texts, bitmaps = self._media.read(messages)
        text = self.template.render(texts, tools=self.tools or None, **self.variables)
        return shown(self._media.tokens(self.template, text, bitmaps, self._context._limits))

    def _format(self, messages: Sequence[Message], options: Mapping[str, Any]) -> tuple[AnswerFormat, list[Token]]:
        """Return the format of the answer to messages, and the prompt as tokens."""
        texts, bitmaps = self._media.read(messages)
        form = self.template.format(
            texts,
            tools=self.tools or None,
            thinking=self.thinking,
            reasoningFormat=self.reasoningFormat,
            **options,
            **self.variables,
        )
        return form, self._media.tokens(self.template, form.prompt, bitmaps, self._context._limits)

    # Files

    def save(self, path: StrPath) -> None:
        """Write the session to a file: its history and options, and its KV cache with checkpoints.

        The file is written under another name and then renamed. It contains the conversation in plain text. Raises
        OSError if it cannot be written, BusyError while an answer is generated, TypeError for a message with anything
        that is not JSON, and ValueError for more than 32 MiB or 100 levels of it.
        """
        from llama_cffi.chat import saved_session

        self._require_idle()
        options = {
            "overflow": "drop" if self._drops else "stop",
            "reasoningFormat": self.reasoningFormat,
            "thinking": self.thinking,
        }
        messages, dropped = (list(map(self._media.plain, kept)) for kept in (self.messages, self.dropped))
        history = saved_session.History(messages, dropped, without_functions(self.tools), self.variables, options)
        saved_session.write(path, self._context, self._seqId, self.template.source, history)

    @classmethod
    def load(cls, ctx: Context, path: StrPath, **options: Any) -> Self:
        """Read a session from a file that `save` has written. The next turn decodes only what is new in it.

        `options` are those of the constructor, and replace the saved ones. `template`, `sampler` and `seqId` are not
        saved: if the session was made with one, pass it again.

        If the context cannot take the saved KV cache (its `nCtx` is too small, its KV types are others, it is of
        another llama.cpp), the messages are loaded, a RuntimeWarning says why, and the next turn decodes all of them.
        Raises OSError if the file cannot be read, StateError if it is damaged, or the model or the template is another.
        """
        from llama_cffi.chat.saved_session import SavedSession

        _require_context(ctx)
        saved = SavedSession(ctx, path)
        template = options.pop("template", None)
        if not isinstance(template, ChatTemplate):
            template = ChatTemplate(ctx.getModel(), template)
        saved.require_template(template.source)
        history = saved.history
        chosen = {"tools": history.tools, "variables": history.variables, **history.options, **options}
        session = cls(ctx, template=template, **chosen)
        session.messages, session.dropped = history.messages, history.dropped
        if "system" in options:
            session.system = options["system"]
        saved.restore(ctx, session._seqId)
        return session

    # Overflow

    def _fit(
        self, new: list[dict[str, Any]], limit: int | None, options: Mapping[str, Any]
    ) -> tuple[AnswerFormat, list[Token], int]:
        """Return the conversation in its format, and as tokens that leave room for an answer.

        The third is how many messages were dropped for that. An answer needs `limit` tokens, or at least one. Dropping
        frees at least a quarter of the window, so that the rest is not decoded again in every turn.
        """
        form, tokens = self._format([*self.messages, *new], options)
        capacity = context_capacity(self._context)
        if capacity is None or len(tokens) + (limit or 1) <= capacity:
            return form, tokens, 0
        if not self._drops:
            if len(tokens) > capacity:
                raise ContextFullError(
                    f"the conversation has {len(tokens)} tokens, but a sequence of the context takes {capacity}: "
                    'remove old messages, make the session with overflow="drop", or raise Context.Params.nCtx'
                )
            return form, tokens, 0
        first, dropped = self._first_turn(), 0
        goal = capacity - max(limit or 1, capacity // 4)
        for end in self._turn_ends(new):
            if len(tokens) <= goal:
                break
            dropped = end - first
            form, tokens = self._format([*self.messages[:first], *self.messages[end:], *new], options)
        if len(tokens) > capacity:
            raise ContextFullError(
                f"the newest turn has {len(tokens)} tokens with the system message, but a sequence of the context "
                f"takes {capacity}: shorten it, or raise Context.Params.nCtx"
            )
        return form, tokens, dropped

    def _turn_ends(self, new: list[dict[str, Any]]) -> list[int]:
        """The index at which each turn but the newest ends: before a message of the user."""
        ends = [i for i, m in enumerate(self.messages) if i > self._first_turn() and m.get("role") == "user"]
        return [*ends, len(self.messages)] if new and new[0]["role"] == "user" and self.messages else ends

    def __repr__(self) -> str:
        return f"<ChatSession, {len(self.messages)} messages>"


def _require_context(ctx: Context) -> None:
    if not isinstance(ctx, Context):
        raise expected("a Context", ctx, "Context.initFromModel(model) makes one")


def _prompt_cache(value: PromptCache | StrPath) -> PromptCache:
    from llama_cffi.generation.prompt_cache.cache import PromptCache

    return PromptCache._of(value)


def _as_message(message: str | Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(message, str):
        return {"role": "user", "content": message}
    if isinstance(message, (list, tuple)):
        if not message:
            raise ValueError("a message needs a part: a text, an image or a sound")
        return {"role": "user", "content": list(message)}
    if not isinstance(message, Mapping):
        raise expected(
            "a str, a dict or a list of parts", message, 'write {"role": "user", "content": text}', "message"
        )
    if not isinstance(message.get("role"), str):
        raise ValueError(f'a message needs a role ("user", "tool"), got {message!r}')
    return dict(message)
