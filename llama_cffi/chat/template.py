"""Chat templates: format messages and tools as the text that a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected
from llama_cffi.chat import jinja
from llama_cffi.chat.apply_template import ChatMessage, chatApplyTemplate, chatBuiltinTemplates
from llama_cffi.chat.tool_calls import ToolFormat
from llama_cffi.model.model import Model
from llama_cffi.vocab.tokenize import tokenize

# `{"role": ..., "content": ...}`, with `tool_calls`, `tool_call_id` or whatever else the template uses.
Message: TypeAlias = Mapping[str, Any] | ChatMessage
_KEY = "tokenizer.chat_template"


class ChatTemplate:
    """Formats a conversation for a model: with the model's own Jinja template, a built-in one, or your own.

    A Jinja template runs in jinja2's sandbox (`pip install 'llama-cffi[chat]'`). Control tokens that are spelled out in
    messages are not escaped: the model reads them as control tokens.
    """

    __slots__ = ("_model", "_variant", "builtin", "source", "toolFormat")

    source: str
    """The Jinja template, or the name of a built-in one."""
    builtin: bool
    """True for one of llama.cpp's built-in templates, which do not support tools."""
    toolFormat: ToolFormat | None
    """The format of tool calls that the template declares; None if it declares none, or an unknown one."""

    def __init__(self, model: Model, template: str | None = None) -> None:
        """`template` None is the model's own. A str is the name of a variant of it (see `variants`), the name of one of
        `chatBuiltinTemplates()`, or the text of a Jinja template.

        Raises ValueError if there is no such template, or it cannot be parsed; ImportError if it needs jinja2.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one", "model")
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
                    "this model has no chat template (it may be a base model, not trained to chat): name one of "
                    f"{', '.join(chatBuiltinTemplates())}, or pass the text of one in Jinja"
                )
            self._variant = self._model.metaValStr(f"{_KEY}.tool_use")
            return own, False
        if not isinstance(template, str):
            raise expected("a str or None", template, name="template")
        if template in self.variants:
            return self._model.metaValStr(f"{_KEY}.{template}") or "", False
        if template in chatBuiltinTemplates():
            return template, True
        if "{{" in template or "{%" in template:
            return template, False
        variants = f"this model has the variants {', '.join(self.variants)}; " if self.variants else ""
        raise ValueError(
            f"there is no template {template[:60]!r}: {variants}llama.cpp has {', '.join(chatBuiltinTemplates())}; or "
            "pass the text of one in Jinja"
        )

    @property
    def variants(self) -> list[str]:
        """Names of the model's other templates, such as `tool_use`."""
        return list(self._model._templates)

    @property
    def takesTools(self) -> bool:
        """True if the template tells the model about tools."""
        return not self.builtin and "tools" in (self._variant or self.source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        addGenerationPrompt: bool = True,
        **variables: Any,
    ) -> str:
        """Format a conversation as text. `addGenerationPrompt` ends it where the assistant's answer begins.

        `tools` are dicts `{"type": "function", "function": {"name", "description", "parameters"}}`, or only the inner
        dict. `variables` are passed to the template, such as `enable_thinking`.

        Raises ValueError for messages that the template rejects, and for tools if it does not support them.
        """
        prepared = [_as_dict(message) for message in _listed(messages)]
        described = [as_tool(tool) for tool in tools] if tools else None
        if described and not self.takesTools:
            raise ValueError(
                "this chat template does not tell the model about tools: leave tools out, or use a model or a template "
                "that supports them"
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
        """Format a conversation as tokens, starting with exactly one BOS token if the model uses it."""
        vocab = self._model.vocab
        text = self.render(messages, tools=tools, addGenerationPrompt=addGenerationPrompt, **variables)
        bos = self._special(vocab.bos)
        if bos and vocab.getAddBos():  # tokenize adds another one
            text = text.removeprefix(bos)
        tokens = tokenize(vocab, text, parseSpecial=True)
        if vocab.getAddEos() and tokens and tokens[-1] == vocab.eos:
            tokens.pop()  # the answer is to follow
        return tokens

    def _apply(self, messages: list[dict[str, Any]], add: bool, variables: Mapping[str, Any]) -> str:
        if variables:
            raise ValueError(f"a built-in template takes no variables, got {', '.join(variables)}: leave them out")
        for message in messages:
            if not isinstance(message.get("content"), str):
                raise ValueError(f"a built-in template takes messages of text only, got {message!r}")
        return chatApplyTemplate(self.source, [ChatMessage(m["role"], m["content"]) for m in messages], None, add)

    def _special(self, token: Token) -> str:
        return "" if token == TOKEN_NULL else self._model.vocab.tokenToPiece(token, special=True)

    def __repr__(self) -> str:
        return f"<ChatTemplate {self.source if self.builtin else f'in Jinja, {len(self.source)} characters'}>"


def as_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's description in the form that templates use."""
    if not isinstance(tool, Mapping):
        raise expected("a dict", tool, "it has name, description and parameters", "a tool")
    whole = dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
    function = whole["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool needs a name, got {tool!r}")
    return whole


def _listed(messages: Sequence[Message]) -> Sequence[Message]:
    if isinstance(messages, (str, bytes, Mapping, ChatMessage)):
        hint = 'write [{"role": "user", "content": text}] for one'
        raise expected("a list of messages", messages, hint, "messages")
    return messages


def _as_dict(message: Message) -> dict[str, Any]:
    """A message in the form that templates use."""
    if isinstance(message, ChatMessage):
        texts = (message.role, message.content)
        role, content = (text.decode() if isinstance(text, bytes) else text for text in texts)
        return {"role": role, "content": content}
    if not isinstance(message, Mapping):
        raise expected("a dict or a ChatMessage", message, 'write {"role": ..., "content": ...}', "a message")
    if not isinstance(message.get("role"), str):
        raise ValueError(f'a message needs a role ("user", "assistant", "system", "tool"), got {message!r}')
    prepared = dict(message)
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [_as_call(call) for call in prepared["tool_calls"]]
    return prepared


def _as_call(call: Any) -> Any:
    """A tool call with its arguments parsed, because templates convert them to JSON themselves."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
