"""How a model answers in a conversation: the prompt, the grammar of its tool calls, and the parser of its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import lib
from llama_cffi.chat import native
from llama_cffi.chat.response_format import fenced
from llama_cffi.chat.tool_calls import ParsedAnswer, ToolCall, ToolFormat, new_id, parseToolCalls
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

ReasoningFormat = Literal["split", "keep", "drop"]
REASONING = ("split", "keep", "drop")
_THOUGHT_ENDS = ">]"  # the last characters of all marks that `tool_calls` knows for thoughts
_UNKNOWN = "the format of this model's tool calls is not known"


class AnswerFormat:
    """The format of one answer; `ChatTemplate.format` makes it."""

    __slots__ = (
        *("_fallback", "_fenced", "_lazy", "_lead", "_marks", "_parser", "_prefill", "_preserved"),
        *("_tail", "_triggers"),
        *(
            "grammar",
            "prompt",
            "readsCalls",
            "reasoning",
            "special",
            "stop",
            "thinkingEnd",
            "thinkingStart",
            "thinks",
            "toolFormat",
            "tools",
        ),
    )

    prompt: str
    """The conversation as text, up to the point where the answer begins."""
    grammar: str
    """The GBNF grammar of the answer, or "" if it is free."""
    stop: list[str]
    """Strings that end the answer, beside the model's end tokens."""
    special: bool
    """True if the answer has to be generated with control tokens spelled out, since they mark its parts."""
    thinks: bool
    """True if the model may think before it answers."""
    thinkingStart: str
    """What begins a thought."""
    thinkingEnd: str
    """What ends a thought."""
    readsCalls: bool
    """False if the format of the model's tool calls is not known."""
    reasoning: ReasoningFormat
    """Where thoughts go: "split" from the content, "keep" in it, or "drop"."""
    tools: set[str]
    """The names of the tools that can be called."""
    toolFormat: ToolFormat | None
    """The family of the calls, in a build without llama.cpp's chat code."""

    _fenced: bool
    """True if llama.cpp's parser requires a Markdown fence around JSON, which the grammar does not allow."""
    _lazy: bool
    _marks: str | None
    """While the content goes on, text without any of these characters is content as it is; None: not known."""
    _tail: bool
    """True if the content goes on once it has begun; otherwise, it does while it is all of the text."""
    _triggers: list[Mapping[str, str]]
    _preserved: list[str]
    _prefill: str
    _lead: str
    _parser: native.NativeParser | None
    _fallback: native.NativeParser | None

    def __init__(self) -> None:
        """Not for users: `ChatTemplate.format(messages)` makes one."""
        raise TypeError("an AnswerFormat is made by ChatTemplate.format(messages)")

    @classmethod
    def _make(cls, prompt: str, tools: Sequence[Mapping[str, Any]], reasoning: ReasoningFormat) -> AnswerFormat:
        """Make the format of a free answer."""
        made = cls.__new__(cls)
        made.prompt = prompt
        made.tools = {tool["function"]["name"] for tool in tools}
        made.reasoning = reasoning
        made.toolFormat = None
        made.readsCalls = True
        made.stop = []
        made.special = made.thinks = False
        made.thinkingStart = made.thinkingEnd = ""
        made.grammar = ""
        made._lazy = made._fenced = False
        made._marks, made._tail = None if tools else _THOUGHT_ENDS, False
        made._triggers = []
        made._preserved = []
        made._prefill = made._lead = ""
        made._parser = None
        made._fallback = None
        return made

    @classmethod
    def _native(
        cls,
        applied: Mapping[str, Any],
        plain: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]],
        reasoning: ReasoningFormat,
        continues: bool,
        vocab: Vocab,
    ) -> AnswerFormat:
        """Make a format of what llama.cpp's chat code returned, with the tools and without (`plain`)."""
        made = cls._make(applied["prompt"], tools, reasoning)
        made.stop = list(applied["stops"])
        made.thinks = bool(applied["supports_thinking"])
        made.thinkingStart = applied["thinking_start"]
        made.thinkingEnd = applied["thinking_ends"][0] if applied["thinking_ends"] else ""
        made.grammar, made._lazy = applied["grammar"], applied["grammar_lazy"]
        made._triggers, made._preserved = applied["triggers"], applied["preserved_tokens"]
        made._prefill = applied["generation_prompt"]
        made._parser, made._fallback = applied["parser"], plain["parser"]
        made._fenced = applied.get("fenced", False)
        found = "" if continues else applied["parser"].content
        made._marks, made._tail = "" if found else None, found == "tail"
        if made.thinkingEnd.strip() and made.thinkingEnd.strip() in made._prefill:
            made._lead = _lead(plain["parser"])
        made.special = any([_is_control(vocab, text) for text in _marks(applied)])
        return made

    def _copy(self, prompt: str) -> AnswerFormat:
        """Return the same format for another prompt."""
        made = AnswerFormat.__new__(AnswerFormat)
        for name in self.__slots__:
            setattr(made, name, getattr(self, name))
        made.prompt, made.stop, made.tools = prompt, list(self.stop), set(self.tools)
        return made

    def parse(self, text: str, partial: bool = False, *, taken: Iterable[str] = ()) -> ParsedAnswer:
        """Split an answer into reasoning, content and tool calls.

        `partial` is True while more text may follow. What cannot be read stays in the content, and `problems` says why.
        Calls without an id get one that is not in `taken`.
        """
        if not isinstance(text, str):
            raise expected("a str", text, name="text")
        if self._parser is None:
            found = parseToolCalls(text, self.toolFormat, tools=self.tools, taken=taken)
        else:
            found = self._parse(text, partial, taken)
        if not self.readsCalls:
            found = ParsedAnswer(found.content, [], [_UNKNOWN], found.reasoning)
        if self.reasoning == "drop":
            return ParsedAnswer(found.content, found.toolCalls, found.problems)
        if self.reasoning == "keep" and self._parser is None and found.reasoning:
            return ParsedAnswer(text if not found.toolCalls else found.content, found.toolCalls, found.problems)
        return found

    def _parse(self, text: str, partial: bool, taken: Iterable[str]) -> ParsedAnswer:
        problems = []
        try:
            raw = self._read(self._parser, text, partial)
            calls = [] if partial else _calls(raw["calls"], self.tools, set(taken))
        except ValueError as error:
            problems.append(_reason(error))
            try:
                raw = self._read(self._fallback, text, partial)
            except ValueError:
                raw = {"content": text, "reasoning": "", "calls": []}
            calls = []
        if partial:
            calls = [ToolCall(call["name"], {}, call["id"]) for call in raw["calls"]]
        return ParsedAnswer(raw["content"], calls, problems, raw["reasoning"])

    def _read(self, parser: native.NativeParser | None, text: str, partial: bool) -> dict[str, Any]:
        assert parser is not None
        if self._fenced:
            text = fenced(text, partial, self.thinkingStart, self.thinkingEnd, self._prefill)
        raw = parser.parse(text.encode(errors="replace"), partial)
        if self._lead:
            content: str = raw["content"]
            raw["content"] = "" if self._lead.startswith(content) else content.removeprefix(self._lead)
        return raw

    def pieces(self, text: str, partial: bool) -> tuple[str, str, list[tuple[str, str, str]]]:
        """Return reasoning, content and the calls so far, each with its name, its arguments as text, and its id.

        Raises ValueError for text that is not in the format.
        """
        if self._parser is None:
            found = ParsedAnswer(text) if partial and self.tools else self.parse(text)
            calls = [(call.name, json.dumps(call.arguments), call.id) for call in found.toolCalls]
            return found.reasoning, "" if partial and self.tools else found.content, calls
        raw = self._read(self._parser, text, partial)
        calls = [(call["name"], call["arguments"], call["id"]) for call in raw["calls"]]
        return "" if self.reasoning == "drop" else raw["reasoning"], raw["content"], calls

    def grammarSampler(self, vocab: Vocab) -> Sampler | None:
        """Make the sampler that keeps an answer in its format; None if it is free. Put it at the start of a chain.

        A lazy one allows everything until a tool call begins. Call `begin` after each reset.
        """
        if not self.grammar:
            return None
        if not self._lazy:
            return Sampler.initGrammar(vocab, self.grammar)
        patterns, tokens = [], list[Token]()
        for trigger in self._triggers:
            kind, value = trigger["type"], trigger["value"]
            if kind == "word":
                whole = tokenize(vocab, value, addSpecial=False, parseSpecial=True) if value in self._preserved else []
                if len(whole) == 1:
                    tokens.append(whole[0])
                else:
                    patterns.append(re.sub(r"[.^$|()*+?\[\]{}\\]", r"\\\g<0>", value))
            elif kind == "pattern":
                patterns.append(value)
            elif kind == "pattern_full":
                patterns.append(f"^{value.removeprefix('^').removesuffix('$')}$")
        return Sampler.initGrammarLazyPatterns(vocab, self.grammar, "root", patterns, tokens)

    def begin(self, grammar: Sampler) -> None:
        """Prepare the sampler of `grammarSampler` after a reset: the end of the prompt is a part of the answer."""
        if self._lazy or not self._prefill:
            return
        text = self._prefill.encode(errors="replace")
        if not lib.shim_grammar_prefill(grammar._c, text, len(text)):
            raise ValueError(f"the grammar of the answer does not begin with the end of the prompt, {self._prefill!r}")

    def __repr__(self) -> str:
        grammar = "no grammar" if not self.grammar else "a lazy grammar" if self._lazy else "a grammar"
        return f"<AnswerFormat, prompt of {len(self.prompt)} characters, {len(self.tools)} tools, {grammar}>"


def _lead(parser: native.NativeParser) -> str:
    """Return the white space at the end of the prompt that the parser counts as the beginning of the answer.

    Prompts that end a thought before it begins have some after its closing mark.
    """
    try:
        content: str = parser.parse("a")["content"]
    except ValueError:
        return ""
    lead = content.removesuffix("a")
    return lead if lead.isspace() else ""


def _marks(applied: Mapping[str, Any]) -> list[str]:
    words = [trigger["value"].strip() for trigger in applied["triggers"] if trigger["type"] == "word"]
    return [*applied["preserved_tokens"], *words, applied["thinking_start"], *applied["thinking_ends"]]


def _is_control(vocab: Vocab, text: str) -> bool:
    """Return True if the text is one token that is not spelled out by default."""
    if not text:
        return False
    tokens = tokenize(vocab, text, addSpecial=False, parseSpecial=True)
    return len(tokens) == 1 and not vocab.tokenToPiece(tokens[0])


def _calls(raw: Sequence[Mapping[str, str]], tools: set[str], taken: set[str]) -> list[ToolCall]:
    calls = []
    for call in raw:
        if tools and call["name"] not in tools:
            raise ValueError(f"a call of {call['name']!r}, which is not one of the tools: {', '.join(sorted(tools))}")
        if not call["arguments"]:
            raise ValueError(f"the arguments of {call['name']} are not JSON: the answer ends before them")
        arguments = read_arguments(call["arguments"], call["name"])
        calls.append(ToolCall(call["name"], arguments, new_id(call["id"], taken)))
    return calls


def read_arguments(text: str, name: str) -> dict[str, Any]:
    """Read the arguments of a call. Raises ValueError if they are not a JSON object."""

    def refuse(word: str) -> Any:
        raise ValueError(f"the arguments of {name} contain {word}, which is not JSON")

    try:
        found = json.loads(text or "{}", parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"the arguments of {name} are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the arguments of {name} are not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the arguments of {name} are not an object: {text[:80]}")
    return found


def _reason(error: ValueError) -> str:
    text = str(error)
    return (
        text
        if isinstance(error, native.ChatLimitError) or not isinstance(error, native.ChatCodeError)
        else ("the answer is not in the format that this model's template uses for tool calls")
    )
