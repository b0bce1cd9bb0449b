"""`Ggml.CGraph`: a graph of operations, and its computation by the CPU."""

from __future__ import annotations

from llama_cffi._core.callbacks import abort_pointers
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._host.resources import usable_cpus
from llama_cffi.errors import BusyError
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.computation import check, check_threads, finish
from llama_cffi.ggml.cplan import CPlan
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.ggml.graph import GraphNodes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi._generated.enums import GgmlStatus
    from llama_cffi.ggml.threadpool import Threadpool


class CGraph(GraphNodes):
    """A graph of operations: `ctx.newGraph()` makes one, `Ggml.buildForwardExpand(graph, result)` fills it.

    It keeps the contexts of all its tensors.

    Maps to `ggml_cgraph`.
    """

    __slots__ = ()

    def plan(self, nThreads: int = 0, threadPool: Threadpool | None = None) -> CPlan:
        """Return what a computation by the CPU will need. `nThreads` 0: those of the pool, or one for each CPU.

        Maps to `ggml_graph_plan`.
        """
        made = CPlan(1, threadPool)
        if nThreads == 0:
            nThreads = usable_cpus() if threadPool is None else threadPool.nThreads
        made.nThreads = nThreads
        Backend.ensureCpu()
        with exclusive(self._arena):
            check(self, cpu_device()._c, allocates=True)
            made.workSize = lib.ggml_graph_plan(self._pointer, made.nThreads, _pool(threadPool)).work_size
        return made

    def compute(self, cplan: CPlan) -> GgmlStatus:
        """Compute the graph by the CPU. Returns SUCCESS, or ABORTED if the callback of the plan stopped it.

        Raises ValueError if a tensor has no memory, or the CPU cannot compute an operation for these types.

        Maps to `ggml_graph_compute`.
        """
        if not isinstance(cplan, CPlan):
            raise expected("a Ggml.CPlan", cplan, "graph.plan(nThreads) makes one", "cplan")
        Backend.ensureCpu()
        pool = cplan.threadPool
        if pool is not None and any([not context.closed for context in pool._contexts]):
            raise BusyError("a context uses this thread pool: make another for the graph")
        with exclusive(self._arena, *([pool] if pool is not None else [])):
            threads = cplan.nThreads if check(self, cpu_device()._c) else 1
            plan = lib.ggml_graph_plan(self._pointer, threads, _pool(pool))
            work = cplan._memory(plan.work_size)
            plan.work_data = ffi.cast("uint8_t *", work)
            stop = ffi.new("int32_t *")
            function, data, kept = abort_pointers(cplan.abortCallback, cplan.abortCallbackData, stop)
            plan.abort_callback, plan.abort_callback_data = function, data
            check_threads(plan.n_threads)
            status = lib.ggml_graph_compute(self._pointer, ffi.addressof(plan))
            del kept
        return finish(status)


def _pool(pool: Threadpool | None) -> object:
    return ffi.NULL if pool is None else pool._c


def cpu_device() -> BackendDevice:
    """Return the device of the CPU backend, which is loaded."""
    device = BackendDevice.byName("CPU")
    assert device is not None
    return device
