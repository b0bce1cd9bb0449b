"""Chat templates: format messages and tools as the text that a model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected
from llama_cffi._suggest import did_you_mean
from llama_cffi.chat import generic_tools, jinja, native
from llama_cffi.chat.answer_format import REASONING, AnswerFormat, ReasoningFormat
from llama_cffi.chat.apply_template import ChatMessage, chatApplyTemplate, chatBuiltinTemplates, near_template
from llama_cffi.chat.format_cache import FormatCache
from llama_cffi.chat.messages import (
    KNOWN,
    Message,
    Tool,
    as_list,
    as_message,
    as_tools,
    chosen,
    for_native,
    joined,
    keeps_content,
    reads_functions,
)
from llama_cffi.chat.required_call import bounded
from llama_cffi.chat.response_format import enforced, schema_text
from llama_cffi.chat.tagged_arguments import limited
from llama_cffi.chat.tool_calls import ToolFormat
from llama_cffi.model.model import Model
from llama_cffi.vocab.tokenize import tokenize

_KEY = "tokenizer.chat_template"


class ChatTemplate:
    """Formats a conversation for a model: with the model's own Jinja template, a built-in one, or your own.

    llama.cpp's chat code runs a Jinja template, with limits on time and memory. Builds without it use jinja2 (`pip
    install jinja2`). Control tokens that are spelled out in messages are not escaped: the model reads them as control
    tokens.
    """

    __slots__ = ("_formats", "_info", "_model", "_natives", "_thoughts", "_variant", "builtin", "source", "toolFormat")

    source: str
    """The Jinja template, or the name of a built-in one."""
    builtin: bool
    """True for one of llama.cpp's built-in templates, which do not support tools."""
    toolFormat: ToolFormat | None
    """The format of tool calls that the template declares; None if it declares none, or an unknown one."""

    def __init__(self, model: Model, template: str | None = None) -> None:
        """`template` None is the model's own. A str is the name of a variant of it (see `variants`), the name of one of
        `chatBuiltinTemplates()`, or the text of a Jinja template.

        Raises ValueError if there is no such template, or it cannot be parsed; ImportError if this build runs templates
        in jinja2, which is not installed.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one", "model")
        self._model = model
        self._variant: str | None = None  # for messages with tools
        self.source, self.builtin = self._find(template)
        self._natives: dict[str, native.NativeTemplate] = {}
        self._info: dict[str, Any] | None = None
        self._formats = FormatCache()
        self._thoughts: dict[str, bool] = {}  # whether a template keeps the content beside a thought
        if not self.builtin:
            self._native(self.source) if native.available() else jinja.check(self.source)
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
        if meant := near_template(template, [*self.variants, *chatBuiltinTemplates()]):
            raise ValueError(f"there is no template {template[:60]!r}: did you mean {meant!r}?")
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
        if self.builtin:
            return False
        source = self._variant or self.source
        return self.capabilities["tools"] or reads_functions(source) if native.available() else "tools" in source

    @property
    def capabilities(self) -> dict[str, bool]:
        """What the template can do: "tools", "toolCalls", "parallelToolCalls", "system", "thinking" and "parts".

        "system" is False if it has no place for a system message, which then becomes a part of the first message;
        "thinking" is True if thoughts can be turned off; "parts" is True if it takes lists of parts. Raises
        UnavailableError in a build without llama.cpp's chat code.
        """
        if self.builtin:
            return dict.fromkeys(("tools", "toolCalls", "parallelToolCalls", "thinking", "parts"), False) | {
                "system": True
            }
        if self._info is None:
            self._info = self._native(self._variant or self.source).info()
        info = self._info
        caps = info["caps"]
        return {
            "tools": caps["supports_tools"],
            "toolCalls": caps["supports_tool_calls"],
            "parallelToolCalls": caps["supports_parallel_tool_calls"],
            "system": caps["supports_system_role"],
            "thinking": info["supports_thinking"],
            "parts": caps["supports_typed_content"],
        }

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        addGenerationPrompt: bool = True,
        **variables: Any,
    ) -> str:
        """Format a conversation as text. `addGenerationPrompt` ends it where the assistant's answer begins.

        Messages have OpenAI's form: `content` may be a list of parts or None, a thought is `reasoning_content`, and
        `tool_calls` have arguments as a dict or as JSON text. `tools` are functions with annotations,
        or dicts `{"type": "function", "function": {"name", "description", "parameters"}}`, or only the inner dict.
        `variables` are passed to the template, such as `enable_thinking`.

        Raises ValueError for messages that the template rejects, for tools if it does not support them, and for a
        template that takes too much time or memory.
        """
        prepared, described = self._prepare(messages, tools)
        if described and not self.takesTools:
            prepared, described = generic_tools.described(prepared, described, self._writes_calls()), []
        if self.builtin:
            return self._apply(prepared, addGenerationPrompt, variables)
        if native.available() and all([message.keys() <= KNOWN for message in prepared]):
            inputs = self._inputs(prepared, described, addGenerationPrompt, variables)
            own = self._native(self._source(described))
            try:
                return own.render(inputs)
            except native.ChatCodeError as error:
                raise self._rejected(error) from None
        jinja.check(self.source)
        given = {
            "messages": [joined(message) for message in prepared],
            "add_generation_prompt": addGenerationPrompt,
            "bos_token": self._special(self._model.vocab.bos),
            "eos_token": self._special(self._model.vocab.eos),
        }
        if described:
            given["tools"] = described
        return jinja.render(self._source(described), {**given, **variables})

    def format(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        toolChoice: str = "auto",
        parallelToolCalls: bool | None = None,
        responseFormat: Any = None,
        thinking: bool = True,
        reasoningFormat: ReasoningFormat = "split",
        continueLast: bool = False,
        thinkFirst: bool = False,
        **variables: Any,
    ) -> AnswerFormat:
        """Return the prompt of a conversation, with the grammar and the parser of the answer.

        `toolChoice` is "auto", "none", "required" or the name of a tool; `parallelToolCalls` None allows several calls
        if the template supports them. `responseFormat` is a JSON Schema or a type that the answer follows. `thinking`
        False asks the model to answer at once. `reasoningFormat` says where thoughts go: "split" from the content,
        "keep" in it, or "drop". `continueLast` continues the last message, which is the assistant's. A required call
        comes at once; `thinkFirst` allows a thought before it.

        Raises ValueError like `render`; UnavailableError for what a build without llama.cpp's chat code cannot do.
        """
        prepared, described = self._prepare(messages, tools)
        if reasoningFormat not in REASONING:
            raise ValueError(f"reasoningFormat must be one of {', '.join(REASONING)}, got {reasoningFormat!r}")
        offered, choice = chosen(described, toolChoice)
        generic = bool(offered) and native.available() and not self.builtin and self._writes_calls(choice)
        if described and (generic or not self.takesTools):
            prepared = generic_tools.described(prepared, described, generic)
        schema = None if responseFormat is None else schema_text(responseFormat)
        if self.builtin or not native.available():
            self._require_simple(toolChoice, schema, thinking, continueLast)
            return self._simple(self.render(messages, tools=tools, **variables), offered, reasoningFormat)
        for message in prepared:
            if not message.keys() <= KNOWN:
                unknown = ", ".join(sorted(message.keys() - KNOWN))
                hint = did_you_mean(unknown, KNOWN) or "leave it out"
                raise ValueError(f"llama.cpp's chat code does not pass {unknown} of a message on: {hint}")
        inputs = self._inputs(prepared, offered, not continueLast, variables)
        inputs |= {"enable_thinking": thinking, "reasoning_format": "none" if reasoningFormat == "keep" else "auto"}
        if continueLast:
            if not prepared or prepared[-1]["role"] != "assistant":
                raise ValueError("continueLast needs a last message of the assistant")
            last = prepared[-1]
            whole = bool(last.get("content")) or not last.get("reasoning_content")
            inputs["continue_final_message"] = "content" if whole else "reasoning_content"
            inputs["messages"][-1] = for_native(last)  # its thought is not for the template: llama.cpp writes it
        if schema is not None:
            inputs["json_schema"] = schema
        plain = {**inputs, "tools": []}
        if offered:
            parallel = parallelToolCalls
            if parallel is None:
                parallel = self.capabilities["parallelToolCalls"]
            inputs |= {"tool_choice": choice, "parallel_tool_calls": parallel}
        own, shown = self._native(self._source(offered)), plain if generic else inputs
        options = json.dumps([{**inputs, "messages": []}, reasoningFormat, thinkFirst])
        found = None if continueLast else self._formats.find(options, own, shown)
        if found is not None:
            return found
        try:
            answers = own.apply(shown)
            applied = generic_tools.apply(answers, self._natives, inputs) if generic else answers
        except native.ChatCodeError as error:
            if "Unable to generate parser" not in str(error) or choice == "required" or schema is not None:
                raise self._rejected(error) from None
            prompt = self.render(messages, tools=tools, **variables)
            return self._simple(prompt, offered, reasoningFormat)
        if choice == "required" and schema is None and not applied["grammar_lazy"]:
            applied = {**applied, "grammar": bounded(applied, thinkFirst, inputs["parallel_tool_calls"])}
        if schema is not None:
            begun = (for_native(prepared[-1])["content"] or None) if continueLast else None
            applied = enforced(applied, schema, begun)
        if offered and schema is None:
            applied = {**applied, "grammar": limited(applied["grammar"], offered, choice not in ("auto", "none"))}
        without = answers
        if offered and not generic:
            try:
                without = own.apply(plain)
            except native.ChatCodeError:  # this template needs tools
                without = {"parser": native.NativeParser.plain()}
        made = AnswerFormat._native(applied, without, offered, reasoningFormat, continueLast, self._model.vocab)
        made.readsCalls = not offered or generic or bool(made.grammar) or self.capabilities["toolCalls"]
        if not continueLast:
            self._formats.keep(options, own, shown, answers["generation_prompt"], made, applied, without)
        return made

    def _writes_calls(self, choice: str = "auto") -> bool:
        """Return True if neither the template nor llama.cpp knows calls, so that they are a part of the content."""
        return not self.capabilities["toolCalls"] and (choice == "required" or not self.takesTools)

    def _simple(self, prompt: str, tools: list[dict[str, Any]], reasoningFormat: ReasoningFormat) -> AnswerFormat:
        """Return a format without llama.cpp's parser."""
        made = AnswerFormat._make(prompt, tools, reasoningFormat)
        made.toolFormat = self.toolFormat if tools else None
        made.readsCalls = not tools or made.toolFormat is not None
        made.special = made.toolFormat in (ToolFormat.LLAMA3, ToolFormat.MISTRAL)  # their marks are control tokens
        return made

    def _prepare(
        self, messages: Sequence[Message], tools: Sequence[Tool] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        prepared = [as_message(message) for message in as_list(messages)]
        described = as_tools(tools)
        if described:
            self._require_tools()
        return prepared, described

    def _require_tools(self) -> None:
        """Raise ValueError if tools cannot be described to the model."""
        if not self.takesTools and (self.builtin or not native.available()):
            why = "a built-in template has no tools" if self.builtin else "this chat template does not describe tools"
            raise ValueError(f"{why}: leave tools out, or pass the text of a Jinja template that does")

    def _source(self, tools: Sequence[Tool]) -> str:
        return self._variant if tools and self._variant else self.source

    def _native(self, source: str) -> native.NativeTemplate:
        found = self._natives.get(source)
        if found is None:
            bos, eos = (self._special(token) for token in (self._model.vocab.bos, self._model.vocab.eos))
            try:
                found = self._natives[source] = native.NativeTemplate(source, bos, eos)
            except native.ChatCodeError as error:
                _check_with_jinja2(source)
                raise ValueError(f"the chat template cannot be parsed: {_last_line(error)}") from None
        return found

    def _takes_thoughts(self, source: str) -> bool:
        if source not in self._thoughts:
            self._thoughts[source] = keeps_content(self._native(source))
        return self._thoughts[source]

    def _inputs(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], add: bool, variables: Mapping[str, Any]
    ) -> dict[str, Any]:
        source = self._source(tools)
        given = [for_native(message) for message in messages]
        if any(["reasoning_content" in message for message in given]) and not self._takes_thoughts(source):
            for message in given:
                message.pop("reasoning_content", None)
        values = dict(variables)
        if tools and reads_functions(source):
            values.setdefault("functions", json.dumps(tools, indent=4))
        inputs = {"messages": given, "tools": tools, "add_generation_prompt": add, "variables": values}
        if isinstance(values.get("enable_thinking"), bool):
            inputs["enable_thinking"] = values["enable_thinking"]
        try:
            json.dumps(inputs)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"messages, tools and variables of a chat template must be JSON: {error}") from None
        return inputs

    @staticmethod
    def _rejected(error: native.ChatCodeError) -> ValueError:
        if isinstance(error, native.ChatLimitError):
            return ValueError(f"the chat template was stopped: {error}")
        return ValueError(f"the chat template rejects these messages: {_last_line(error)}")

    def _require_simple(self, choice: str, schema: str | None, thinking: bool, continueLast: bool) -> None:
        """Raise UnavailableError for what only llama.cpp's chat code can do."""
        if choice not in ("auto", "none") or schema is not None or not thinking or continueLast:
            if self.builtin:
                raise ValueError(
                    "a built-in template has no tools, response formats, thoughts or continued messages: pass the text "
                    "of a Jinja template"
                )
            native.require()

    def tokens(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        addGenerationPrompt: bool = True,
        **variables: Any,
    ) -> list[Token]:
        """Format a conversation as tokens, starting with exactly one BOS token if the model uses it."""
        rendered = self.render(messages, tools=tools, addGenerationPrompt=addGenerationPrompt, **variables)
        return list(self._tokenize(rendered))

    def _tokenize(self, text: str, read: Any = None) -> Any:
        vocab = self._model.vocab
        if vocab.getAddBos():  # tokenize adds another one
            text = text.removeprefix(self._special(vocab.bos))
        tokens: list[Token] = tokenize(vocab, text, parseSpecial=True) if read is None else read(text)
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


def _check_with_jinja2(source: str) -> None:
    """Raise jinja2's error for a template, which names the line, if it is installed."""
    try:
        jinja.check(source)
    except ImportError:
        pass


def _last_line(error: Exception) -> str:
    """The reason in an error of llama.cpp's chat code, without the place in the template."""
    text = str(error).strip()
    reason = text.rpartition("Error: ")[2] or text
    return reason.removeprefix("Jinja Exception: ").strip()
