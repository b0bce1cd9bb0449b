"""Backends: modules of ggml that compute, loaded from inside the package only."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from llama_cffi._ffi import ffi, lib
from llama_cffi.errors import UnavailableError
from llama_cffi.ggml.device import BackendDevice

_FOLDER = Path(__file__).resolve().parent.parent / "lib"
_PREFIX = "libggml-cpu-"
_SUFFIX = "-cffi.so"

_lock = threading.RLock()  # ggml's registry has none
_info_lock = threading.Lock()


class CpuVariant(NamedTuple):
    """One build of the CPU backend, and whether this machine runs it."""

    name: str
    path: Path
    score: int
    """ggml's own ranking; 0 where the CPU lacks something."""
    reason: str
    """Why it was passed over; empty for one that runs."""

    @property
    def runs(self) -> bool:
        return not self.reason


class Backend:
    """The backends of ggml. Loading one twice is harmless, in any order."""

    _cpu: CpuVariant | None = None

    @classmethod
    def cpuLoad(cls) -> None:
        """Load the CPU backend: the fastest variant that really runs here.

        `LLAMA_CFFI_CPU_VARIANT` names another one (`haswell`, say). A machine may advertise AMX and fault on it: a
        small product on AMX is tried in a child process first. Raises UnavailableError where no variant runs.
        """
        with _lock:
            if cls._cpu is None:
                chosen = _choose(cls.cpuVariants(), os.environ.get("LLAMA_CFFI_CPU_VARIANT"))
                _load(chosen.path, "cpu")
                cls._cpu = chosen

    @classmethod
    def ensureCpu(cls) -> None:
        """Load the CPU backend unless one is there already; no model loads without it."""
        if cls._cpu is None:
            cls.cpuLoad()

    @classmethod
    def cpuVariant(cls) -> CpuVariant | None:
        """The variant that was loaded."""
        return cls._cpu

    @classmethod
    def cpuVariants(cls) -> list[CpuVariant]:
        """Every variant of the CPU backend in this package, best first, each with what speaks against it."""
        amx: list[bool] = []

        def amx_works() -> bool:
            if not amx:  # ask once, and only if a variant wants it
                amx.append(os.environ.get("LLAMA_CFFI_AMX") != "0" and lib.shim_amx_works())
            return amx[0]

        variants = [_ask(path, amx_works) for path in sorted(_FOLDER.glob(f"{_PREFIX}*{_SUFFIX}"))]
        return sorted(variants, key=lambda variant: (-variant.score, variant.name))

    @classmethod
    def vkLoad(cls) -> None:
        """Load the Vulkan backend, and the CPU backend. Without a Vulkan device that is a warning, not a failure."""
        with _lock:
            cls.cpuLoad()
            path = _FOLDER / "libggml-vulkan-cffi.so"
            if not path.exists():
                warnings.warn(
                    "this build of llama_cffi has no Vulkan backend: models run on the CPU. "
                    "Build with GGML_USE_VULKAN=1 to have it.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return
            if lib.ggml_backend_reg_by_name(b"Vulkan") == ffi.NULL:
                _load(path, "vulkan")

    @classmethod
    def devices(cls) -> list[BackendDevice]:
        """Every device of the loaded backends: GPUs in the order in which layers are spread over them, and the CPU.

        Maps to `ggml_backend_dev_count` and `ggml_backend_dev_get`.
        """
        with _lock:
            return [BackendDevice.get(index) for index in range(BackendDevice.count())]


def system_info() -> str:
    """What the loaded backends can do. llama.cpp writes it to one buffer of its own."""
    with _info_lock:
        return bytes(ffi.string(lib.llama_print_system_info())).decode("utf-8", "replace")


def _ask(path: Path, amx_works: Callable[[], bool]) -> CpuVariant:
    name = path.name[len(_PREFIX) : -len(_SUFFIX)]
    answer = ffi.new("struct shim_variant *")
    lib.shim_variant_ask(os.fsencode(path), answer)
    reason = ""
    if not answer.loadable:
        reason = "the file cannot be loaded"
    elif answer.score <= 0:
        reason = "this CPU lacks instructions that it uses"
    elif answer.uses_avx512 and not lib.shim_avx512_works():
        reason = "the operating system does not enable AVX-512"
    elif answer.uses_amx and not amx_works():
        reason = "AMX is advertised, but does not work"
    return CpuVariant(name, path, answer.score, reason)


def _choose(variants: list[CpuVariant], wanted: str | None) -> CpuVariant:
    if not variants:
        raise UnavailableError(f"there is no CPU backend in {_FOLDER}: reinstall the package, or run `make build`")
    if wanted:
        for variant in variants:
            if variant.name == wanted:
                if variant.reason:
                    raise UnavailableError(f"LLAMA_CFFI_CPU_VARIANT={wanted} does not run here: {variant.reason}")
                return variant
        names = ", ".join(variant.name for variant in variants)
        raise UnavailableError(f"LLAMA_CFFI_CPU_VARIANT={wanted} is none of {names}")
    for variant in variants:
        if variant.runs:
            return variant
    reasons = "; ".join(f"{variant.name}: {variant.reason}" for variant in variants)
    raise UnavailableError(f"no variant of the CPU backend runs on this machine: {reasons}")


def _load(path: Path, module: str) -> None:
    name = os.fsencode(path)
    if lib.ggml_backend_load(name) == ffi.NULL:
        raise UnavailableError(f"{path} could not be loaded as a backend: reinstall the package, or run `make build`")
    lib.shim_module_open(module.encode(), name)
