"""Evaluates a case of `cases.py`, as llama.cpp's own test does: the whole answer, all its prefixes, its grammar.

There are two layers: "native" calls the chat library itself, and "public" goes through `ChatTemplate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from llama_cffi import ChatTemplate
from llama_cffi.chat.events import EventParser
from llama_cffi.chat.native import NativeParser, NativeTemplate
from tests.chat import cases, grammars
from tests.chat.case import ParseCase, PromptCase, RenderCase

Message = dict[str, Any]


@dataclass
class Result:
    """What is wrong with a case, by kind: "content", "reasoning", "calls", "streaming", "grammar", "events",
    "history", "error".
    """

    case: Any
    wrong: dict[str, str] = field(default_factory=dict)


class Layer(Protocol):
    """Prompt, grammar and parser of one case."""

    prompt: str

    def parse(self, text: str, partial: bool) -> Message: ...

    def message(self, text: str) -> Message: ...

    def render(self, messages: list[Message]) -> str: ...

    def problem(self, last: Message) -> tuple[str, str] | None: ...


@cache
def template(source: str, bos: str = "", eos: str = "") -> NativeTemplate:
    return NativeTemplate(source, bos, eos)


class Native:
    """The chat library itself, without BOS and EOS, as llama.cpp tests it."""

    bos = eos = ""

    def __init__(self, case: ParseCase) -> None:
        self.case, self.template = case, template(cases.template_source(case.template), self.bos, self.eos)
        self.made = self.template.apply(case.inputs)
        self.prompt = self.made["prompt"]
        self.parser: NativeParser = self.made["parser"]

    def parse(self, text: str, partial: bool) -> Message:
        return self.parser.parse(text, partial)

    def message(self, text: str) -> Message:
        """The message of a whole answer."""
        return self.parser.parse(text, False)

    def render(self, messages: list[Message]) -> str:
        return self.template.render({**self.case.inputs, "messages": messages, "add_generation_prompt": False})

    def problem(self, last: Message) -> tuple[str, str] | None:
        """Return "grammar" and why it does not fit the answer; None if it does."""
        if self.case.inputs["json_schema"] and (not self.made["grammar"] or self.made["grammar_lazy"]):
            return "grammar", "a response format needs a grammar from the first token"
        found = grammars.problem(self.case, self.made)
        return ("grammar", found) if found else None


class WithTokens(Native):
    """The chat library with the BOS and EOS that most models have."""

    bos, eos = "<s>", "</s>"


class Public:
    """`ChatTemplate` and the format that it makes."""

    def __init__(self, case: ParseCase) -> None:
        self.case, given = case, case.inputs
        self.given = given
        self.template = ChatTemplate(grammars.model(), cases.template_source(case.template))
        self.format = self.template.format(
            given["messages"],
            tools=given["tools"] or None,
            toolChoice=given["tool_choice"],
            parallelToolCalls=given["parallel_tool_calls"],
            responseFormat=json.loads(given["json_schema"]) if given["json_schema"] else None,
            thinking=given["enable_thinking"],
            reasoningFormat="keep" if given["reasoning_format"] == "none" else "split",
            continueLast="continue_final_message" in given,
            **given.get("variables", {}),
        )
        self.prompt = self.format.prompt
        self.ids = bool(case.expected["calls"] and case.expected["calls"][0]["id"])

    def parse(self, text: str, partial: bool) -> Message:
        reasoning, content, calls = self.format.pieces(text, partial)
        return {
            "content": content,
            "reasoning": reasoning,
            "calls": [{"name": name, "arguments": arguments, "id": one} for name, arguments, one in calls],
        }

    def message(self, text: str) -> Message:
        found = self.format.parse(text)
        calls = [
            {"name": call.name, "arguments": json.dumps(call.arguments), "id": call.id if self.ids else ""}
            for call in found.toolCalls
        ]
        assert all(call.id for call in found.toolCalls), "each call has an id"
        return {"content": found.content, "reasoning": found.reasoning, "calls": calls}

    def render(self, messages: list[Message]) -> str:
        variables = {"enable_thinking": self.given["enable_thinking"], **self.given.get("variables", {})}
        return self.template.render(messages, tools=self.given["tools"] or None, addGenerationPrompt=False, **variables)

    def problem(self, last: Message) -> tuple[str, str] | None:
        """Return "events" and how their sum differs from the answer, if it does."""
        parser = EventParser(self.format)
        events = [event for piece in self.case.text for event in parser.feed(piece)]
        if not self.case.partial:
            events += parser.finish()
        texts = {"content": "", "reasoning": ""}
        calls: list[Message] = []
        for event in events:
            if event.kind == "call":
                calls.append({"name": event.name, "arguments": "", "id": event.id})
            elif event.kind == "arguments":
                calls[event.index]["arguments"] += event.text
            else:
                texts[event.kind] += event.text
        found = {**texts, "calls": calls}
        return None if found == last else ("events", f"they add up to {found}, the answer is {last}")


LAYERS = {"native": Native, "with tokens": WithTokens, "public": Public}


def parse(case: ParseCase, layer: str = "native", step: int = 1) -> Result:
    """Parse the text of a case, whole and in its prefixes, and compare it with what llama.cpp expects.

    `step` leaves out prefixes: 3 takes each third.
    """
    result = Result(case)
    try:
        subject: Layer = LAYERS[layer](case)
        shown = Shown()
        for text, partial in prefixes(case, step):
            shown.follow(subject.parse(text, partial))
        last = subject.parse(case.text, case.partial)
        message = last if case.partial else subject.message(case.text)
        result.wrong.update(differences(case.expected, message))
        if shown.taken_back:
            result.wrong["streaming"] = shown.taken_back[0]
        elif shown.message() != last:
            result.wrong["streaming"] = f"the pieces add up to {shown.message()}, the whole is {last}"
        if problem := subject.problem(last):
            result.wrong[problem[0]] = problem[1]
        if case.rebuilds:
            whole, again = subject.prompt + case.text, subject.render(_history(case, last))
            if not again.startswith(whole):
                result.wrong["history"] = f"{whole!r} is rendered as {again!r}"
    except ValueError as error:
        result.wrong["error"] = str(error)
    return result


def prefixes(case: ParseCase, step: int = 1) -> Iterator[tuple[str, bool]]:
    """The texts that a case's answer has while it streams, each with whether more follows; the last is the whole."""
    for end in (*range(1, len(case.text), step), len(case.text)):
        yield case.text[:end], case.partial or end < len(case.text)


class Shown:
    """What somebody sees of a message while it streams: pieces are added, and nothing is taken back."""

    def __init__(self) -> None:
        self.texts = {"content": "", "reasoning": ""}
        self.calls: list[dict[str, str]] = []
        self.taken_back: list[str] = []

    def follow(self, message: Message) -> None:
        for name in self.texts:
            self.texts[name] = self._grown(name, self.texts[name], message[name])
        if len(message["calls"]) < len(self.calls):
            self.taken_back.append(f"call {len(self.calls) - 1}: {self.calls[-1]}")
        while len(self.calls) < len(message["calls"]):
            self.calls.append({"name": "", "arguments": "", "id": ""})
        for index, (mine, new) in enumerate(zip(self.calls, message["calls"], strict=False)):
            for name in mine:
                mine[name] = self._grown(f"{name} of call {index}", mine[name], new[name])

    def _grown(self, name: str, before: str, after: str) -> str:
        if not after.startswith(before):
            self.taken_back.append(f"{name}: {before!r} became {after!r}")
        return after

    def message(self) -> Message:
        return {**self.texts, "calls": self.calls}


def differences(expected: Message, found: Message) -> dict[str, str]:
    """What differs, by kind. Space around content and reasoning, and the spelling of JSON, do not count."""
    wrong = {}
    for name in ("content", "reasoning"):
        if expected[name].strip() != found[name].strip():
            wrong[name] = f"expected {expected[name]!r}, got {found[name]!r}"
    if [_normal(call) for call in expected["calls"]] != [_normal(call) for call in found["calls"]]:
        wrong["calls"] = f"expected {expected['calls']}, got {found['calls']}"
    return wrong


def _normal(call: Message) -> Message:
    try:
        return {**call, "arguments": json.dumps(json.loads(call["arguments"]), sort_keys=True)}
    except ValueError:
        return {**call, "arguments": None}  # cut off: llama.cpp's test does not compare it either


def _history(case: ParseCase, found: Message) -> list[Message]:
    """The conversation with the answer, whose arguments are spelled as the model has written them."""
    message: Message = {"role": "assistant", "content": case.expected["content"]}
    if case.expected["reasoning"]:
        message["reasoning_content"] = case.expected["reasoning"]
    if calls := case.expected["calls"]:
        message["tool_calls"] = [
            {
                "type": "function",
                "id": call["id"],
                "function": {"name": call["name"], "arguments": as_written["arguments"]},
            }
            for call, as_written in zip(calls, found["calls"], strict=False)
        ]
    return [*case.inputs["messages"], message]


def prompt(case: PromptCase) -> Result:
    """Apply a template, and test one property of the prompt."""
    result = Result(case)
    try:
        made = template(cases.template_source(case.template)).apply(case.inputs)
    except ValueError as error:
        result.wrong["error"] = str(error)
        return result
    holds = {
        "contains": case.text in made["prompt"],
        "lacks": case.text not in made["prompt"],
        "ends": made["prompt"].endswith(case.text),
        "does not end": not made["prompt"].endswith(case.text),
        "generation_prompt": made["generation_prompt"] == case.text,
    }
    if not holds[case.what]:
        result.wrong["prompt"] = f"{case.what} {case.text!r}: {made['prompt']!r}"
    return result


def render(case: RenderCase) -> Result:
    """Render a conversation, and compare the whole prompt."""
    result = Result(case)
    try:
        found = template(case.source, case.bos, case.eos).render(case.inputs)
    except ValueError as error:
        result.wrong["error"] = str(error)
        return result
    if found != case.expected:
        result.wrong["prompt"] = f"expected {case.expected!r}, got {found!r}"
    return result
