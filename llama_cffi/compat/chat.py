"""Chat completion in llama-cpp-python's spelling, with llama.cpp's own chat code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from llama_cffi._core.checks import expected
from llama_cffi._core.user_warnings import warn
from llama_cffi.chat import native
from llama_cffi.chat.answer_format import AnswerFormat
from llama_cffi.chat.events import ChatEvent, EventParser
from llama_cffi.chat.formatted_sampler import FormattedSampler
from llama_cffi.chat.template import ChatTemplate
from llama_cffi.compat import chat_dicts, chat_format
from llama_cffi.compat.chat_request import offered_tools, plain_message, schema_of
from llama_cffi.compat.completion import TextRun, empty_logprobs
from llama_cffi.compat.decoding import DecodingMethods
from llama_cffi.compat.grammar import LlamaGrammar
from llama_cffi.compat.sampling import make_sampler
from llama_cffi.sampling.sampler import Sampler

# llama-cpp-python's names of formats -> those of llama.cpp's built-in templates.
_BUILTIN = {"llama-2": "llama2", "llama-3": "llama3", "mistral-instruct": "mistral-v1"}


class _Plan(NamedTuple):
    """How one answer is generated and read."""

    format: AnswerFormat
    forced: str | None  # the tool whose arguments the whole answer is
    grammar: Any


class ChatMethods(DecodingMethods):
    """What a `Llama` does with conversations."""

    _templates: dict[str, ChatTemplate]

    def create_chat_completion(
        self,
        messages: list[dict[str, Any]],
        functions: list[dict[str, Any]] | None = None,
        function_call: str | dict[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | list[str] | None = [],  # noqa: B006 - as there
        seed: int | None = None,
        response_format: dict[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: dict[int, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Answer a conversation. Returns a dict, or with `stream` an iterator over chunks.

        `tool_choice` is "auto" (the default), "none", "required", or names a tool; None and "auto" read the calls that
        the model makes. A template that does not describe tools gets them in the system message; a built-in one answers
        with one named tool only. `response_format` is `{"type": "json_object"}`, with a "schema" or without, or
        OpenAI's "json_schema".

        Raises ValueError for messages that the template rejects, and for tools with a built-in template.
        """
        options = {name: value for name, value in locals().items() if name != "self"}
        handler = self.chat_handler or chat_format.find_handler(self.chat_format)
        if handler is not None:
            found: dict[str, Any] | Iterator[dict[str, Any]] = handler(llama=self, **options)
            return found
        plan = self._plan(options)
        run = self._run_chat(plan, options)
        head = {"id": run.id, "created": run.created, "model": self.model_path if model is None else model}
        return _chunks(run, plan, head) if stream else _whole(run, plan, head)

    def create_chat_completion_openai_v1(self, *args: Any, **kwargs: Any) -> Any:
        """`create_chat_completion` with objects of the `openai` package instead of dicts, which must be installed."""
        try:
            from openai.types.chat import ChatCompletion, ChatCompletionChunk
        except ImportError:
            raise ImportError(
                "create_chat_completion_openai_v1 needs the openai package: pip install openai, or use "
                "create_chat_completion"
            ) from None
        found = self.create_chat_completion(*args, **kwargs)
        if isinstance(found, dict):
            return ChatCompletion(**found)
        return (ChatCompletionChunk(**part) for part in found)

    def _template(self) -> ChatTemplate:
        """Return the template of `chat_format`: the model's own, a built-in one, or the text of one in Jinja."""
        name = self.chat_format
        templates = self.__dict__.setdefault("_templates", {})
        if name not in templates:
            chosen: str | None = None
            if name is None or name == "chat_template.default":
                if self._model.chatTemplate() is None:
                    warn("this model has no chat template: llama-2 is used. Pass chat_format", RuntimeWarning)
                    chosen = "llama2"
            elif name == "chatml-function-calling":
                chosen = chat_format.CHATML_TOOLS
            else:
                chosen = _BUILTIN.get(name, name.removeprefix("chat_template."))
            templates[name] = ChatTemplate(self._model, chosen)
        return cast("ChatTemplate", templates[name])

    def _plan(self, options: Mapping[str, Any]) -> _Plan:
        template = self._template()
        if isinstance(options["messages"], (str, bytes)) or not isinstance(options["messages"], Sequence):
            raise expected("a list of dicts", options["messages"], name="messages")
        messages = [plain_message(message) for message in options["messages"]]
        tools, choice = offered_tools(options)
        schema, grammar, forced = schema_of(options["response_format"]), options["grammar"], None
        if schema is not None and grammar is not None:
            raise ValueError("response_format and grammar exclude each other: pass one of them")
        if tools and choice not in ("auto", "none"):
            tool = tools[0] if choice == "required" and len(tools) == 1 else _named(tools, choice)
            if tool is not None:  # the whole answer is its arguments, as there
                if schema is not None or grammar is not None:
                    raise ValueError("tool_choice excludes response_format and grammar: leave them out")
                forced, schema, choice = tool["function"]["name"], tool["function"].get("parameters") or {}, "none"
        simple = template.builtin or not native.available()
        if tools and simple and not template.takesTools:
            if choice != "none":
                raise ValueError(
                    "this chat format cannot tell the model about tools: name one in tool_choice, or pass "
                    'chat_format="chatml-function-calling" to Llama()'
                )
            tools = []
        if schema is not None and simple:
            grammar, schema = LlamaGrammar.from_json_schema(json.dumps(schema)), None
        if not tools and schema is None:
            made = template.format(messages, reasoningFormat="keep")
        else:
            made = template.format(
                messages,
                tools=tools or None,
                toolChoice=choice if tools else "auto",
                responseFormat=schema,
                reasoningFormat="keep",
            )
        return _Plan(made, forced, grammar)

    def _run_chat(self, plan: _Plan, options: Mapping[str, Any]) -> TextRun:
        vocab, made = self._model.vocab, plan.format
        self._next_seed(options["seed"])
        changed = {**options, "temp": options["temperature"], "grammar": plan.grammar}
        sampler = make_sampler(vocab, self._seed, self.last_n_tokens_size, self._ids, changed)
        try:
            keeper = made.grammarSampler(vocab)
            if keeper is not None:
                sampler = cast("Sampler", FormattedSampler(keeper, made.begin, sampler, True))
            prompt = self._template()._tokenize(made.prompt)
        except BaseException:
            sampler.close()
            raise
        stop = options["stop"]
        return TextRun(
            self,
            prompt,
            sampler,
            stop=[*([stop] if isinstance(stop, str) else stop or ()), *made.stop],
            max_tokens=options["max_tokens"],
            logprobs=(options["top_logprobs"] or 0) if options["logprobs"] else None,
            special=made.special,
        )


def _named(tools: list[dict[str, Any]], choice: str) -> dict[str, Any] | None:
    """Return the tool of this name; None for "required"."""
    return next((tool for tool in tools if tool["function"]["name"] == choice), None)


def _whole(run: TextRun, plan: _Plan, head: Mapping[str, Any]) -> dict[str, Any]:
    text, found = run.result()
    parsed = plan.format.parse(text)
    content: str | None
    if plan.forced is not None:
        calls, content = [(plan.forced, parsed.content)], None
    else:
        calls = [(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in parsed.toolCalls]
        content = parsed.content or (None if calls else "")
    completion = {**head, "choices": [{"logprobs": found}], "usage": run.usage}
    message = chat_dicts.message_of(content, calls, run.id)
    return chat_dicts.answer(completion, message, "tool_calls" if calls else run.finish_reason)


def _chunks(run: TextRun, plan: _Plan, head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answer as it is generated. The log-probabilities of tokens come with the text that they complete."""
    first = {**(chat_dicts.NO_CALL if plan.forced is not None else {}), "role": "assistant"}
    started = False
    waiting: dict[str, Any] | None = None
    for delta, found in _deltas(run, plan):
        if found is not None:
            waiting = waiting or empty_logprobs()
            for key, values in found.items():
                waiting[key] += values
        if not started:
            yield chat_dicts.chunk(head, first)
            started = True
        if delta is not None:
            yield chat_dicts.chunk(head, delta, None, waiting)
            waiting = None
    if not started:
        yield chat_dicts.chunk(head, first)
    calls = plan.forced is not None or run.calls
    reason = "tool_calls" if calls else run.finish_reason
    yield chat_dicts.chunk(head, dict(chat_dicts.NO_CALL) if calls else {}, reason, waiting)


def _deltas(run: TextRun, plan: _Plan) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Yield pairs of a delta and the log-probabilities of a token; either may be None."""
    parser = EventParser(plan.format)
    for text, found in run:
        events = list(parser.feed(text))
        yield None, found
        yield from ((_delta(event, run, plan.forced), None) for event in events)
    yield from ((_delta(event, run, plan.forced), None) for event in parser.finish())


def _delta(event: ChatEvent, run: TextRun, forced: str | None) -> dict[str, Any]:
    """Return the delta of a piece of the answer. With a forced tool, the content is its arguments."""
    if forced is not None:
        first, run.calls = not run.calls, 1
        identity = chat_dicts.call_id(0, forced, run.id) if first else None
        return chat_dicts.call_delta(0, identity, forced if first else None, event.text)
    if event.kind == "call":
        run.calls += 1
        identity = chat_dicts.call_id(event.index, event.name, run.id)
        return chat_dicts.call_delta(event.index, identity, event.name, event.text)
    if event.kind == "arguments":
        return chat_dicts.call_delta(event.index, None, None, event.text)
    return {"content": event.text}
