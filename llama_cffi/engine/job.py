"""A request as the engine's thread sees it."""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import Token
from llama_cffi._core.process import fork_safe_lock
from llama_cffi.engine.cell_pool import Sequence
from llama_cffi.engine.request import Request
from llama_cffi.generation.steps import GenerationStep, StopReason, odds_of
from llama_cffi.generation.text_stream import TextStream
from llama_cffi.sampling.sampler import Sampler

if TYPE_CHECKING:
    from asyncio import Future

    from llama_cffi.context.context import Context

_lock = fork_safe_lock(threading.Lock())
_taken: weakref.WeakSet[Sampler] = weakref.WeakSet()  # samplers of requests, in whatever engine


class Job:
    """What one request wants, how far it is, and its place in the queue."""

    __slots__ = (
        "_logProbs",
        "_most",
        "_own",
        "_stopTokens",
        "_stream",
        "final",
        "overtaken",
        "parked",
        "request",
        "sampler",
        "sequence",
        "serial",
        "tokens",
    )

    def __init__(
        self,
        request: Request,
        sampler: Sampler,
        own: bool,
        stream: TextStream,
        most: int,
        stopTokens: Iterable[Token],
        logProbs: int | None,
    ) -> None:
        self.request, self.sampler, self._own, self._stream = request, sampler, own, stream
        self._most, self._stopTokens, self._logProbs = most, frozenset(stopTokens), logProbs
        self.tokens = array("i", request.prompt)  # and those that came and are to be decoded
        self.final = len(request.prompt) + most - 1  # cells at the end: the last token is not decoded
        self.sequence: Sequence | None = None
        self.serial = 0
        self.overtaken = 0  # how often later ones went first
        self.parked = -1  # put back: not before another request ends

    @property
    def rest(self) -> int:
        """How many tokens wait to be decoded."""
        assert self.sequence is not None
        return len(self.tokens) - len(self.sequence.tokens)

    def take(self, ctx: Context, index: int, wake: list[Future[None]]) -> StopReason | None:
        """Pick a token from an output of the last batch, and hand its text on. Whether that was the last one, and why.

        Raises what the sampler raises.
        """
        request, usage = self.request, self.request.usage
        token = self.sampler.sample(ctx, index)
        if request.tokens:
            usage.generationSeconds += request._lap()
        else:
            usage.promptSeconds += request._lap()
        if ctx._model.vocab.isEog(token):
            request.stopToken = token
            return StopReason.END
        if token in self._stopTokens:
            request.stopToken = token
            return StopReason.STOP_TOKEN
        text = self._stream.feed(token)
        if self._logProbs is not None:
            request.steps.append(GenerationStep(token, text, *odds_of(ctx, token, self._logProbs, index)))
        request.tokens.append(token)
        usage.generatedTokens += 1
        if text:
            request._put(text, wake)
        if self._stream.stopped is not None:
            request.stopString = self._stream.stopped
            return StopReason.STOP_STRING
        if len(request.tokens) >= self._most:
            return StopReason.LENGTH
        self.tokens.append(token)
        return None

    def end(self, reason: StopReason | None, error: BaseException | None, wake: list[Future[None]]) -> None:
        """The last that a consumer gets: text that was held back, why it ended, or what ended it."""
        rest = self._stream.finish() if error is None else ""
        if rest:
            self.request._put(rest, wake)
        self.letGo()
        self.request._end(reason, error, wake)

    def letGo(self) -> None:
        """Give the sampler back."""
        release(self.sampler)
        if self._own:
            self.sampler.close()


def claim(sampler: Sampler) -> None:
    """Have a sampler for one request. Raises ValueError where another one has it."""
    with _lock:
        if sampler in _taken:
            raise ValueError(
                "this sampler belongs to a request that has not ended: a sampler serves one request, so make one for "
                "each, or pass its clone()"
            )
        _taken.add(sampler)


def release(sampler: Sampler) -> None:
    """The request has ended."""
    with _lock:
        _taken.discard(sampler)
