"""Using a blocking generation from asyncio: it computes on its own thread, so the event loop is never blocked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Future
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any, TypeVar

    T = TypeVar("T")
else:
    T = object


class AsyncSteps(AsyncIterator[T]):
    """An asynchronous iterator over a blocking one. All steps run on one thread: OpenMP's threads belong to it.

    If the task is cancelled while it waits, the work is cancelled too, and the task goes on when that has ended.
    """

    def __init__(self, steps: Iterator[T], close: Callable[[], None]) -> None:
        self._steps = steps
        self._close = close
        self._executor: ThreadPoolExecutor | None = None

    async def __anext__(self) -> T:
        end: Any = self  # never one of the steps
        if self._executor is None:
            self._executor = _one_thread()
        step = await _run(self._executor, lambda: next(self._steps, end), self._close)
        if step is end:
            self._executor.shutdown(wait=False)
            self._executor = None
            raise StopAsyncIteration
        return step


async def run_in_thread(work: Callable[[], T], cancel: Callable[[], None]) -> T:
    """Call `work` on its own thread and wait for its result. Call `cancel` if the task is cancelled meanwhile."""
    executor = _one_thread()
    try:
        return await _run(executor, work, cancel)
    finally:
        executor.shutdown(wait=False)


async def _run(executor: ThreadPoolExecutor, work: Callable[[], T], cancel: Callable[[], None]) -> T:
    import asyncio

    future = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        await _settled(future)
        cancel()
        raise


def _one_thread() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, "llama_cffi-generation")


async def _settled(future: Future[Any]) -> None:
    """Wait until the future is done, whatever its result, and however often the task is cancelled."""
    import asyncio

    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            pass
    if not future.cancelled():
        future.exception()
