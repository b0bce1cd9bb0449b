"""Ends a thought that takes too many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llama_cffi._core.base_types import Token
from llama_cffi.context.context import Context
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab


class _Samples(Protocol):
    """A sampler, or what stands for one."""

    def reset(self) -> None: ...
    def accept(self, token: Token) -> None: ...
    def sample(self, ctx: Context, idx: int) -> Token: ...
    def _accept_prompt(self, tokens: Sequence[Token]) -> None: ...
    def close(self) -> None: ...


class ThinkingBudget:
    """Samples with another sampler, and writes the end of the thought itself after a number of its tokens."""

    def __init__(
        self, sampler: _Samples, owned: bool, vocab: Vocab, tokens: int, marks: tuple[str, str], prompt: str, words: str
    ) -> None:
        """`marks` begin and end a thought; `prompt` may have begun it; `words` come before its end."""
        self._sampler, self._owned, self._vocab = sampler, owned, vocab
        self._most, self._start, self._end = tokens, *marks
        self._begun = bool(self._start) and prompt.rstrip().endswith(self._start)
        self._closing = tokenize(vocab, f"{words}{self._end}", addSpecial=False, parseSpecial=True)
        self.reset()

    def reset(self) -> None:
        self._sampler.reset()
        self._thinks, self._text, self._left = self._begun, "", self._most
        self._forced: list[Token] = []
        self._over = False  # the thought has ended

    def _accept_prompt(self, tokens: Sequence[Token]) -> None:
        self._sampler._accept_prompt(tokens)

    def sample(self, ctx: Context, idx: int) -> Token:
        if self._thinks and self._left <= 0 and not self._over:
            self._forced, self._over = list(self._closing), True
        if self._forced:
            token = self._forced.pop(0)
            self._sampler.accept(token)
            return token
        token = self._sampler.sample(ctx, idx)
        if not self._over:
            self._watch(token)
        return token

    def _watch(self, token: Token) -> None:
        """Follow the text: has the thought begun, or ended?"""
        self._text += self._vocab.tokenToPiece(token, special=True)
        if self._thinks:
            self._left -= 1
            self._over = self._end in self._text
        elif self._start and self._start in self._text:
            self._thinks, self._text = True, self._text.partition(self._start)[2]
        if len(self._text) > 4096:
            self._text = self._text[-1024:]

    def close(self) -> None:
        if self._owned:
            self._sampler.close()
