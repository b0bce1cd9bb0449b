"""Ends a thought that takes too many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected, integer
from llama_cffi.chat.answer_format import AnswerFormat
from llama_cffi.context.context import Context
from llama_cffi.generation.request_options import INT32_MAX
from llama_cffi.sampling.token_data_array import TokenDataArray
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab


class _Samples(Protocol):
    """A sampler, or what stands for one."""

    def reset(self) -> None: ...
    def accept(self, token: Token) -> None: ...
    def sample(self, ctx: Context, idx: int) -> Token: ...
    def _accept_prompt(self, tokens: Sequence[Token]) -> None: ...
    def close(self) -> None: ...


class ThoughtLimit:
    """Follows an answer, and says which tokens end its thought when it has too many. `Sampler.init` takes it."""

    name = "thought limit"

    def __init__(self, vocab: Vocab, tokens: int, marks: tuple[str, str], prompt: str, words: str) -> None:
        """`marks` begin and end a thought; `prompt` may have begun it; `words` come before its end."""
        self._options = (vocab, tokens, marks, prompt, words)
        self._vocab, self._most, (self._start, self._end) = vocab, tokens, marks
        self._begun = bool(self._start) and prompt.rstrip().endswith(self._start)
        self._closing = tokenize(vocab, f"{words}{self._end}", addSpecial=False, parseSpecial=True)
        self.reset()

    def reset(self) -> None:
        self._thinks, self._text, self._left = self._begun, "", self._most
        self._forced: list[Token] = []
        self._over = False  # the thought has ended

    def clone(self) -> ThoughtLimit:
        twin = ThoughtLimit(*self._options)
        twin._thinks, twin._text, twin._left = self._thinks, self._text, self._left
        twin._forced, twin._over = list(self._forced), self._over
        return twin

    @property
    def next(self) -> Token | None:
        """The token that has to come next; None if any may."""
        if self._thinks and self._left <= 0 and not self._over:
            self._forced, self._over = list(self._closing), True
        return self._forced[0] if self._forced else None

    def accept(self, token: Token) -> None:
        """Follow the text: has the thought begun, or ended?"""
        if self._forced:
            self._forced.pop(0)
        elif not self._over:
            self._text += self._vocab.tokenToPiece(token, special=True)
            if self._thinks:
                self._left -= 1
                self._over = self._end in self._text
            elif self._start and self._start in self._text:
                self._thinks, self._text = True, self._text.partition(self._start)[2]
            if len(self._text) > 4096:
                self._text = self._text[-1024:]

    def apply(self, candidates: TokenDataArray) -> None:
        token = self.next
        if token is not None:
            candidates.data = [(token, 0.0, 0.0)]


class ThinkingBudget:
    """Samples with another sampler, and writes the end of a thought itself after a number of its tokens."""

    def __init__(self, sampler: _Samples, owned: bool, limit: ThoughtLimit) -> None:
        self._sampler, self._owned, self._limit = sampler, owned, limit

    def reset(self) -> None:
        self._sampler.reset()
        self._limit.reset()

    def _accept_prompt(self, tokens: Sequence[Token]) -> None:
        self._sampler._accept_prompt(tokens)

    def sample(self, ctx: Context, idx: int) -> Token:
        token = self._limit.next
        if token is None:
            token = self._sampler.sample(ctx, idx)
        else:
            self._sampler.accept(token)
        self._limit.accept(token)
        return token

    def close(self) -> None:
        if self._owned:
            self._sampler.close()


def thought_limit(format: AnswerFormat, vocab: Vocab, tokens: int | None, words: str) -> ThoughtLimit | None:
    """Return the limit of an answer's thought; None if it has none, or the model does not think."""
    budget = None if tokens is None else integer(tokens, 0, INT32_MAX, "thinkingBudget")
    if not isinstance(words, str):
        raise expected("a str", words, name="thinkingClose")
    if budget is None or not format.thinks or not format.thinkingEnd:
        return None
    return ThoughtLimit(vocab, budget, (format.thinkingStart, format.thinkingEnd), format.prompt, words)
