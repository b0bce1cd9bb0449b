"""Chat templates: messages, and tools, to the text that a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi.chat import jinja
from llama_cffi.chat.apply_template import ChatMessage, chatApplyTemplate, chatBuiltinTemplates
from llama_cffi.chat.tool_calls import ToolFormat
from llama_cffi.model.model import Model
from llama_cffi.vocab.tokenize import tokenize

# `{"role": ..., "content": ...}`, with `tool_calls`, `tool_call_id` or whatever else a template reads.
Message: TypeAlias = Mapping[str, Any] | ChatMessage
_KEY = "tokenizer.chat_template"


class ChatTemplate:
    """How a model wants to see a conversation: its own Jinja template, or one that is named or given.

    A Jinja template runs in jinja2's sandbox (`pip install 'llama-cffi[chat]'`). Text in messages becomes part of the
    whole: a user who spells a control token there has the model read one.
    """

    __slots__ = ("_model", "_variant", "builtin", "source", "toolFormat")

    source: str
    """The Jinja template, or the name of a built-in one."""
    builtin: bool
    """Whether it is one of llama.cpp's own, which know of no tools."""
    toolFormat: ToolFormat | None
    """How the model is told to call tools; None where it is not, or in a way that is not known here."""

    def __init__(self, model: Model, template: str | None = None) -> None:
        """`template` None takes the model's own; else it names a variant of that (`variants` lists them) or one of
        `chatBuiltinTemplates()`, or is the text of one in Jinja.

        Raises ValueError where there is none, or it cannot be read; ImportError where it needs jinja2.
        """
        if not isinstance(model, Model):
            raise TypeError(f"model is a Model, not {type(model).__name__}: Model.load(path) makes one")
        self._model = model
        self._variant: str | None = None  # for messages with tools
        self.source, self.builtin = self._find(template)
        if not self.builtin:
            jinja.check(self.source)
        self.toolFormat = None if self.builtin else ToolFormat.ofTemplate(self._variant or self.source)

    def _find(self, template: str | None) -> tuple[str, bool]:
        own = self._model.chatTemplate()
        if template is None:
            if own is None:
                raise ValueError(
                    "this model carries no chat template (a base model, not trained to chat?): name one of "
                    f"{', '.join(chatBuiltinTemplates())}, or give the text of one in Jinja"
                )
            self._variant = self._model.metaValStr(f"{_KEY}.tool_use")
            return own, False
        if not isinstance(template, str):
            raise TypeError(f"template is a str or None, not {type(template).__name__}")
        if template in self.variants:
            return self._model.metaValStr(f"{_KEY}.{template}") or "", False
        if template in chatBuiltinTemplates():
            return template, True
        if "{{" in template or "{%" in template:
            return template, False
        variants = f"this model has the variants {', '.join(self.variants)}; " if self.variants else ""
        raise ValueError(
            f"{template[:60]!r} is no template: {variants}llama.cpp has {', '.join(chatBuiltinTemplates())}; or give "
            "the text of one in Jinja"
        )

    @property
    def variants(self) -> list[str]:
        """The names of the model's other templates, such as `tool_use`."""
        keys = (self._model.metaKeyByIndex(i) or "" for i in range(self._model.metaCount))
        return [key.removeprefix(f"{_KEY}.") for key in keys if key.startswith(f"{_KEY}.")]

    @property
    def takesTools(self) -> bool:
        """Whether it tells the model of tools at all."""
        return not self.builtin and "tools" in (self._variant or self.source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        addGenerationPrompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as text. `addGenerationPrompt` ends it where the assistant's answer begins.

        `tools` describes tools, each as `{"type": "function", "function": {"name", "description", "parameters"}}`, or
        the inner part of that. `variables` are those of the template itself, such as `enable_thinking`.

        Raises ValueError for messages that the template refuses, and tools that it does not take.
        """
        prepared = [_as_dict(message) for message in _listed(messages)]
        described = [as_tool(tool) for tool in tools] if tools else None
        if described and not self.takesTools:
            raise ValueError(
                "this chat template does not tell the model of tools: leave tools out, or use a model, or give a "
                "template, that knows them"
            )
        if self.builtin:
            return self._apply(prepared, addGenerationPrompt, variables)
        given = {
            "messages": prepared,
            "tools": described,
            "documents": None,
            "add_generation_prompt": addGenerationPrompt,
            "bos_token": self._special(self._model.vocab.bos),
            "eos_token": self._special(self._model.vocab.eos),
        }
        return jinja.render(self._variant if described and self._variant else self.source, {**given, **variables})

    def tokens(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        addGenerationPrompt: bool = True,
        **variables: Any,
    ) -> list[Token]:
        """The conversation as tokens, with one token at its beginning that begins a text, where the model wants it."""
        vocab = self._model.vocab
        text = self.render(messages, tools=tools, addGenerationPrompt=addGenerationPrompt, **variables)
        bos = self._special(vocab.bos)
        if bos and vocab.getAddBos():  # or there would be two
            text = text.removeprefix(bos)
        tokens = tokenize(vocab, text, parseSpecial=True)
        if vocab.getAddEos() and tokens and tokens[-1] == vocab.eos:
            tokens.pop()  # the answer is to follow
        return tokens

    def _apply(self, messages: list[dict[str, Any]], add: bool, variables: Mapping[str, Any]) -> str:
        if variables:
            raise ValueError(f"a built-in template takes no variables: leave out {', '.join(variables)}")
        for message in messages:
            if not isinstance(message.get("content"), str):
                raise ValueError(f"a built-in template takes messages of text only, not {message!r}")
        return chatApplyTemplate(self.source, [ChatMessage(m["role"], m["content"]) for m in messages], None, add)

    def _special(self, token: Token) -> str:
        return "" if token == TOKEN_NULL else self._model.vocab.tokenToPiece(token, special=True)

    def __repr__(self) -> str:
        return f"<ChatTemplate {self.source if self.builtin else f'in Jinja, {len(self.source)} characters'}>"


def as_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's description in the form that templates read."""
    if not isinstance(tool, Mapping):
        raise TypeError(f"a tool is described by a dict, not {type(tool).__name__}: name, description, parameters")
    whole = dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
    function = whole["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool needs a name: {tool!r}")
    return whole


def _listed(messages: Sequence[Message]) -> Sequence[Message]:
    if isinstance(messages, (str, bytes, Mapping, ChatMessage)):
        raise TypeError('messages is a list of messages: write [{"role": "user", "content": text}] for one')
    return messages


def _as_dict(message: Message) -> dict[str, Any]:
    """A message as templates read it."""
    if isinstance(message, ChatMessage):
        texts = (message.role, message.content)
        role, content = (text.decode() if isinstance(text, bytes) else text for text in texts)
        return {"role": role, "content": content}
    if not isinstance(message, Mapping):
        raise TypeError(f'a message is {{"role": ..., "content": ...}} or a ChatMessage, not {message!r}')
    if not isinstance(message.get("role"), str):
        raise ValueError(f'a message needs a role ("user", "assistant", "system", "tool"): {message!r}')
    prepared = dict(message)
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [_as_call(call) for call in prepared["tool_calls"]]
    return prepared


def _as_call(call: Any) -> Any:
    """A call of a tool whose arguments are no longer JSON: templates write that themselves."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
