"""What somebody who has asked an engine for a text holds in hands."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import Token
from llama_cffi.errors import BusyError
from llama_cffi.generation.steps import GenerationStep, StopReason, Usage

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from typing_extensions import Self


@dataclass
class RequestUsage(Usage):
    """What a request took. `promptSeconds` goes from the beginning of the work to the first token."""

    queueSeconds: float = 0.0
    """From `submit` to the beginning of the work."""

    @property
    def seconds(self) -> float:
        """From `submit` to the end."""
        return self.queueSeconds + self.promptSeconds + self.generationSeconds


class Request:
    """A text that an engine is writing. Iterating over it waits for its pieces, with `for` or with `async for`::

        for text in engine.submit("Once upon a time"):
            print(text, end="", flush=True)

    Each iterator begins at the beginning of the text, and several may run at once, on any threads and event loops.
    `result()` waits for the whole text, as `await request` does. What went wrong in the request is raised there, after
    the pieces that came before it. A `with` block cancels the request at its end. So does a task that is cancelled
    while it waits for the request.
    """

    def __init__(self, prompt: list[Token], priority: int, cancel: Callable[[], None], keep: object) -> None:
        """Not for users: `engine.submit(prompt)` makes it."""
        self.prompt = prompt
        self.priority = priority
        self.tokens = []
        self.steps = []
        self.stopReason = None
        self.stopString = None
        self.stopToken = None
        self.usage = RequestUsage(promptTokens=len(prompt))
        self._texts: list[str] = []
        self._ended = False
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        self._cancelled = False
        self._changed = threading.Condition(threading.Lock())
        self._futures: list[Future[None]] = []
        self._cancel = cancel
        self._keep: object = keep  # the engine, until the end
        self._worker = 0  # the thread that writes the text
        self._mark = perf_counter()

    prompt: list[Token]
    """The tokens of the prompt."""
    priority: int
    """Higher ones go first."""
    tokens: list[Token]
    """The tokens that came so far; the one that ended the text is not among them."""
    steps: list[GenerationStep]
    """With `logProbs`: each token's text and probabilities."""
    stopReason: StopReason | None
    """Why it stopped; None until then."""
    stopString: str | None
    """The one of `stop` that ended the text."""
    stopToken: Token | None
    """The end-of-generation token, or the one of `stopTokens`, that ended it."""
    usage: RequestUsage
    """Counts and times, up to date at any time."""

    # For consumers

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._ended

    def __iter__(self) -> Iterator[str]:
        """The pieces of the text, each as soon as its characters are whole."""
        at = 0
        while (text := self._next(at)) is not None:
            yield text
            at += 1

    def __aiter__(self) -> AsyncIterator[str]:
        return _AsyncPieces(self)

    def __await__(self) -> Generator[None, None, str]:
        """The whole text, when it has ended."""
        return self._whole().__await__()

    async def _whole(self) -> str:
        async for _ in self:
            pass
        return self.text

    def result(self, timeout: float | None = None) -> str:
        """The whole text, when it has ended; that of a cancelled request is what there was until then.

        `timeout` is in seconds; None waits without a limit. Raises TimeoutError, after which the request still runs,
        and what ended the request where that was an error.
        """
        with self._changed:
            self._require_other_thread()
            if not self._changed.wait_for(lambda: self._ended, timeout):
                raise TimeoutError(
                    f"after {timeout} s the text is not complete; it still grows: wait again, or cancel() the request"
                )
        self._raise()
        return self.text

    def cancel(self) -> None:
        """End the request at the next step. Returns at once; cancelling what has ended is harmless."""
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

    def _next(self, at: int) -> str | None:
        """A piece, waiting for it; None after the last one."""
        with self._changed:
            if at >= len(self._texts) and not self._ended:
                self._require_other_thread()
                self._changed.wait_for(lambda: at < len(self._texts) or self._ended)
            if at < len(self._texts):
                return self._texts[at]
        self._raise()
        return None

    def _require_other_thread(self) -> None:
        if self._worker == threading.get_ident() and not self._ended:
            raise BusyError(
                "this is the thread that writes the text: it cannot wait for it inside a sampler or callback"
            )

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(self._trace)

    # For the engine

    def _put(self, text: str, wake: list[Future[None]]) -> None:
        """Another piece has come. Those who wait for it in event loops are added to `wake`."""
        with self._changed:
            self._texts.append(text)
            self._notify(wake)

    def _end(self, reason: StopReason | None, error: BaseException | None, wake: list[Future[None]]) -> None:
        with self._changed:
            if self._ended:
                return
            self.stopReason, self._error = reason, error
            self._trace = None if error is None else error.__traceback__
            self._ended = True
            self._keep = None
            self._notify(wake)

    def _notify(self, wake: list[Future[None]]) -> None:
        self._changed.notify_all()
        if self._futures:
            wake += self._futures
            self._futures = []

    def _lap(self) -> float:
        """Seconds since the last one."""
        last, self._mark = self._mark, perf_counter()
        return self._mark - last

    def _after_fork(self, error: BaseException) -> None:
        self._changed = threading.Condition(threading.Lock())  # a thread that is not here may hold the other one
        self._futures = []
        self._end(None, error, [])


class _AsyncPieces(AsyncIterator[str]):
    """The pieces of a request for a coroutine."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._at = 0

    async def __anext__(self) -> str:
        from asyncio import CancelledError, get_running_loop

        request = self._request
        while True:
            with request._changed:
                if self._at < len(request._texts):
                    self._at += 1
                    return request._texts[self._at - 1]
                if request._ended:
                    break
                future: Future[None] = get_running_loop().create_future()
                request._futures.append(future)
            try:
                await future
            except CancelledError:
                request.cancel()
                raise
        request._raise()
        raise StopAsyncIteration


def wake_up(futures: list[Future[None]]) -> None:
    """Have the event loops go on with what waits for these: one call for each loop."""
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
