"""Speculative decoding: guess several tokens, check them in one decode, keep those that the sampler picks as well.

A decode reads all weights of the model, for one token or for several. Each token is sampled from the model's own logits
by the sampler of the generation, in order, so the text is the one that it writes without guesses, as far as logits of
larger batches are the same. The sampler never goes back: it sees only tokens that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected
from llama_cffi.context.context import Context
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.pace import Pace
from llama_cffi.generation.token_cache import TokenCache


class Speculation:
    """How to guess tokens: `PromptLookup` or `DraftModel`, for `speculation` of a `Generation`."""

    __slots__ = ("__weakref__",)

    _most: int  # tokens to guess at a time
    _adapts: bool

    def _start(self, ctx: Context) -> Guesser:
        """Begin a text in this context."""
        raise NotImplementedError


def require_speculation(speculation: Speculation) -> Speculation:
    """Return how to guess; raise TypeError if it is something else."""
    if not isinstance(speculation, Speculation):
        raise expected("a PromptLookup or a DraftModel", speculation, "PromptLookup() makes one", "speculation")
    return speculation


class Guesser:
    """Guesses the next tokens of one text."""

    __slots__ = ()

    kinds: tuple[float, ...]
    """The kinds of its guesses: how often they are right, as far as that is known before any is seen."""

    def add(self, tokens: Sequence[Token]) -> None:
        """Take the next tokens of the text."""
        raise NotImplementedError

    def find(self) -> int:
        """Return the kind of the next guess, -1 if there is nothing to guess."""
        raise NotImplementedError

    def guess(self, count: int) -> list[Token]:
        """Guess tokens, at most `count`, of the kind that `find` found."""
        raise NotImplementedError

    def close(self) -> None:
        """End the text."""


class SpeculativeDecoder:
    """Decodes the tokens of one generation together with guesses.

    The sequence then contains tokens that are not part of the text yet. Their outputs are valid until the context
    computes anything else; then they are decoded again.
    """

    __slots__ = (
        *("_cache", "_computed", "_first", "_guesser", "_kept", "_kind", "_limits", "_most", "_pace", "_seconds"),
        *("accepted", "guessed"),
    )

    def __init__(self, speculation: Speculation, ctx: Context, cache: TokenCache) -> None:
        self._cache, self._limits = cache, ctx._limits
        self._guesser = speculation._start(ctx)
        self._pace = Pace(self._guesser.kinds, speculation._adapts)
        limits = self._limits
        self._most = max(min(speculation._most, limits.n_batch - 1, limits.n_ubatch - 1, limits.n_outputs - 1), 0)
        self._first = 0  # where the guesses begin in the sequence; 0: there are none
        self._kept = 0  # tokens of the sequence that are part of the text, while there are guesses
        self._kind, self._seconds, self._computed = -1, 0.0, 0  # of the batch with the guesses
        self.guessed = self.accepted = 0

    def begin(self, prompt: Sequence[Token]) -> None:
        """Take the prompt."""
        self._guesser.add(prompt)

    def next(
        self, token: Token, owner: object, room: Callable[[], int], sample: Callable[[int], Token]
    ) -> Token | None:
        """Return the token that follows `token`: what `sample` picks from the output with the index that it is passed.

        `token` is decoded together with guesses, unless it was guessed itself. `room` is called before a decode, and
        returns how many tokens may follow `token` in the sequence; -1 if not even that fits: then the result is None.
        """
        cache, pace = self._cache, self._pace
        cache.require_owner(owner)
        self._guesser.add((token,))
        if self._first:
            tokens = cache.contents.tokens
            right = self._kept < len(tokens) and tokens[self._kept] == token
            if right and self._outputs_are_valid():
                self._kept += 1
                self.accepted += 1
                return sample(self._kept - self._first)
            self._take_back(owner, wrong=not right and self._kept < len(tokens))
        most = room()
        if most < 0:
            return None
        guesses = self._guess(min(most, self._most))
        start = perf_counter()
        if guesses and self._decode([token, *guesses], owner):
            picked = sample(0)
            self._seconds = perf_counter() - start
            return picked
        cache.push(token, owner)
        picked = sample(-1)
        pace.took(1, perf_counter() - start)
        return picked

    def finish(self, owner: object) -> None:
        """End the text: remove the guesses that are left."""
        self._guesser.close()
        if self._first and self._cache.is_owned_by(owner):
            self._cache.take_back(self._kept, owner)

    def _guess(self, most: int) -> list[Token]:
        guesser, pace = self._guesser, self._pace
        start = perf_counter()
        self._kind = guesser.find() if most > 0 else -1
        if self._kind < 0:
            return []
        count = pace.choose(most, self._kind)
        if not count:
            pace.skipped(self._kind)
            return []
        guesses = guesser.guess(count)
        pace.guessing_took(len(guesses), perf_counter() - start)
        return guesses

    def _decode(self, tokens: list[Token], owner: object) -> bool:
        """Decode a token and guesses. False if other sequences use the cells that the guesses need."""
        try:
            self._cache.push_all(tokens, owner)
        except ContextFullError:
            return False
        self._first = self._kept = len(self._cache) - len(tokens) + 1
        self._computed = self._limits.computed
        self.guessed += len(tokens) - 1
        return True

    def _outputs_are_valid(self) -> bool:
        valid: bool = self._limits.computed == self._computed and self._limits.rows > 0
        return valid

    def _take_back(self, owner: object, wrong: bool) -> None:
        """Remove the guesses that are not part of the text, and note how many were."""
        start, right, size = perf_counter(), self._kept - self._first, len(self._cache) - self._first + 1
        self._cache.decode(self._cache.take_back(self._kept, owner), output=False)
        self._first = 0
        self._pace.took(size, self._seconds + perf_counter() - start)
        self._pace.judged(self._kind, right, wrong)
