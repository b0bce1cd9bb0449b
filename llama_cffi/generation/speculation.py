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
from llama_cffi._core.compat import has
from llama_cffi.context.context import Context
from llama_cffi.errors import ContextFullError
from llama_cffi.generation.pace import Cost, Pace
from llama_cffi.generation.token_cache import TokenCache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi.model.model import Model
    from llama_cffi.vocab.vocab import Vocab


class Speculation:
    """How to guess tokens: `PromptLookup` or `DraftModel`, for `speculation` of a `Generation` or an `Engine`."""

    __slots__ = ("__weakref__",)

    _most: int  # tokens to guess at a time
    _adapts: bool

    def _start(self, ctx: Context) -> Guesser:
        """Begin a text in this context."""
        raise NotImplementedError

    def _start_in_engine(self, vocab: Vocab) -> Guesser:
        """Begin one of the texts of an engine, which writes many at once."""
        raise NotImplementedError

    def _require_engine(self) -> None:
        """Raise ValueError unless an engine can guess in this way."""


def require_speculation(speculation: Speculation) -> Speculation:
    """Return how to guess; raise TypeError if it is something else."""
    if not isinstance(speculation, Speculation):
        raise expected("a PromptLookup or a DraftModel", speculation, "PromptLookup() makes one", "speculation")
    return speculation


def require_memory_that_goes_back(model: Model) -> None:
    """Raise ValueError for a model whose memory cannot go back to before a wrong guess."""
    recurrent = model.isRecurrent or (has("llama_model_is_hybrid") and model.isHybrid)
    if recurrent and not has("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY"):
        raise ValueError(
            "speculation needs a memory that can go back, and this model has a recurrent state, which this llama.cpp "
            "cannot copy: leave it out"
        )


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


class Guesses:
    """The guesses of one text: how many are worth making, and how many were right."""

    __slots__ = ("_guesser", "_kind", "_pace", "accepted", "guessed", "most")

    def __init__(self, speculation: Speculation, guesser: Guesser, cost: Cost | None = None) -> None:
        """`cost` is what is known of decodes, for texts that share it."""
        self._guesser, self._pace = guesser, Pace(guesser.kinds, speculation._adapts, cost)
        self._kind = -1  # of the last guesses
        self.most = speculation._most  # guesses at a time
        self.guessed = self.accepted = 0

    def add(self, tokens: Sequence[Token]) -> None:
        """Take the next tokens of the text."""
        self._guesser.add(tokens)

    def make(self, most: int, others: int = 0, guesses: int = 0) -> list[Token]:
        """Guess what follows, at most `most` tokens; see `Pace.choose` for the rest."""
        guesser, pace, start = self._guesser, self._pace, perf_counter()
        most = min(most, self.most)
        self._kind = guesser.find() if most > 0 else -1
        if self._kind < 0:
            return []
        count = pace.choose(most, self._kind, others, guesses)
        if not count:
            pace.skipped(self._kind)
            return []
        found = guesser.guess(count)
        pace.guessing_took(len(found), perf_counter() - start)
        return found

    def took(self, tokens: int, seconds: float) -> None:
        """Note the seconds of a decode of this many tokens, with the sampling after it."""
        self._pace.took(tokens, seconds)

    def judged(self, right: int, wrong: bool) -> None:
        """Note how many of the last guesses were right before the first wrong one, and if there was one."""
        self._pace.judged(self._kind, right, wrong)

    def close(self) -> None:
        """End the text."""
        self._guesser.close()


class SpeculativeDecoder:
    """Decodes the tokens of one generation together with guesses.

    The sequence then contains tokens that are not part of the text yet. Their outputs are valid until the context
    computes anything else; then they are decoded again.
    """

    __slots__ = (
        *("_cache", "_computed", "_first", "_kept", "_limits", "_most", "_seconds"),
        "guesses",
    )

    def __init__(self, speculation: Speculation, ctx: Context, cache: TokenCache) -> None:
        self._cache, self._limits = cache, ctx._limits
        self.guesses = Guesses(speculation, speculation._start(ctx))
        limits = self._limits
        self._most = max(min(limits.n_batch, limits.n_ubatch, limits.n_outputs) - 1, 0)
        self._first = 0  # where the guesses begin in the sequence; 0: there are none
        self._kept = 0  # tokens of the sequence that are part of the text, while there are guesses
        self._seconds, self._computed = 0.0, 0  # of the batch with the guesses

    @property
    def n_kept(self) -> int:
        """The number of tokens of the sequence that are part of the text."""
        return self._kept if self._first else len(self._cache)

    def begin(self, prompt: Sequence[Token]) -> None:
        """Take the prompt."""
        self.guesses.add(prompt)

    def next(
        self, token: Token, owner: object, room: Callable[[], int], sample: Callable[[int], Token]
    ) -> Token | None:
        """Return the token that follows `token`: what `sample` picks from the output with the index that it is passed.

        `token` is decoded together with guesses, unless it was guessed itself. `room` is called before a decode, and
        returns how many tokens may follow `token` in the sequence; -1 if not even that fits: then the result is None.
        """
        cache, made = self._cache, self.guesses
        cache.require_owner(owner)
        made.add((token,))
        if self._first:
            tokens = cache.contents.tokens
            right = self._kept < len(tokens) and tokens[self._kept] == token
            if right and self._outputs_are_valid():
                self._kept += 1
                made.accepted += 1
                return sample(self._kept - self._first)
            self._take_back(owner, wrong=not right and self._kept < len(tokens))
        most = room()
        if most < 0:
            return None
        guesses = made.make(min(most, self._most))
        start = perf_counter()
        if guesses and self._decode([token, *guesses], owner):
            picked = sample(0)
            self._seconds = perf_counter() - start
            return picked
        cache.push(token, owner)
        picked = sample(-1)
        made.took(1, perf_counter() - start)
        return picked

    def finish(self, owner: object) -> None:
        """End the text: remove the guesses that are left."""
        self.guesses.close()
        if self._cache.is_owned_by(owner):
            if self._first:
                self._cache.take_back(self._kept, owner)
            self._cache.set_mark(False)
        self._first = 0

    def _decode(self, tokens: list[Token], owner: object) -> bool:
        """Decode a token and guesses. False if other sequences use the cells that the guesses need."""
        self._cache.set_mark()
        try:
            self._cache.push_all(tokens, owner)
        except ContextFullError:
            return False
        self._first = self._kept = len(self._cache) - len(tokens) + 1
        self._computed = self._limits.computed
        self.guesses.guessed += len(tokens) - 1
        return True

    def _outputs_are_valid(self) -> bool:
        valid: bool = self._limits.computed == self._computed and self._limits.rows > 0
        return valid

    def _take_back(self, owner: object, wrong: bool) -> None:
        """Remove the guesses that are not part of the text, and note how many were."""
        start, right, size = perf_counter(), self._kept - self._first, len(self._cache) - self._first + 1
        self._cache.decode(self._cache.take_back(self._kept, owner), output=False)
        self._first = 0
        self.guesses.took(size, self._seconds + perf_counter() - start)
        self.guesses.judged(right, wrong)
