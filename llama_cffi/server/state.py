"""What an application holds: its models, its settings, the open requests, and the threads for work on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

from llama_cffi._host.resources import usable_cpus
from llama_cffi.server.admission import Admission
from llama_cffi.server.errors import ApiError, shutting_down, too_busy
from llama_cffi.server.metrics import Metrics

if TYPE_CHECKING:
    from llama_cffi.server.served import Models
    from llama_cffi.server.settings import Limits, Settings

T = TypeVar("T")

_MOST_THREADS = 4
_TICK = 0.05


class Open(Protocol):
    """A request that is open."""

    def fail(self, error: ApiError) -> None: ...


class ServerState:
    """The state of one application."""

    def __init__(self, models: Models, settings: Settings) -> None:
        self.models, self.settings = models, settings
        self.limits: Limits = settings.limits
        self.metrics = Metrics()
        self.admission = Admission(settings.limits, self.metrics)
        self.exchanges: set[Open] = set()
        self.draining = False
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, usable_cpus() + 1), "llama_cffi-server")
        self._in_pool = 0

    async def in_pool(self, work: Callable[[], T], pool: Executor | None = None) -> T:
        """Call `work` on a thread. Raises ApiError if too much waits already."""
        if self._in_pool >= self.limits.maxRequests:
            raise too_busy("too many requests wait to be prepared: try again later", 1)
        self._in_pool += 1
        future = asyncio.get_running_loop().run_in_executor(pool or self._pool, work)
        future.add_done_callback(self._left_pool)
        return await future

    def _left_pool(self, future: asyncio.Future[T]) -> None:
        self._in_pool -= 1
        if not future.cancelled():
            future.exception()  # the one who waited may be gone

    def drain(self) -> None:
        """Refuse new requests with 503 from now on; those that are open go on."""
        self.draining = True

    async def stop(self, seconds: float) -> None:
        """Drain, wait for open requests, and end those that are left after some seconds."""
        self.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.exchanges and loop.time() < deadline:
            await asyncio.sleep(_TICK)
        for exchange in list(self.exchanges):
            exchange.fail(shutting_down())
        deadline = loop.time() + 2
        while self.exchanges and loop.time() < deadline:
            await asyncio.sleep(_TICK)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
