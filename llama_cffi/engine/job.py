"""A request as the engine's scheduler sees it: its tokens, its sampler, and its reservation of cells."""

from __future__ import annotations

import threading
from array import array
from time import perf_counter
from typing import TYPE_CHECKING

from llama_cffi._core.ownership import exclusive
from llama_cffi._core.process import fork_safe_lock
from llama_cffi.engine.adapter_set import NO_ADAPTERS, AdapterSet
from llama_cffi.engine.request import Request
from llama_cffi.engine.sequence_pool import EngineSequence
from llama_cffi.errors import BusyError, ClosedError
from llama_cffi.generation.log_probs import log_probs, prompt_log_probs
from llama_cffi.generation.prefix import text_length, texts_only
from llama_cffi.generation.steps import GenerationStep, StopReason
from llama_cffi.sampling.sampler import Sampler

if TYPE_CHECKING:
    from asyncio import Future
    from contextlib import AbstractContextManager
    from typing import Any

    from llama_cffi._core.base_types import Token
    from llama_cffi.context.context import Context
    from llama_cffi.generation.request_options import RequestOptions

# Held while a sampler is given to a request. Reentrant: a signal handler may submit another one.
sampler_lock = fork_safe_lock(threading.RLock())


class Job:
    """The work for one request, and its place in the queue.

    `reserved` is the number of cells that the scheduler sets aside for it. With `maxTokens` it is all that the text can
    need. Without, the job is open-ended, and the number grows with the text.
    """

    __slots__ = (
        "_ahead",
        "_capacity",
        "_loan",
        "_log_probs",
        "_prompt_log_probs",
        "owns_sampler",
        "_rules",
        "_shares_prefix",
        "_start",
        "_seen",
        "adapters",
        "counted",
        "guesses",
        "is_open",
        "media",
        "open_ended",
        "overtaken",
        "pause",
        "preempted_at",
        "preemptions",
        "request",
        "reserved",
        "sampler",
        "samples",
        "sequence",
        "serial",
        "special",
        "stops",
        "tokens",
    )

    def __init__(
        self,
        request: Request,
        options: RequestOptions,
        sampler: Sampler,
        owns_sampler: bool,
        capacity: int,
        ahead: int,
        adapters: AdapterSet,
    ) -> None:
        """`capacity` is the most cells that a sequence can have; `ahead` how many cells an open-ended job reserves
        beyond its present tokens.
        """
        self.request, self.sampler, self.owns_sampler = request, sampler, owns_sampler
        self.adapters = adapters
        self._rules, self._log_probs = options.stop_rules(capacity), options.log_probs
        self.special = options.stream._special
        self._start = options.start
        self._shares_prefix = options.shares_prefix
        request.tokens = self._rules.tokens
        self._capacity, self._ahead = capacity, ahead
        self._prompt_log_probs = options.prompt_log_probs
        if options.prompt_log_probs is not None:
            request.promptLogProbs += [None] * options.scored_from
        self.samples = options.max_tokens != 0  # False: the prompt is decoded, and nothing else
        self.tokens = array("i", options.prompt)  # and the generated ones that are to be decoded
        self.media = options.media  # images and sounds among them, by their marks
        self.guesses = options.guesses if self.samples else None
        self._seen = len(self.tokens)  # tokens that the guesses know
        if self.guesses is not None:
            self.guesses.add(texts_only(options.prompt))
        self.open_ended = options.max_tokens is None
        self.sequence: EngineSequence | None = None
        self.stops: list[int] = []  # numbers of tokens at which a batch ends, for checkpoints
        self.serial = 0
        self.is_open = False  # between submit and the end
        self.counted = False  # among the ended requests
        self._loan: AbstractContextManager[Any] | None = None  # use of the sampler by a step
        self.overtaken = 0  # later requests that started before this one
        self.pause = 0  # a batch ends after this token of the prompt, so that the state there can be written
        self.preemptions = 0
        self.preempted_at = -1  # the number of ended requests at that time: it waits for one more
        if options.max_tokens is None:
            self.reserved = self.next_reservation
        else:
            self.reserved = len(self.tokens) + max(options.max_tokens, 1) - 1  # the last token is not decoded

    @property
    def pending(self) -> int:
        """The number of tokens that are not decoded yet, up to the next image or sound."""
        assert self.sequence is not None
        if self.media is None:
            return len(self.tokens) - len(self.sequence.tokens)
        return text_length(self.tokens, len(self.sequence.tokens))

    @property
    def generates(self) -> bool:
        """True if the last token alone is to be decoded: the prompt before it is."""
        assert self.sequence is not None
        return len(self.tokens) - len(self.sequence.tokens) == 1

    @property
    def part(self) -> int:
        """The number of tokens that the next batch can have."""
        assert self.sequence is not None
        done = len(self.sequence.tokens)
        return min(self.pending, min([stop for stop in self.stops if stop > done], default=len(self.tokens)) - done)

    def will_share(self, length: int, parts: bool) -> int:
        """Return how many of its first `length` tokens another request can share, now or when they are decoded.

        `parts` says that the memory shares any prefix; else only those that end at a checkpoint.
        """
        return length if parts else max([stop for stop in self.stops if stop <= length], default=0)

    @property
    def unscored(self) -> bool:
        """True if the log-probabilities of tokens of the prompt are to be computed."""
        return self._prompt_log_probs is not None and len(self.request.promptLogProbs) < len(self.request.prompt)

    @property
    def stores(self) -> bool:
        """True if the prompt may come from a prompt cache on disk, and be written to it."""
        return self._shares_prefix

    @property
    def shareable(self) -> array[int]:
        """The tokens whose prefix may come from another sequence: what is not decoded cannot be scored."""
        if not self._shares_prefix:
            return self.tokens[:0]
        return self.tokens[: len(self.request.promptLogProbs)] if self.unscored else self.tokens

    @property
    def first_row(self) -> int:
        """The first position whose output is needed for a score."""
        return len(self.request.promptLogProbs) - 1

    def rows_to_score(self, start: int, count: int) -> range:
        """The positions, of `count` ones that are decoded from `start` on, whose outputs score the prompt."""
        return range(max(start, self.first_row), min(start + count, len(self.request.prompt) - 1))

    def score(self, ctx: Context, rows: range, index: int) -> None:
        """Publish the log-probabilities of the tokens after these positions. `index` is the entry of the first one."""
        tokens = self.request.prompt[rows.start + 1 : rows.stop + 1]
        self.request.promptLogProbs += prompt_log_probs(ctx, tokens, self._prompt_log_probs or 0, index)

    @property
    def outgrown(self) -> bool:
        """True if the next decode needs more cells than are reserved."""
        return len(self.tokens) > self.reserved

    @property
    def next_reservation(self) -> int:
        """The reservation of an open-ended job with its present tokens."""
        return min(self._capacity, len(self.tokens) + self._ahead)

    def guess(self, most: int, others: int, guesses: int) -> list[Token]:
        """Guess the next tokens, as many as the reserved cells take at most; see `Pace.choose`."""
        if self.guesses is None:
            return []
        self.guesses.add(self.tokens[self._seen :])
        self._seen = len(self.tokens)
        return self.guesses.make(min(most, self.reserved - len(self.tokens)), others, guesses)

    def start_sampler(self) -> None:
        """Prepare the sampler for the prompt. Raises ValueError if a request of any engine still uses it."""
        other = self.sampler._job
        if other is not None and other.is_open:  # type: ignore[attr-defined]
            raise ValueError(
                "this sampler belongs to a request that has not ended, and a sampler serves one request at a time: "
                "make one for each, or pass its clone()"
            )
        self._start(self.sampler)

    def lend_sampler(self, ctx: Context) -> bool:
        """Lend the sampler to a step, until `return_sampler`. False if its first or each use needs checks in Python, or
        if another thread uses it.
        """
        sampler = self.sampler
        if sampler._checked_for != ctx._serial:
            return False
        if self.owns_sampler:  # nobody else has it
            return True
        self._loan = exclusive(sampler)
        try:
            self._loan.__enter__()
        except (BusyError, ClosedError):
            return False
        if sampler._checked_for != ctx._serial:  # by now
            self.return_sampler()
            return False
        return True

    def return_sampler(self) -> None:
        """End `lend_sampler`."""
        self._loan = None  # which ends it

    def sample(self, ctx: Context, index: int, wake: list[Future[None]]) -> StopReason | None:
        """Sample the next token from an output of the last batch and publish its text.

        Returns why the text ends here, or None. Raises what the sampler raises.
        """
        token = self.sampler.sample(ctx, index)
        return self.advance(ctx, index, token, ctx.getModel().vocab.isEog(token), None, perf_counter(), wake)

    def advance(
        self,
        ctx: Context,
        index: int,
        token: Token,
        ends: bool,
        data: bytes | None,
        now: float,
        wake: list[Future[None]],
    ) -> StopReason | None:
        """Publish the text of the next token, which was sampled from an output of the last batch.

        Returns why the text ends here, or None.
        """
        request, usage = self.request, self.request.usage
        lap, request._mark = now - request._mark, now
        if request.tokens:
            usage.generationSeconds += lap
        else:
            usage.promptSeconds += lap
        text = self._rules.feed(token, ends, data)
        if text is None:
            return self._rules.reason
        step = None
        if self._log_probs is not None:
            step = GenerationStep(token, text, *log_probs(ctx, token, self._log_probs, index))
        usage.generatedTokens += 1
        request._put(text, step, wake)
        if self._rules.reason is None:
            self.tokens.append(token)
        return self._rules.reason

    def end(self, reason: StopReason | None, error: BaseException | None, wake: list[Future[None]]) -> None:
        """Publish the end: the text that was held back, then why it ended, or the error that ended it."""
        request, rules = self.request, self._rules
        rest = rules.finish() if error is None else ""
        if rest:
            request._put(rest, None, wake)
        self.release_sampler()
        self.adapters = NO_ADAPTERS  # they can be freed
        if self.media:
            self.media.clear()
        request.stopString, request.stopToken = rules.stop_string, rules.stop_token
        request._end(reason, error, wake)

    def release_sampler(self) -> None:
        """Give the sampler back to the caller; close it if it is the default one."""
        self.return_sampler()
        self.is_open = False
        if self.sampler._job is self:
            self.sampler._job = None
        if self.owns_sampler:
            self.sampler.close()
