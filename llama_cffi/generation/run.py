"""A generation at work: decode, sample, and tell text from the end, one token after another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Set
from threading import RLock
from time import perf_counter
from typing import NoReturn

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.ffi import lib
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, ContextFullError, DecodeError
from llama_cffi.generation.steps import Alternative, GenerationStep, StopReason, odds_of
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.generation.token_cache import TokenCache
from llama_cffi.sampling.sampler import Sampler

_ABORTED = 2  # what llama_decode returns then


class Run:
    """The state of a generation. Its iterator holds this and not the `Generation`, which so ends when it is let go."""

    def __init__(self, ctx: Context, cache: TokenCache, sampler: Sampler, stream: TextStream) -> None:
        self.context, self.cache, self.sampler, self.stream = ctx, cache, sampler, stream
        self.model = ctx.getModel()
        self.owns_sampler = False
        self.prompt: list[Token] = []
        self.most = 0  # tokens
        self.stop_tokens: Set[Token] = frozenset()
        self.odds: int | None = None  # how many alternatives of each token to name
        self.room: int | None = None  # tokens that fit the sequence; None: any number
        self.keep = -1  # tokens at the beginning that a shift leaves; -1: do not shift

        self.when_begun: Callable[[], None] | None = None
        self.when_ended: Callable[[Run], None] | None = None

        self.tokens: list[Token] = []
        self.texts: list[str] = []
        self.step: GenerationStep | None = None  # the last one, where it is more than a token and its text
        self.reason: StopReason | None = None
        self.stop_token: Token | None = None
        self.reused = 0
        self.prompt_seconds = self.seconds = 0.0

        self._chance: tuple[float, tuple[Alternative, ...]] = (0.0, ())  # of the last token
        self._ticket = object()  # whose turn it is; not this object, which would keep the context alive
        self._lock = RLock()  # a signal handler may cancel, on the thread that holds it
        self._cancelled = False
        self._abortable = False  # whether a long computation is running

    def steps(self) -> Generator[str, None, None]:
        """Every token's text, also where that is empty; then what was held back, if there is something.

        Between decoding and sampling there is no `yield`: nobody else's outputs are sampled.
        """
        tokens, stream, feed = self.tokens, self.stream, self.stream.feed
        resumed = perf_counter()
        if self.when_begun is not None:
            self.when_begun()
        try:
            token = self._begin()
            now = perf_counter()
            self.prompt_seconds, resumed = now - resumed, now
            is_eog, vocab, stop_tokens = lib.llama_vocab_is_eog, self.model.vocab._c, self.stop_tokens
            while token is not None:
                if is_eog(vocab, token) or token in stop_tokens:
                    self._end_with(token)
                    break
                text = feed(token)
                tokens.append(token)
                if stream.stopped is not None:
                    self.reason = StopReason.STOP_STRING
                elif len(tokens) >= self.most:
                    self.reason = StopReason.LENGTH
                if self.odds is not None:
                    self.step = GenerationStep(token, text, *self._chance)
                if text:
                    self.texts.append(text)
                self.seconds += perf_counter() - resumed
                yield text
                resumed = perf_counter()
                if self.reason is not None:
                    break
                token = self._next(token)
            self.seconds += perf_counter() - resumed
            rest = stream.finish()
            if rest:
                self.texts.append(rest)
                self.step = GenerationStep(None, rest)
                yield rest
        except (GeneratorExit, KeyboardInterrupt):
            self.reason = self.reason or StopReason.CANCELLED
            raise
        finally:
            self.end()
            if self.when_ended is not None:
                self.when_ended(self)

    def _end_with(self, token: Token) -> None:
        self.reason = StopReason.END if self.model.vocab.isEog(token) else StopReason.STOP_TOKEN
        self.stop_token = token

    # Decoding and sampling

    def _begin(self) -> Token | None:
        """Decode what is new in the prompt, and sample the first token. None where it was cancelled."""
        cache = self.cache
        if not cache.decode_lock.acquire(False):
            self._raise_busy()
        try:
            self.sampler.reset()
            cache.take(self._ticket)
            if self.model.hasEncoder:
                cache.clear()
                done = self._compute(self._encode)
            else:
                self.reused = cache.adaptTo(self.prompt)
                done = self._compute(lambda: cache.decode(self.prompt[self.reused :]))
            return self._sample() if done else None
        finally:
            cache.decode_lock.release()

    def _encode(self) -> None:
        """Have the encoder read the prompt, and begin what the decoder writes."""
        start = self.model.decoderStartToken
        if start == TOKEN_NULL:
            start = self.model.vocab.bos
        self.context.encode(Batch.getOne(self.prompt))
        self.cache.decode([start])

    def _next(self, token: Token) -> Token | None:
        """Decode a token and sample the next one. None where that cannot be; `reason` says why."""
        cache = self.cache
        if self._cancelled:
            self.reason = StopReason.CANCELLED
            return None
        if not cache.decode_lock.acquire(False):
            self._raise_busy()
        try:
            known = cache._known  # as `belongs` and `len` do, written out: this is every token's way
            if known.user is not self._ticket or known.changes != cache._memory._changes[cache._seqId]:
                raise BusyError(
                    "another generation has begun in this sequence of the context, or its memory was changed: let one "
                    "end before the next begins, or give each a seqId of its own (Context.Params.nSeqMax)"
                )
            if self.room is not None and len(known.tokens) >= self.room and not self._shift_context():
                return None
            cache.push(token)
            return self.sampler.sample(self.context, -1) if self.odds is None else self._sample()
        except ContextFullError:  # other sequences have taken the room
            self.reason = StopReason.CONTEXT_FULL
            return None
        finally:
            cache.decode_lock.release()

    def _sample(self) -> Token:
        token = self.sampler.sample(self.context, -1)
        if self.odds is not None:
            self._chance = odds_of(self.context, token, self.odds)
        return token

    def _shift_context(self) -> bool:
        """Forget half of what stands behind the tokens to keep, if that is wanted."""
        if self.keep < 0:
            self.reason = StopReason.CONTEXT_FULL
            return False
        count = max(1, (len(self.cache) - self.keep) // 2)
        return self._compute(lambda: self.cache.discard(self.keep, count))

    def _raise_busy(self) -> NoReturn:
        raise BusyError(
            "another thread computes with this context: use a context for each thread, or an Engine for many requests"
        )

    # Cancelling

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._abortable:
                self.context._stop[0] = 1

    def _compute(self, work: Callable[[], None]) -> bool:
        """Do what takes long. False where it was cancelled."""
        with self._lock:
            self._abortable = not self._cancelled
        try:
            if self._abortable:
                work()
        except DecodeError as error:
            if not (self._cancelled and error.code == _ABORTED):
                raise
        finally:
            with self._lock:
                self._abortable = False
                self.context._stop[0] = 0
        if self._cancelled:
            self.reason = StopReason.CANCELLED
        return not self._cancelled

    def end(self) -> None:
        """Free what is only for this generation."""
        if self.owns_sampler:
            self.sampler.close()
