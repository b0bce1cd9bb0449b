"""The generation loop: decode a token, sample the next one, turn it into text."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from functools import partial
from threading import RLock
from time import perf_counter

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.ownership import atomic, hold, locked
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, ContextFullError, DecodeError, LlamaError
from llama_cffi.generation.prefix import media_of, texts_only
from llama_cffi.generation.steps import Alternative, GenerationStep, StopReason
from llama_cffi.generation.stop_rules import StopRules
from llama_cffi.generation.token_cache import ABORTED, TokenCache
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from llama_cffi.generation.prompt_cache.sequence import StoredSequence
    from llama_cffi.generation.speculation import SpeculativeDecoder


class Run:
    """The state of a generation.

    The iterator over its steps holds this object and not the `Generation`, so that dropping the generation ends it.
    """

    def __init__(self, ctx: Context, cache: TokenCache, sampler: Sampler, rules: StopRules) -> None:
        self.context, self.cache, self.sampler, self.rules = ctx, cache, sampler, rules
        self.model = ctx.getModel()
        self.owns_sampler = False
        self.prompt: list[Token] = []
        self.log_probs: int | None = None  # how many alternatives to report for each token
        self.prompt_log_probs: int | None = None  # the same for the tokens of the prompt
        self.scored_from = 1  # the first token of the prompt that they are computed for
        self.prompt_steps: list[GenerationStep | None] = []
        self.capacity: int | None = None  # tokens that fit the sequence; None: no limit
        self.keep = -1  # tokens at the start that a context shift keeps; -1: do not shift

        self.speculation: SpeculativeDecoder | None = None
        self.stored: StoredSequence | None = None  # the prompt cache on disk
        self.is_chat = False  # the next prompt of the sequence may change the end of this one

        self.start_sampler: Callable[[Sampler], None] = Sampler.reset
        self.when_begun: Callable[[], None] | None = None
        self.when_ended: Callable[[Run], None] | None = None

        self.begun = False
        self.texts: list[str] = []
        self.step: GenerationStep | None = None  # the last one, if it is more than a token and its text
        self.error = ""  # the name of the exception that ended the generation
        self.reused = self.restored = self.from_disk = 0
        self.prompt_seconds = self.seconds = 0.0

        self._log_probs: tuple[float, tuple[Alternative, ...]] = (0.0, ())  # of the last token
        self._ticket = object()  # owns the sequence; not `self`, which would keep the context alive
        self._lock = RLock()  # reentrant: a signal handler may cancel on the thread that holds it
        self._cancelled = False
        self._abortable = False  # a long computation is running
        abortable, lock = partial(setattr, weakref.proxy(self), "_abortable"), self._lock
        self._begin_abortable = partial(abortable, True)
        end = (lock.acquire,), (abortable, False), (ctx._stop.__setitem__, 0, 0), (lock.release,)
        self._end_abortable = partial(atomic, end)
        self._acquire_decoding = partial(cache.decode_lock.acquire, False)

    def steps(self) -> Generator[str, None, None]:
        """Yield the text of every token, even if it is empty; then text that was held back, if there is any.

        There is no `yield` between decoding and sampling, so nobody else's outputs are sampled.
        """
        rules, feed = self.rules, self.rules.feed
        self.begun = True
        resumed = perf_counter()
        try:
            if self.when_begun is not None:
                self.when_begun()
            token = self._begin()
            now = perf_counter()
            self.prompt_seconds, resumed = now - resumed, now
            while token is not None:
                text = feed(token)
                if text is None:
                    break
                if self.log_probs is not None:
                    self.step = GenerationStep(token, text, *self._log_probs)
                if text:
                    self.texts.append(text)
                self.seconds += perf_counter() - resumed
                yield text
                resumed = perf_counter()
                if rules.reason is not None:
                    break
                token = self._next(token)
            self.seconds += perf_counter() - resumed
            rest = rules.finish()
            if rest:
                self.texts.append(rest)
                self.step = GenerationStep(None, rest)
                yield rest
        except (GeneratorExit, KeyboardInterrupt):
            rules.reason = rules.reason or StopReason.CANCELLED
            raise
        except BaseException as error:
            self.error = type(error).__name__
            raise
        finally:
            self.end()
            if self.when_ended is not None:
                self.when_ended(self)

    # Decoding and sampling

    def _begin(self) -> Token | None:
        """Decode the new part of the prompt and sample the first token. None if cancelled."""
        cache = self.cache
        with hold(self._acquire_decoding, cache.decode_lock.release, _raise_busy):
            self.start_sampler(self.sampler)
            cache.claim(self._ticket)
            cache.media = media_of(self.prompt)
            if self.speculation is not None:
                self.speculation.begin(self.prompt if cache.media is None else texts_only(self.prompt))
            if self.model.hasEncoder:
                cache.clear()
                done = self._compute(self._encode)
            elif self.prompt_log_probs is not None:
                self.reused = cache.adapt_to(self.prompt[: self.scored_from])  # the others need outputs
                done = self._compute(self._score)
            else:
                self.reused = cache.adapt_to(self.prompt)
                self.restored = cache.restored
                if self.stored is not None:
                    self._read_from_disk(self.stored)
                done = self._compute(self._decode_prompt)
            if done and self.rules.limit == 0:
                self.rules.reason = StopReason.LENGTH
                if self.stored is not None:
                    self.stored.save(self.prompt)
                return None
            token = self._sample() if done else None
            if done and self.stored is not None:
                self.stored.save(self.prompt)
            return token

    def _decode_prompt(self) -> None:
        prompt, stored = self.prompt, self.stored
        if stored is None:
            self.cache.decode_prompt(prompt, self.is_chat)
        else:
            self.cache.decode_prompt(prompt, self.is_chat, stored.place, partial(stored.save, prompt))

    def _read_from_disk(self, stored: StoredSequence) -> None:
        self.from_disk = stored.restore(self.prompt, self.reused)
        self.cache.claim(self._ticket)
        self.reused = len(self.cache)

    def _score(self) -> None:
        """Decode the prompt, and compute the log-probabilities of its tokens."""
        from llama_cffi.generation.log_probs import prompt_log_probs, scored_rows

        count, first, steps, ctx = self.prompt_log_probs or 0, self.scored_from, self.prompt_steps, self.context
        steps[:] = [None] * first
        tokens = self.prompt[first - 1 :]  # each is scored by the output of the one before it

        def read(start: int, end: int) -> bool:
            steps.extend(prompt_log_probs(ctx, tokens[start + 1 : end + 1], count, 0))
            return not self._cancelled

        self.cache.decode(self.prompt[len(self.cache) : first - 1], output=False)
        self.cache.decode_scored(tokens, scored_rows(ctx._nVocab), read)

    def _encode(self) -> None:
        """Run the encoder on the prompt, and start the decoder."""
        start = self.model.decoderStartToken
        if start == TOKEN_NULL:
            start = self.model.vocab.bos
        self.context.encode(Batch.getOne(self.prompt))
        self.cache.decode([start])

    def _next(self, token: Token) -> Token | None:
        """Decode a token and sample the next one. None if that is not possible; `rules.reason` says why."""
        cache = self.cache
        if self._cancelled:
            self.rules.reason = StopReason.CANCELLED
            return None
        try:
            with hold(self._acquire_decoding, cache.decode_lock.release, _raise_busy):
                if self.speculation is not None:
                    return self.speculation.next(token, self._ticket, self._room, self._sample)
                tokens = cache.contents.tokens
                if self.capacity is not None and len(tokens) >= self.capacity and not self._shift_context():
                    return None
                cache.push(token, self._ticket)
                return self.sampler.sample(self.context, -1) if self.log_probs is None else self._sample()
        except ContextFullError:  # other sequences use the cells
            self.rules.reason = StopReason.CONTEXT_FULL
            return None

    def _sample(self, index: int = -1) -> Token:
        """Pick a token from an output (-1: the last one)."""
        token = self.sampler.sample(self.context, index)
        if self.log_probs is not None:
            from llama_cffi.generation.log_probs import log_probs

            self._log_probs = log_probs(self.context, token, self.log_probs, index)
        return token

    def _room(self) -> int:
        """Return how many tokens may follow the next one in the sequence; -1 if there is no room for that one.

        `rules.reason` is set then. The last token of a text is not decoded.
        """
        wanted = self.rules.limit - len(self.rules.tokens) - 1
        if self.capacity is None:
            return wanted
        if len(self.cache) >= self.capacity and not self._shift_context():
            return -1
        return min(wanted, self.capacity - len(self.cache) - 1)

    def _shift_context(self) -> bool:
        """Discard half of the tokens after those to keep. False if there is to be no shift, or it was cancelled."""
        self.cache.require_owner(self._ticket)
        if self.keep < 0:
            self.rules.reason = StopReason.CONTEXT_FULL
            return False
        count = max(1, (len(self.cache) - self.keep) // 2)
        return self._compute(lambda: self.cache.discard(self.keep, count))

    # Cancelling

    def cancel(self) -> None:
        with locked(self._lock):
            self._cancelled = True
            if self._abortable:
                self.context._stop[0] = 1

    def _compute(self, work: Callable[[], None]) -> bool:
        """Do work that may take long and can be cancelled. False if it was."""
        try:
            with hold(self._begin_abortable, self._end_abortable):
                if not self._cancelled:
                    work()
        except DecodeError as error:
            if not (self._cancelled and error.code == ABORTED):
                raise
        if self._cancelled:
            self.rules.reason = StopReason.CANCELLED
        return not self._cancelled

    def end(self) -> None:
        """Free what only this generation uses."""
        if self.speculation is not None:
            self._end_speculation(self.speculation)
        if self.cache.media:
            self.cache.media.clear()  # prepared images take memory
        if self.owns_sampler:
            self.sampler.close()

    def _end_speculation(self, speculation: SpeculativeDecoder) -> None:
        try:
            with hold(self._acquire_decoding, self.cache.decode_lock.release, _raise_busy):
                speculation.finish(self._ticket)
        except LlamaError:  # the context is busy or closed; the next prompt removes the guesses
            pass


def _raise_busy() -> NoReturn:
    raise BusyError(
        "another thread computes with this context: use a context for each thread, or an Engine for many requests"
    )
