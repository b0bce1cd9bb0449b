"""Evaluates a case of `cases.py` with the native chat library, as llama.cpp's own test does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from llama_cffi.chat.native import NativeParser, NativeTemplate
from tests.chat import cases
from tests.chat.cases import ParseCase, PromptCase, RenderCase

Message = dict[str, Any]


@dataclass
class Result:
    """What is wrong with a case: "content", "reasoning", "calls", "streaming", "grammar", "history" or "error"."""

    case: Any
    wrong: dict[str, str] = field(default_factory=dict)


@cache
def template(source: str, bos: str = "", eos: str = "") -> NativeTemplate:
    return NativeTemplate(source, bos, eos)


def parse(case: ParseCase) -> Result:
    """Parse the text of a case, whole and in all its prefixes, and compare it with what llama.cpp expects."""
    result = Result(case)
    try:
        made = template(cases.template_source(case.template)).apply(case.inputs)
        parser = NativeParser(made["parser"])
        shown = Shown()
        for text, partial in prefixes(case):
            shown.follow(parser.parse(text, partial))
        last = parser.parse(case.text, case.partial)
    except ValueError as error:
        result.wrong["error"] = str(error)
        return result
    result.wrong.update(differences(case.expected, last))
    if shown.taken_back:
        result.wrong["streaming"] = shown.taken_back[0]
    elif shown.message() != last:
        result.wrong["streaming"] = f"the pieces add up to {shown.message()}, the whole is {last}"
    if case.inputs["json_schema"] and (not made["grammar"] or made["grammar_lazy"]):
        result.wrong["grammar"] = "a response format needs a grammar from the first token"
    if case.rebuilds:
        _check_history(case, made["prompt"], last, result)
    return result


def prefixes(case: ParseCase) -> Iterator[tuple[str, bool]]:
    """The texts that a case's answer has while it streams, each with whether more follows."""
    for end in range(1, len(case.text) + 1):
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


def _check_history(case: ParseCase, prompt: str, found: Message, result: Result) -> None:
    """Rendering the answer as part of the history must give the text that the model has written."""
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
    inputs = {**case.inputs, "messages": [*case.inputs["messages"], message], "add_generation_prompt": False}
    try:
        again = template(cases.template_source(case.template)).render(inputs)
    except ValueError as error:
        result.wrong["history"] = str(error)
        return
    if not again.startswith(prompt + case.text):
        result.wrong["history"] = f"{prompt + case.text!r} is rendered as {again!r}"


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
