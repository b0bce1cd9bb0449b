"""The handle for a submitted prompt: its text as it comes, its state, and a way to wait for it or cancel it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from math import isnan
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import number
from llama_cffi._core.ownership import hold, locked
from llama_cffi.errors import BusyError
from llama_cffi.generation.steps import GenerationStep, StopReason, Usage

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from typing import Literal, TypeAlias

    from typing_extensions import Self

    RequestState: TypeAlias = Literal["waiting", "prompt", "generating", "ended"]

T = TypeVar("T")


@dataclass
class RequestUsage(Usage):
    """Counts and times of a request. `promptSeconds` starts when the engine begins with the request."""

    queueSeconds: float = 0.0
    """Seconds from `submit` until the engine begins with the request."""

    @property
    def seconds(self) -> float:
        """Seconds from `submit` to the end."""
        return self.queueSeconds + self.promptSeconds + self.generationSeconds


class Request:
    """A text that an engine is writing. Iterate over its pieces with `for` or `async for`, which wait for them::

        for text in engine.submit("Once upon a time"):
            print(text, end="", flush=True)

    Every iterator starts at the beginning of the text, and several can run at once, on any threads and event loops.
    `result()` and `await request` wait for the whole text. An error of the request is raised there, after the pieces
    that came before it. A `with` block cancels the request when it ends; so does cancelling a task that waits for it.
    """

    _MADE_BY = "engine.submit(prompt) makes one"

    def __init__(self, prompt: list[Token], priority: int, cancel: Callable[[], None], keep: object) -> None:
        """Not for users: `engine.submit(prompt)` makes it."""
        self.prompt = prompt
        self.priority = priority
        self.id = 0
        self.tokens = []
        self.promptLogProbs = []
        self.stopReason = None
        self.stopString = None
        self.stopToken = None
        self.usage = RequestUsage(promptTokens=len(prompt))
        self._texts: list[str] = []  # of each token, even if empty; and what was held back at the end
        self._log_steps: list[GenerationStep] = []  # with `logProbs`: the step of each token
        self._begun = False  # the engine has begun with it
        self._runs = False  # it has a sequence
        self._ended = False
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        self._cancelled = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Who waits for the next text. They register before they look whether it is there, and the engine adds it before
        # it looks whether somebody waits. So adding needs no lock.
        self._readers: list[None] = []  # one for each thread
        self._futures: list[Future[None]] = []  # of event loops
        self._end_futures: list[Future[None]] = []  # of those that wait for the whole text
        self._cancel = cancel
        self._keep: object = keep  # the engine, until the end
        self._worker = 0  # the thread that writes the text
        self._mark = perf_counter()

    prompt: list[Token]
    """The tokens of the prompt."""
    id: int
    """Its number among the requests of the engine, from 1 on."""
    priority: int
    """Requests with a higher priority are served first."""
    tokens: list[Token]
    """The tokens so far, without the one that ended the text."""
    promptLogProbs: list[GenerationStep | None]
    """With `promptLogProbs`: a step for each token of the prompt, as far as it is decoded, with its text,
    log-probability and alternatives. None for the first token, which nothing precedes. Empty otherwise."""
    stopReason: StopReason | None
    """Why the text ended. None before that, and if an exception ended it."""
    stopString: str | None
    """The one of `stop` that ended the text."""
    stopToken: Token | None
    """The token that ended the text: an end-of-generation token, or one of `stopTokens`."""
    usage: RequestUsage
    """Counts and times, up to date at any time."""

    # For consumers

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def done(self) -> bool:
        """True if the text has ended, for whatever reason."""
        return self._ended

    @property
    def state(self) -> RequestState:
        """ "waiting" in the queue, "prompt" while it is decoded, "generating", or "ended"."""
        if self._ended:
            return "ended"
        return ("generating" if self.tokens else "prompt") if self._runs else "waiting"

    @property
    def seconds(self) -> float:
        """Seconds from `submit` until now, or until the end."""
        return self.usage.seconds + (0.0 if self._ended else perf_counter() - self._mark)

    def __iter__(self) -> Iterator[str]:
        """The pieces of the text, each as soon as its characters are whole."""
        at = 0
        while self._wait_for(at):
            if text := self._texts[at]:
                yield text
            at += 1

    def __aiter__(self) -> AsyncIterator[str]:
        return _AsyncReader(self, self._texts.__getitem__)

    def _unread(self) -> AsyncIterator[str]:
        """Iterate with `async for` over the text of all new tokens at once, so that a slow reader catches up."""
        return _UnreadText(self, self._texts.__getitem__)

    def steps(self) -> RequestSteps:
        """Iterate over tokens instead, each with its text and, with `logProbs`, its log-probability and alternatives.

        For `for` and `async for`. Every iterator starts at the first token.
        """
        return RequestSteps(self)

    def __await__(self) -> Generator[None, None, str]:
        """Wait for the whole text."""
        return self._whole().__await__()

    async def _whole(self) -> str:
        from asyncio import get_running_loop

        future = None
        if not self._ended:
            with locked(self._lock):
                future = None if self._ended else get_running_loop().create_future()
                if future is not None:
                    self._end_futures.append(future)
        if future is not None:
            await _cancelling(self, future)
        self._raise()
        return self.text

    def result(self, timeout: float | None = None) -> str:
        """Wait for the whole text. Of a cancelled request: the text until then.

        `timeout` is in seconds; None waits without a limit. Raises TimeoutError, and the request goes on; or the error
        that ended the request.
        """
        if not self._ended and not self._wait_for_end(timeout):
            raise TimeoutError(
                f"the text is not complete after {timeout} s: wait again, or cancel() the request, which goes on"
            )
        self._raise()
        return self.text

    def _wait_for_end(self, timeout: float | None) -> bool:
        limit = None if timeout is None else number(timeout, "timeout", " of seconds")
        if limit is not None and isnan(limit):
            raise ValueError("timeout must be a number of seconds, got nan")
        with locked(self._lock):
            self._require_other_thread()
            return self._changed.wait_for(lambda: self._ended, limit and min(limit, threading.TIMEOUT_MAX))

    def cancel(self) -> None:
        """Stop at the next step of the engine. Returns at once; cancelling a request that has ended is harmless."""
        if not self._ended:
            self._cancelled = True
            self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        if not self._ended:
            state = "cancelled" if self._cancelled else "running" if self.tokens else "waiting"
        else:
            state = self.stopReason.value if self.stopReason else repr(self._error)
        return f"<Request {state}, {len(self.prompt)} + {len(self.tokens)} tokens>"

    def _wait_for(self, at: int) -> bool:
        """Wait for the text at an index. False if the request has ended before it; raises the request's error."""
        texts = self._texts
        if at < len(texts):
            return True
        if not self._ended:
            with locked(self._lock), hold(partial(self._readers.append, None), self._readers.pop):
                if at >= len(texts) and not self._ended:
                    self._require_other_thread()
                    self._changed.wait_for(lambda: at < len(texts) or self._ended)
        if at < len(texts):
            return True
        self._raise()
        return False

    def _step(self, at: int) -> GenerationStep:
        if at < len(self._log_steps):
            return self._log_steps[at]
        return GenerationStep(self.tokens[at] if at < len(self.tokens) else None, self._texts[at])

    def _require_other_thread(self) -> None:
        if self._worker == threading.get_ident() and not self._ended:
            raise BusyError("the engine's thread writes this text: a sampler or callback in it cannot wait for it")

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(self._trace)

    # For the engine

    def _put(self, text: str, step: GenerationStep | None, wake: list[Future[None]]) -> None:
        """Add the text of the next token. Futures of event loops that wait for it are added to `wake`.

        A thread that waits for the whole text is not woken.
        """
        if step is not None:
            self._log_steps.append(step)
        self._texts.append(text)
        if self._readers or self._futures:
            with locked(self._lock):
                if self._readers:
                    self._changed.notify_all()
                self._take_futures(wake)

    def _end(self, reason: StopReason | None, error: BaseException | None, wake: list[Future[None]]) -> None:
        with locked(self._lock):
            if self._ended:
                return
            self.stopReason, self._error = reason, error
            self._trace = None if error is None else error.__traceback__
            self._ended = True
            self._keep = None
            wake += self._end_futures
            self._end_futures = []
            self._changed.notify_all()
            self._take_futures(wake)

    def _take_futures(self, wake: list[Future[None]]) -> None:
        if self._futures:
            wake += self._futures
            self._futures = []

    def _lap(self) -> float:
        """The seconds since the last call."""
        last, self._mark = self._mark, perf_counter()
        return self._mark - last

    def _after_fork(self, error: BaseException) -> None:
        self._lock = threading.RLock()  # a thread of the parent may hold the other one
        self._changed = threading.Condition(self._lock)
        self._futures, self._end_futures = [], []
        self._end(None, error, [])


class RequestSteps(Iterator[GenerationStep]):
    """An iterator over the steps of a request; `Request.steps` makes it."""

    def __init__(self, request: Request) -> None:
        """Not for users: `request.steps()` makes it."""
        self._request = request
        self._at = 0

    def __next__(self) -> GenerationStep:
        if not self._request._wait_for(self._at):
            raise StopIteration
        self._at += 1
        return self._request._step(self._at - 1)

    def __aiter__(self) -> AsyncIterator[GenerationStep]:
        return _AsyncReader(self._request, self._request._step)


class _AsyncReader(AsyncIterator[T]):
    """Reads a request for a coroutine: `read(index)` for each of its texts, without empty results."""

    def __init__(self, request: Request, read: Callable[[int], T]) -> None:
        import asyncio

        self._request, self._read = request, read
        self._at = 0
        self._asyncio = asyncio

    async def __anext__(self) -> T:
        request = self._request
        texts = request._texts
        while True:
            while self._at < len(texts):
                if found := self._take():
                    return found
            with locked(request._lock):
                future: Future[None] = self._asyncio.get_running_loop().create_future()
                request._futures.append(future)
                if self._at < len(texts) or request._ended:  # meanwhile
                    request._futures.remove(future)
                    if self._at < len(texts):
                        continue
                    break
            try:
                await future
            except self._asyncio.CancelledError:
                request.cancel()
                raise
        request._raise()
        raise StopAsyncIteration

    def _take(self) -> T:
        self._at += 1
        return self._read(self._at - 1)


class _UnreadText(_AsyncReader[str]):
    """Reads the text of all new tokens at once."""

    def _take(self) -> str:
        found = self._request._texts[self._at :]
        self._at += len(found)
        return found[0] if len(found) == 1 else "".join(found)


async def _cancelling(request: Request, future: Future[None]) -> None:
    """Wait for a future. If the task that waits is cancelled, so is the request."""
    from asyncio import CancelledError

    try:
        await future
    except CancelledError:
        request.cancel()
        raise


def wake_up(futures: list[Future[None]]) -> None:
    """Resolve futures in their event loops: one call for each loop."""
    loops: dict[AbstractEventLoop, list[Future[None]]] = {}
    for future in futures:
        loops.setdefault(future.get_loop(), []).append(future)
    for loop, waiting in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:  # the loop was closed, and nobody waits any more
            pass


def _resolve(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
