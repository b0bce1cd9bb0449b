"""`Ggml.CPlan`: how the CPU computes a graph, and the memory that it works in."""

from __future__ import annotations

from llama_cffi._core.arguments import byte_buffer
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._host.resources import check_threads
from llama_cffi.ggml.threadpool import Threadpool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from llama_cffi._core.arguments import OutBuffer


class CPlan:
    """How the CPU computes a graph: `graph.plan(nThreads)` makes one, `graph.compute(plan)` uses it.

    Maps to `ggml_cplan`.
    """

    __slots__ = ("_nThreads", "_threadPool", "_workData", "abortCallback", "abortCallbackData", "workSize")

    workSize: int
    """The bytes of work memory that the computation needs."""
    abortCallback: Callable[..., bool] | None
    """Called between nodes; True stops the computation. Its argument is `abortCallbackData`, unless that is None."""
    abortCallbackData: Any

    def __init__(self, nThreads: int, threadPool: Threadpool | None = None) -> None:
        self.workSize = 0
        self.abortCallback = self.abortCallbackData = None
        self._workData: Any = None
        self.threadPool = threadPool
        self.nThreads = nThreads

    @property
    def nThreads(self) -> int:
        """The number of threads, at most that of the pool."""
        return self._nThreads

    @nThreads.setter
    def nThreads(self, value: int) -> None:
        pool = self._threadPool
        self._nThreads = integer(value, 1, pool.nThreads if pool else lib.GGML_MAX_N_THREADS, "nThreads")
        check_threads("nThreads", self._nThreads)

    @property
    def threadPool(self) -> Threadpool | None:
        """The pool whose threads compute; None: threads of the process."""
        return self._threadPool

    @threadPool.setter
    def threadPool(self, value: Threadpool | None) -> None:
        if value is not None and not isinstance(value, Threadpool):
            raise expected("a Ggml.Threadpool or None", value, "Ggml.Threadpool(nThreads) makes one", "threadPool")
        self._threadPool = value

    @property
    def workData(self) -> OutBuffer | None:
        """The work memory, a writable buffer of at least `workSize` bytes. None: each computation allocates it."""
        return self._workData

    @workData.setter
    def workData(self, value: OutBuffer | None) -> None:
        if value is not None:
            byte_buffer(value, "workData", writable=True)
        self._workData = value

    def _memory(self, size: int) -> Any:
        """Return the work memory as a C array. Raises ValueError if that of the caller is too small."""
        if self._workData is None:
            return ffi.new("uint8_t[]", max(size, 1))
        memory, length = byte_buffer(self._workData, "workData", writable=True)
        if length < size:
            raise ValueError(f"workData must have at least {size} bytes, got {length}: make it that large")
        return memory

    def __repr__(self) -> str:
        return f"<CPlan for {self.nThreads} threads, {self.workSize} bytes>"
