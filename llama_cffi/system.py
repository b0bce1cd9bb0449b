"""Functions of the library as a whole."""

from __future__ import annotations

import os

from llama_cffi._core.arguments import StrPath, optional_text, path_bytes
from llama_cffi._core.checks import out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing
from llama_cffi._generated.enums import FlashAttnType, Ftype, GgmlNumaStrategy, LoadMode
from llama_cffi.ggml.backend import Backend, system_info


def backendInit() -> None:
    """Set llama.cpp up. Loads the CPU backend, and Vulkan where the environment has `GGML_USE_VULKAN=1`.

    May be called any number of times, and need not be called.

    Maps to `llama_backend_init`.
    """
    Backend.ensure()  # without a backend, llama.cpp would look for one in the working directory
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
    with listing():
        return lib.llama_supports_gpu_offload()


def supportsRpc() -> bool:
    """Whether the RPC backend is loaded.

    Maps to `llama_supports_rpc`.
    """
    with listing():
        return lib.llama_supports_rpc()


def printSystemInfo() -> str:
    """What the loaded backends can do, as one line.

    Maps to `llama_print_system_info`.
    """
    return system_info()


def version() -> str:
    """What llama.cpp calls its own version.

    Maps to `llama_version`.
    """
    return optional_text(lib.llama_version()) or ""


def maxTensorBuftOverrides() -> int:
    """How long `Model.Params.tensorBuftOverrides` may be, with the entry that ends it in C.

    Maps to `llama_max_tensor_buft_overrides`.
    """
    return lib.llama_max_tensor_buft_overrides()


# Names


def ftypeName(ftype: Ftype | int) -> str:
    """What llama.cpp calls a format of weights, such as `Q4_K - Medium`.

    Maps to `llama_ftype_name`.
    """
    return optional_text(lib.llama_ftype_name(ftype)) or ""


def flashAttnTypeName(flashAttnType: FlashAttnType) -> str:
    """`auto`, `disabled` or `enabled`.

    Maps to `llama_flash_attn_type_name`.
    """
    return optional_text(lib.llama_flash_attn_type_name(FlashAttnType(flashAttnType))) or ""


def loadModeName(loadMode: LoadMode) -> str:
    """What llama.cpp's command line calls a way to load, such as `mmap+mlock`.

    Maps to `llama_load_mode_name`.
    """
    return optional_text(lib.llama_load_mode_name(LoadMode(loadMode))) or ""


def loadModeFromStr(name: str) -> LoadMode:
    """The way to load that `loadModeName` gives the name of. Raises ValueError for any other name.

    Maps to `llama_load_mode_from_str`.
    """
    names = [loadModeName(mode) for mode in LoadMode]
    if name not in names:
        raise ValueError(f"a load mode is one of {', '.join(names)}, not {name!r}")
    return LoadMode(lib.llama_load_mode_from_str(name.encode()))


# Split models

_SPLITS = 65535


def splitPath(pathPrefix: StrPath, splitNo: int, splitCount: int) -> str:
    """The path of one file of a split model, by its number from 0: `m-00001-of-00004.gguf` for ("m", 0, 4).

    Maps to `llama_split_path`.
    """
    prefix = path_bytes(pathPrefix, "pathPrefix")
    _check_split(splitNo, splitCount)
    out = ffi.new("char[]", len(prefix) + 64)
    lib.llama_split_path(out, len(out), prefix, splitNo, splitCount)
    return os.fsdecode(ffi.string(out))


def splitPrefix(splitPath: StrPath, splitNo: int, splitCount: int) -> str | None:
    """What `splitPath` was made from; None for a path that is not of this number and count.

    Maps to `llama_split_prefix`.
    """
    path = path_bytes(splitPath, "splitPath")
    _check_split(splitNo, splitCount)
    out = ffi.new("char[]", len(path) + 1)
    length = lib.llama_split_prefix(out, len(out), path, splitNo, splitCount)
    return os.fsdecode(ffi.buffer(out, length)[:]) if length > 0 else None


def _check_split(number: int, count: int) -> None:
    if not 1 <= count <= _SPLITS:
        raise out_of_range("splitCount", count, 1, _SPLITS)
    if not 0 <= number < count:
        raise out_of_range("splitNo", number, 0, count - 1)
