"""Thread pools: which CPUs compute, how eagerly they wait for work, and with what priority."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from llama_cffi._core.checks import out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._generated.enums import GgmlSchedPriority
from llama_cffi._host.resources import check_threads, cpu_affinity
from llama_cffi.errors import BusyError, NativeMemoryError
from llama_cffi.ggml.backend import Backend, system_info


class Threadpool(Handle):
    """Threads of the CPU backend, for contexts to compute with. Loads the CPU backend.

    `nThreads` is at most 512; a context that uses the pool has no more threads than the pool. `prio` above NORMAL
    needs the right to it. `poll` says how eagerly threads wait, from 0 (they sleep) to 100 (they spin). `cpumask` is
    the numbers of the CPUs to use (none: all); with `strictCpu` each thread gets a CPU of its own. The thread that
    calls `decode` is one of the pool's and keeps the mask. A pool serves one context at a time.

    Maps to `ggml_threadpool`.
    """

    __slots__ = ("_contexts", "_leased", "_nThreads")

    _KIND = "thread pool"

    def __init__(
        self,
        nThreads: int,
        prio: GgmlSchedPriority = GgmlSchedPriority.NORMAL,
        poll: int = 50,
        cpumask: Iterable[int] = (),
        *,
        strictCpu: bool = False,
        paused: bool = False,
    ) -> None:
        """Make a pool. Raises ValueError for what cannot be.

        Maps to `ggml_threadpool_new`.
        """
        _check_range("nThreads", nThreads, 1, lib.GGML_MAX_N_THREADS)
        check_threads("nThreads", nThreads)
        _check_range("poll", poll, 0, 100)
        params = ffi.new("struct ggml_threadpool_params *")
        lib.ggml_threadpool_params_init(params, nThreads)
        params.prio = GgmlSchedPriority(prio)
        params.poll = poll
        params.strict_cpu = strictCpu
        params.paused = paused
        for cpu in _check_cpus(cpumask):
            params.cpumask[cpu] = True
        Backend.ensureCpu()
        pointer = lib.ggml_threadpool_new(params)
        if pointer == ffi.NULL:
            raise NativeMemoryError(f"no memory for a pool of {nThreads} threads", operation="ggml_threadpool_new")
        self._nThreads = nThreads
        self._contexts: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._leased: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._open(pointer)

    def _destroy(self, pointer: Any) -> None:
        lib.ggml_threadpool_free(pointer)

    @property
    def nThreads(self) -> int:
        """How many threads there are, with the one that calls."""
        return self._nThreads

    def pause(self) -> None:
        """Let the threads sleep until `resume`, or until there is work. Raises BusyError while a context computes.

        Maps to `ggml_threadpool_pause`.
        """
        self._quietly(lib.ggml_threadpool_pause)

    def resume(self) -> None:
        """Wake the threads. Raises BusyError while a context computes.

        Maps to `ggml_threadpool_resume`.
        """
        self._quietly(lib.ggml_threadpool_resume)

    def free(self) -> None:
        """Free the pool. Freeing twice is harmless. Raises BusyError while a context uses it.

        Maps to `ggml_threadpool_free`.
        """
        Threadpool._require(self)
        self.close()

    def _detach_users(self) -> None:
        if any(not context.closed for context in self._contexts):
            raise BusyError("a context uses this thread pool: call ctx.detachThreadpool() first, or free the context")

    def _quietly(self, function: Callable[[Any], None]) -> None:
        """Call `function(pool)` while no context computes with it."""
        with ExitStack() as stack:
            for handle in (self, *self._contexts):
                stack.enter_context(handle._exclusive())
            function(self._c)

    # For contexts

    def _attach(self, context: Handle) -> list[_Lease]:
        """A context is about to use the pool. Returns what it has to keep until it is freed."""
        if self.closed:
            self._raise_closed()
        if any(other is not context and not other.closed for other in self._contexts):
            raise BusyError("another context uses this thread pool: make one pool for each context")
        self._contexts.add(context)
        if context in self._leased or not _is_remembered():
            return []
        self._leased.add(context)
        return [_Lease(self)]

    def _detach(self, context: Handle) -> None:
        """A context uses the pool no more."""
        self._contexts.discard(context)

    def __repr__(self) -> str:
        return super().__repr__() if self.closed else f"<Threadpool of {self._nThreads}>"


def _is_remembered() -> bool:
    """Whether ggml looks at the last pool when it changes to another one: not with OpenMP's threads."""
    return "OPENMP = 1" not in system_info()


class _Lease:
    """Keeps the C pool of a context that used it, as long as the context."""

    __slots__ = ("pool",)

    def __init__(self, pool: Threadpool) -> None:
        self.pool = pool
        pool._add_dependent()

    def __del__(self) -> None:
        self.pool._remove_dependent()


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an integer from {low} to {high}, not {value!r}")
    if not low <= value <= high:
        raise out_of_range(name, value, low, high)


def _check_cpus(cpus: Iterable[int]) -> list[int]:
    numbers = list(cpus)
    allowed = cpu_affinity()
    for cpu in numbers:
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise TypeError(f"cpumask is the numbers of CPUs, and {cpu!r} is none")
        if cpu not in allowed or cpu >= lib.GGML_MAX_N_THREADS:
            raise ValueError(f"CPU {cpu} is not among those of this process: {sorted(allowed)}")
    return numbers
