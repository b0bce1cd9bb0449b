"""A sampler that keeps an answer in its format: the grammar of the tool calls before the user's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import lib
from llama_cffi.context.context import Context
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.sampling.token_data_array import TokenDataArray


class FormattedSampler:
    """Samples with the user's sampler alone while a lazy grammar waits for a tool call to begin, which costs nothing.

    From there on, it samples from the tokens that the grammar allows.
    """

    def __init__(self, grammar: Sampler, begin: Callable[[Sampler], None], sampler: Sampler, owned: bool) -> None:
        """`begin` prepares the grammar after each reset; `owned` closes the sampler too."""
        self._grammar, self._begin, self._sampler, self._owned = grammar, begin, sampler, owned
        self._waits = False

    def reset(self) -> None:
        self._sampler.reset()
        self._grammar.reset()
        self._begin(self._grammar)
        self._waits = bool(lib.shim_grammar_waits(self._grammar._c))

    def _accept_prompt(self, tokens: Sequence[Token]) -> None:
        self._sampler._accept_prompt(tokens)

    def sample(self, ctx: Context, idx: int) -> Token:
        if self._waits:
            token = self._sampler.sample(ctx, idx)
            self._grammar.accept(token)
            self._waits = bool(lib.shim_grammar_waits(self._grammar._c))
            return token
        candidates = TokenDataArray.fromLogits(ctx.getLogitsIth(idx))
        self._grammar.apply(candidates)
        self._sampler.apply(candidates)
        token = candidates[candidates.selected].id
        self._sampler.accept(token)
        self._grammar.accept(token)
        return token

    def accept(self, token: Token) -> None:
        self._sampler.accept(token)
        self._grammar.accept(token)
        self._waits = bool(lib.shim_grammar_waits(self._grammar._c))

    def close(self) -> None:
        self._grammar.close()
        if self._owned:
            self._sampler.close()
