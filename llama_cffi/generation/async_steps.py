"""Iterating from a coroutine: the work is done on a thread of its own, and the event loop never waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import Future
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")


class AsyncSteps(AsyncIterator[T]):
    """An iterator whose every step runs on one thread, which is made for it: OpenMP's threads belong to the thread that
    starts them. A task that is cancelled while it waits cancels the work, and goes on when that has ended.
    """

    def __init__(self, steps: Iterator[T], close: Callable[[], None]) -> None:
        self._steps = steps
        self._close = close
        self._executor: ThreadPoolExecutor | None = None

    async def __anext__(self) -> T:
        import asyncio

        end: Any = self  # which is none of its own elements
        future = asyncio.get_running_loop().run_in_executor(self._thread(), next, self._steps, end)
        try:
            step = await asyncio.shield(future)
        except asyncio.CancelledError:
            self._close()
            await _settled(future)
            self._close()
            raise
        if step is end:
            self._thread().shutdown(wait=False)
            self._executor = None
            raise StopAsyncIteration
        return step

    def _thread(self) -> ThreadPoolExecutor:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(1, "llama_cffi-generation")
        return self._executor


async def _settled(future: Future[Any]) -> None:
    """Wait until it is done, whatever comes of it, and however often the task is cancelled."""
    import asyncio

    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            pass
    if not future.cancelled():
        future.exception()
