"""`Ggml.Threadpool`: threads for computation on the CPU, with an affinity mask, a priority and a polling level."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llama_cffi._core.checks import expected, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import WeakRefs, exclusive, own
from llama_cffi._generated import enums
from llama_cffi._host.resources import check_threads, cpu_affinity
from llama_cffi.errors import BusyError, NativeMemoryError
from llama_cffi.ggml.backend import Backend, system_info
from llama_cffi.ggml.threadpool_params import ThreadpoolParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from llama_cffi._generated.enums import GgmlSchedPriority


class Threadpool(Handle):
    """A pool of CPU threads that a context computes with. Loads the CPU backend.

    `nThreads` is at most 512, and an upper limit for the contexts that use the pool. `prio` above NORMAL may need
    privileges. `poll` is how threads wait for work, from 0 (sleep) to 100 (spin); it has no effect in a build with
    OpenMP, the default. `cpumask` contains the numbers of the CPUs to use; empty means all. With `strictCpu`, each
    thread is pinned to one CPU. The thread that calls `decode` belongs to the pool and keeps its affinity mask
    afterwards. A pool serves one context at a time.

    Maps to `ggml_threadpool`.
    """

    __slots__ = ("_contexts", "_leased", "_nThreads")

    _KIND = "thread pool"

    Params: ClassVar[type[ThreadpoolParams]] = ThreadpoolParams
    if not TYPE_CHECKING:
        SchedPriority = enums.GgmlSchedPriority

    def __init__(
        self,
        nThreads: int,
        prio: GgmlSchedPriority = enums.GgmlSchedPriority.NORMAL,
        poll: int = 50,
        cpumask: Iterable[int] = (),
        *,
        strictCpu: bool = False,
        paused: bool = False,
    ) -> None:
        """Create the pool. Raises TypeError or ValueError for invalid arguments, NativeMemoryError.

        Maps to `ggml_threadpool_new`.
        """
        _check_range("nThreads", nThreads, 1, lib.GGML_MAX_N_THREADS)
        check_threads("nThreads", nThreads)
        _check_range("poll", poll, 0, 100)
        params = ffi.new("struct ggml_threadpool_params *")
        lib.ggml_threadpool_params_init(params, nThreads)
        params.prio = enums.GgmlSchedPriority(prio)
        params.poll = poll
        params.strict_cpu = strictCpu
        params.paused = paused
        for cpu in _check_cpus(cpumask):
            params.cpumask[cpu] = True
        Backend.ensureCpu()
        owned = own(lib.ggml_threadpool_free, lib.ggml_threadpool_new, params)
        if owned.pointer is None:
            raise NativeMemoryError(f"out of memory for a pool of {nThreads} threads", operation="ggml_threadpool_new")
        self._nThreads = nThreads
        self._contexts = WeakRefs()  # that use it
        self._leased = WeakRefs()  # that have used it, and keep the C pool
        self._open(owned)

    @classmethod
    def new(cls, params: ThreadpoolParams) -> Threadpool:
        """Create the pool that parameters describe.

        Maps to `ggml_threadpool_new`.
        """
        if not isinstance(params, ThreadpoolParams):
            raise expected("a Threadpool.Params", params, "Ggml.Threadpool.Params() makes one", "params")
        mask = [cpu for cpu, wanted in enumerate(params.cpuMask) if wanted]
        return cls(params.nThreads, params.prio, params.poll, mask, strictCpu=params.strictCpu, paused=params.paused)

    @property
    def nThreads(self) -> int:
        """The number of threads, with the one that calls `decode`."""
        return self._nThreads

    def pause(self) -> None:
        """Suspend the threads until `resume` or the next computation. Raises BusyError while a context computes.

        Maps to `ggml_threadpool_pause`.
        """
        self._while_idle(lib.ggml_threadpool_pause)

    def resume(self) -> None:
        """Wake up the threads. Raises BusyError while a context computes.

        Maps to `ggml_threadpool_resume`.
        """
        self._while_idle(lib.ggml_threadpool_resume)

    def free(self) -> None:
        """Free the pool. Freeing twice is harmless. Raises BusyError while a context uses it.

        Maps to `ggml_threadpool_free`.
        """
        Threadpool._require(self)
        self.close()

    def _detach_users(self) -> None:
        if any(not context.closed for context in self._contexts):
            raise BusyError("a context uses this thread pool: call ctx.detachThreadpool(), or free the context, first")

    def _while_idle(self, function: Callable[[Any], None]) -> None:
        """Call `function(pool)` with exclusive use of the pool and of its contexts."""
        with exclusive(self, *self._contexts) as pointer:
            function(pointer)

    # For contexts

    def _attach(self, context: Handle) -> None:
        """Called before a context uses the pool."""
        if self.closed:
            self._raise_closed()
        if any(other is not context and not other.closed for other in self._contexts):
            raise BusyError("another context uses this thread pool: create one pool for each context")
        self._contexts.add(context)
        owned = context._owned
        if context not in self._leased and owned is not None and _keeps_last_pool():
            owned.keep(self._owned)  # until the context is freed
            self._leased.add(context)

    def _detach(self, context: Handle) -> None:
        """Called after a context has stopped using the pool."""
        self._contexts.discard(context)

    def __repr__(self) -> str:
        return super().__repr__() if self.closed else f"<Threadpool of {self._nThreads}>"


def _keeps_last_pool() -> bool:
    """Return True if a C context reads its last pool when it changes to another one: not in builds with OpenMP."""
    return "OPENMP = 1" not in system_info()


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer between {low} and {high}, got {value!r}")
    if not low <= value <= high:
        raise out_of_range(name, value, low, high)


def _check_cpus(cpus: Iterable[int]) -> list[int]:
    numbers = list(cpus)
    allowed = cpu_affinity()
    for cpu in numbers:
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise TypeError(f"cpumask must contain the numbers of CPUs, got {cpu!r}")
        if cpu not in allowed or cpu >= lib.GGML_MAX_N_THREADS:
            raise ValueError(f"cpumask must contain CPUs that this process may use, {sorted(allowed)}, got CPU {cpu}")
    return numbers
