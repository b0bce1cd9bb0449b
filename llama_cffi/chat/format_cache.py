"""Caches the grammar and the parser of answers, so that the next turn of a conversation needs only a new prompt.

Both depend on the template, the tools and the options. They depend on the messages only through the generation prompt,
which is the text that `add_generation_prompt` adds at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_cffi.chat.answer_format import AnswerFormat
from llama_cffi.chat.native import ChatCodeError, NativeTemplate

MOST_FORMATS = 32  # of one template
MOST_BYTES = 4 << 20  # of their options and grammars as text, and of their parsers
_RULE = 128  # bytes of a rule of a parser, about


class FormatCache:
    """The formats of one template, the oldest first. Threads can share it, since each change makes a new dict."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # By options and generation prompt, with their sizes. A generation prompt of None stands for all: the template
        # has another one than rendering shows, so that nothing can be kept.
        self._kept: dict[tuple[str, str | None], tuple[AnswerFormat | None, int]] = {}

    def find(self, options: str, own: NativeTemplate, inputs: Mapping[str, Any]) -> AnswerFormat | None:
        """Return the format of an answer to the messages in `inputs`; None if it has to be made."""
        kept = self._kept
        if not any([known == options and form is not None for (known, _), (form, _) in kept.items()]):
            return None
        try:
            prompt = own.render(inputs)
            form, _ = kept.get((options, _added(own, inputs, prompt)), (None, 0))
        except ChatCodeError:  # the messages are rejected, which the call for a new format reports
            return None
        return None if form is None else form._copy(prompt)

    def keep(
        self,
        options: str,
        own: NativeTemplate,
        inputs: Mapping[str, Any],
        added: str | None,
        made: AnswerFormat,
        *applied: Mapping[str, Any],
    ) -> None:
        """Keep a new format, made of `applied`. `added` is the generation prompt that llama.cpp's chat code found."""
        if (options, None) in self._kept:
            return
        try:
            if _added(own, inputs, made.prompt) != added:
                added = None
        except ChatCodeError:
            added = None
        form = None if added is None else made._copy("")
        size = len(options) + len(made.grammar) + _RULE * sum(one["parser"].rules for one in applied)
        kept = {**self._kept, (options, added): (form, size)}
        while len(kept) > MOST_FORMATS or sum(size for _, size in kept.values()) > MOST_BYTES:
            del kept[next(iter(kept))]
        self._kept = kept


def _added(own: NativeTemplate, inputs: Mapping[str, Any], prompt: str) -> str:
    """Return the generation prompt: where a prompt differs from one without it."""
    without = own.render({**inputs, "add_generation_prompt": False})
    if prompt.startswith(without):
        return prompt[len(without) :]
    low, high = 0, min(len(prompt), len(without))
    while low < high:
        middle = (low + high + 1) // 2
        if prompt.startswith(without[:middle]):
            low = middle
        else:
            high = middle - 1
    return prompt[low:]
