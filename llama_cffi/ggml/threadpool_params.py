"""`Ggml.Threadpool.Params`: threads, their priority, and the CPUs that they may use."""

from __future__ import annotations

from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.structs import GgmlThreadpoolParamsFields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ThreadpoolParams(GgmlThreadpoolParamsFields):
    """Parameters of `Threadpool.new`. `Params()` has those of 4 threads, as ggml's default.

    Maps to `ggml_threadpool_params`.
    """

    __slots__ = ()

    def _set_defaults(self) -> None:
        lib.ggml_threadpool_params_init(self._c, lib.GGML_DEFAULT_N_THREADS)

    @property
    def cpuMask(self) -> memoryview[Any]:
        """512 booleans, one for each CPU, which can be set: `params.cpuMask[2] = True`. All False: every CPU."""
        flags: memoryview[Any] = memoryview(ffi.buffer(self._c.cpumask)).cast("B").cast("?")
        return flags

    @cpuMask.setter
    def cpuMask(self, value: Any) -> None:
        flags = [bool(flag) for flag in value]
        if len(flags) != len(self._c.cpumask):
            raise ValueError(f"cpuMask must have {len(self._c.cpumask)} booleans, got {len(flags)}")
        self._c.cpumask = flags

    def init(self, nThreads: int) -> None:
        """Set all parameters to the defaults for a number of threads.

        Maps to `ggml_threadpool_params_init`.
        """
        lib.ggml_threadpool_params_init(self._c, _threads(nThreads))

    @classmethod
    def getDefault(cls, nThreads: int = lib.GGML_DEFAULT_N_THREADS) -> ThreadpoolParams:
        """Return the defaults for a number of threads.

        Maps to `ggml_threadpool_params_default`.
        """
        params = cls()
        params._c[0] = lib.ggml_threadpool_params_default(_threads(nThreads))
        return params

    @staticmethod
    def match(a: ThreadpoolParams, b: ThreadpoolParams) -> bool:
        """Return True if two are equal.

        Maps to `ggml_threadpool_params_match`.
        """
        for name, value in (("a", a), ("b", b)):
            if not isinstance(value, ThreadpoolParams):
                raise expected("a Threadpool.Params", value, "Ggml.Threadpool.Params() makes one", name)
        return lib.ggml_threadpool_params_match(a._c, b._c)


def _threads(value: int) -> int:
    return integer(value, 1, lib.GGML_MAX_N_THREADS, "nThreads")
