"""Functions of the library as a whole."""

from __future__ import annotations

import threading

from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import GgmlNumaStrategy
from llama_cffi.ggml.backend import Backend

_info_lock = threading.Lock()  # llama.cpp builds the text in one static buffer


def backendInit() -> None:
    """Set llama.cpp up. Loads the CPU backend. May be called any number of times, and need not be called.

    Maps to `llama_backend_init`.
    """
    Backend.ensureCpu()  # without a backend, llama.cpp would look for one in the working directory
    lib.llama_backend_init()


def backendFree() -> None:
    """Undo `backendInit`. Models and contexts go on working.

    Maps to `llama_backend_free`.
    """
    lib.llama_backend_free()


def numaInit(strategy: GgmlNumaStrategy) -> None:
    """Choose how memory is spread over NUMA nodes. Loads the CPU backend.

    Maps to `llama_numa_init`.
    """
    chosen = GgmlNumaStrategy(strategy)
    Backend.ensureCpu()
    lib.llama_numa_init(chosen)


def timeUs() -> int:
    """The time in microseconds, from an unspecified start.

    Maps to `llama_time_us`.
    """
    return lib.llama_time_us()


def maxDevices() -> int:
    """How many devices a model can be spread over.

    Maps to `llama_max_devices`.
    """
    return lib.llama_max_devices()


def maxParallelSequences() -> int:
    """The highest `Context.Params.nSeqMax`.

    Maps to `llama_max_parallel_sequences`.
    """
    return lib.llama_max_parallel_sequences()


def supportsMmap() -> bool:
    """Whether models can be mapped into memory.

    Maps to `llama_supports_mmap`.
    """
    return lib.llama_supports_mmap()


def supportsMlock() -> bool:
    """Whether models can be locked in memory.

    Maps to `llama_supports_mlock`.
    """
    return lib.llama_supports_mlock()


def supportsGpuOffload() -> bool:
    """Whether a loaded backend can take layers over.

    Maps to `llama_supports_gpu_offload`.
    """
    return lib.llama_supports_gpu_offload()


def supportsRpc() -> bool:
    """Whether the RPC backend is loaded.

    Maps to `llama_supports_rpc`.
    """
    return lib.llama_supports_rpc()


def printSystemInfo() -> str:
    """What the loaded backends can do, as one line.

    Maps to `llama_print_system_info`.
    """
    with _info_lock:
        return bytes(ffi.string(lib.llama_print_system_info())).decode("utf-8", "replace")
