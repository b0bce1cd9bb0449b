"""Functions that concern the whole library: setup, limits, capabilities, version, names of enumerators, split files."""

from __future__ import annotations

import os

from llama_cffi._core.arguments import StrPath, optional_text, path_bytes
from llama_cffi._core.checks import out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing
from llama_cffi._generated.enums import FlashAttnType, Ftype, GgmlNumaStrategy, LoadMode
from llama_cffi.ggml.backend import Backend, system_info


def backendInit() -> None:
    """Initialize llama.cpp. Loads the CPU backend, and Vulkan if the environment variable GGML_USE_VULKAN is 1.

    Calling it is optional, and repeating it is harmless.

    Maps to `llama_backend_init`.
    """
    Backend.ensure()  # without a backend, llama.cpp would look for one in the working directory
    lib.llama_backend_init()


def backendFree() -> None:
    """Undo `backendInit`. Models and contexts keep working.

    Maps to `llama_backend_free`.
    """
    lib.llama_backend_free()


def numaInit(strategy: GgmlNumaStrategy) -> None:
    """Set the strategy for NUMA systems. Loads the CPU backend.

    Maps to `llama_numa_init`.
    """
    chosen = GgmlNumaStrategy(strategy)
    Backend.ensureCpu()
    lib.llama_numa_init(chosen)


def timeUs() -> int:
    """Return the time in microseconds since an unspecified start.

    Maps to `llama_time_us`.
    """
    return lib.llama_time_us()


def maxDevices() -> int:
    """Return the maximum number of devices that a model can be placed on.

    Maps to `llama_max_devices`.
    """
    return lib.llama_max_devices()


def maxParallelSequences() -> int:
    """Return the maximum of `Context.Params.nSeqMax`.

    Maps to `llama_max_parallel_sequences`.
    """
    return lib.llama_max_parallel_sequences()


def supportsMmap() -> bool:
    """Return True if models can be mapped into memory.

    Maps to `llama_supports_mmap`.
    """
    return lib.llama_supports_mmap()


def supportsMlock() -> bool:
    """Return True if models can be locked in memory.

    Maps to `llama_supports_mlock`.
    """
    return lib.llama_supports_mlock()


def supportsGpuOffload() -> bool:
    """Return True if a loaded backend can run layers on a GPU.

    Maps to `llama_supports_gpu_offload`.
    """
    with listing():
        return lib.llama_supports_gpu_offload()


def supportsRpc() -> bool:
    """Return True if the RPC backend is loaded.

    Maps to `llama_supports_rpc`.
    """
    with listing():
        return lib.llama_supports_rpc()


def printSystemInfo() -> str:
    """Return the features of the loaded backends as one line.

    Maps to `llama_print_system_info`.
    """
    return system_info()


def version() -> str:
    """Return the version string of llama.cpp.

    Maps to `llama_version`.
    """
    return optional_text(lib.llama_version()) or ""


def maxTensorBuftOverrides() -> int:
    """Return the maximum length of `Model.Params.tensorBuftOverrides`, plus one for the end of the list in C.

    Maps to `llama_max_tensor_buft_overrides`.
    """
    return lib.llama_max_tensor_buft_overrides()


# Names


def ftypeName(ftype: Ftype | int) -> str:
    """Return the name of a weight format, such as `Q4_K - Medium`.

    Maps to `llama_ftype_name`.
    """
    return optional_text(lib.llama_ftype_name(ftype)) or ""


def flashAttnTypeName(flashAttnType: FlashAttnType) -> str:
    """Return the name of a flash attention type: `auto`, `disabled` or `enabled`.

    Maps to `llama_flash_attn_type_name`.
    """
    return optional_text(lib.llama_flash_attn_type_name(FlashAttnType(flashAttnType))) or ""


def loadModeName(loadMode: LoadMode) -> str:
    """Return the name of a load mode, as on llama.cpp's command line, such as `mmap+mlock`.

    Maps to `llama_load_mode_name`.
    """
    return optional_text(lib.llama_load_mode_name(LoadMode(loadMode))) or ""


def loadModeFromStr(name: str) -> LoadMode:
    """Return the load mode with a name that `loadModeName` returns. Raises ValueError for any other name.

    Maps to `llama_load_mode_from_str`.
    """
    names = [loadModeName(mode) for mode in LoadMode]
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}, got {name!r}")
    return LoadMode(lib.llama_load_mode_from_str(name.encode()))


# Split models

_MAX_SPLITS = 65535


def splitPath(pathPrefix: StrPath, splitNo: int, splitCount: int) -> str:
    """Return the path of file `splitNo`, counted from 0, of a split model: `m-00001-of-00004.gguf` for ("m", 0, 4).

    Maps to `llama_split_path`.
    """
    prefix = path_bytes(pathPrefix, "pathPrefix")
    _check_split(splitNo, splitCount)
    out = ffi.new("char[]", len(prefix) + 64)
    lib.llama_split_path(out, len(out), prefix, splitNo, splitCount)
    return os.fsdecode(ffi.string(out))


def splitPrefix(splitPath: StrPath, splitNo: int, splitCount: int) -> str | None:
    """Return the prefix that `splitPath` makes this path from; None if the path does not fit the number and the count.

    Maps to `llama_split_prefix`.
    """
    path = path_bytes(splitPath, "splitPath")
    _check_split(splitNo, splitCount)
    out = ffi.new("char[]", len(path) + 1)
    length = lib.llama_split_prefix(out, len(out), path, splitNo, splitCount)
    return os.fsdecode(ffi.buffer(out, length)[:]) if length > 0 else None


def _check_split(number: int, count: int) -> None:
    if not 1 <= count <= _MAX_SPLITS:
        raise out_of_range("splitCount", count, 1, _MAX_SPLITS)
    if not 0 <= number < count:
        raise out_of_range("splitNo", number, 0, count - 1)
