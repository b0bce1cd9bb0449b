"""What llama.cpp's chat tests expect, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


def _stem(template: str) -> str:
    return "a template of the test" if "{" in template else Path(template).stem


@dataclass
class ParseCase:
    """An answer of a model, and the message that it holds."""

    line: int
    template: str
    inputs: dict[str, Any]
    text: str
    partial: bool
    expected: dict[str, Any]
    rebuilds: bool

    @property
    def name(self) -> str:
        return f"{_stem(self.template)}:{self.line}"

    @property
    def kinds(self) -> list[str]:
        """What the message holds: "content", "reasoning", "calls"."""
        return [kind for kind in ("content", "reasoning", "calls") if self.expected[kind]]


@dataclass
class PromptCase:
    """A property of a prompt: it "contains", "lacks", "ends" or "does not end" with a text, or its
    "generation_prompt" is the text.
    """

    line: int
    template: str
    inputs: dict[str, Any]
    what: str
    text: str

    @property
    def name(self) -> str:
        return f"{_stem(self.template)}:{self.line}:{self.what}"


@dataclass
class RenderCase:
    """A conversation and the whole prompt that a template makes of it."""

    name: str
    source: str
    bos: str
    eos: str
    inputs: dict[str, Any]
    expected: str


class Missing(NamedTuple):
    """A place of llama.cpp's tests that was not read, and why."""

    line: int
    what: str
    reason: str


@dataclass
class Cases:
    parse: list[ParseCase] = field(default_factory=list)
    prompt: list[PromptCase] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
