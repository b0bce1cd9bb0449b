"""`Ggml.Backend`: loads the backends (CPU, Vulkan, RPC) at run time, from this package only."""

from __future__ import annotations

import os
import threading

from llama_cffi._core import abi, manifest as _manifest, openmp
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing, registering
from llama_cffi._core.native_log import listener, native_log
from llama_cffi._core.ownership import locked
from llama_cffi._core.process import devices_opened, require_devices
from llama_cffi.errors import UnavailableError
from llama_cffi.ggml._cpu_variants import LINKED, Candidate, candidates, choose, library_of
from llama_cffi.ggml.device import BackendDevice, BackendReg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from llama_cffi._host import vulkan
    from llama_cffi.ggml.facts import CpuVariant

_info_lock = threading.Lock()


class Backend:
    """The backends of ggml. They may be loaded in any order, on any thread, and repeatedly."""

    def __init__(self) -> None:
        raise TypeError("Backend is not made by calling the class: use its class methods, such as Backend.devices()")

    _cpu: Candidate | None = None
    _others: ClassVar[set[str]] = set()  # names of loaded backends besides the CPU
    _complete = False  # `ensure` has loaded what a model needs

    @classmethod
    def cpuLoad(cls) -> None:
        """Load the CPU backend: the fastest variant that this machine runs.

        The environment variable LLAMA_CFFI_CPU_VARIANT selects another one, such as `haswell`. Some machines advertise
        AMX and fault on it: a child process tries AMX first. Raises UnavailableError if none of the variants runs.
        """
        if cls._cpu is not None:
            return
        with registering():
            if cls._cpu is None:
                chosen = choose(candidates(), os.environ.get("LLAMA_CFFI_CPU_VARIANT"))
                load_module("cpu", chosen.file, linked=chosen.name == LINKED)
                cls._cpu = chosen
                _report_foreign_openmp()

    @classmethod
    def ensureCpu(cls) -> None:
        """Load the CPU backend if it is not loaded yet. Models need it."""
        if cls._cpu is None:
            cls.cpuLoad()

    @classmethod
    def ensure(cls) -> None:
        """Load what a model needs: the CPU backend, and Vulkan if the environment variable GGML_USE_VULKAN is 1.

        `Model.load` and `backendInit` call this. The first call warns if Vulkan is requested but has no device.
        """
        if not cls._complete:
            cls.ensureCpu()
            if os.environ.get("GGML_USE_VULKAN") == "1":
                cls.vkLoad()
            cls._complete = True
        require_devices()

    @classmethod
    def cpuVariant(cls) -> CpuVariant | None:
        """Return the loaded variant of the CPU backend; None if it is not loaded."""
        return None if cls._cpu is None else _told(cls._cpu)

    @classmethod
    def cpuVariants(cls) -> list[CpuVariant]:
        """Return all variants of the CPU backend in this package, best first, each with the reason if it cannot run."""
        return [_told(candidate) for candidate in candidates()]

    @classmethod
    def vkLoad(cls) -> None:
        """Load the Vulkan backend and the CPU backend. Models that are loaded later use the Vulkan devices.

        Issues a RuntimeWarning with the reason if there is no Vulkan device. A child process tries the Vulkan loader
        and the drivers first. Raises ValueError if GGML_VK_VISIBLE_DEVICES names a device that does not exist, and
        BusyError inside a callback of a model that is loading.
        """
        cls.cpuLoad()
        problem = cls._load_vulkan()
        if problem:
            from llama_cffi._core import user_warnings

            user_warnings.warn(str(problem), RuntimeWarning)

    @classmethod
    def _load_vulkan(cls) -> vulkan.Problem | None:
        """Load Vulkan. Returns the reason if that is not possible, else None."""
        if "vulkan" in cls._others:
            return None
        from llama_cffi._host import vulkan  # imports `subprocess` and others

        if "vulkan" not in _manifest.read().modules:
            return vulkan.NO_MODULE
        problem = vulkan.why_not()
        if not problem:
            cls._load_other("vulkan")
        return problem

    @classmethod
    def load(cls, name: str) -> None:
        """Load a backend that `available()` lists, and the CPU backend. `cpu` means `cpuLoad()`, `vulkan` `vkLoad()`.

        Raises UnavailableError if this build does not contain it.

        Maps to `ggml_backend_load`.
        """
        if not isinstance(name, str):
            raise expected("a str", name, "Ggml.Backend.available() lists the names", "name")
        if name == "vulkan":
            cls.vkLoad()
            return
        cls.cpuLoad()
        if name != "cpu":
            cls._load_other(name)

    @classmethod
    def _load_other(cls, name: str) -> None:
        """Load a backend that consists of a single module."""
        if name in cls._others:
            return
        manifest = _manifest.read()
        files = manifest.modules.get(name)
        if files is None:
            has = ", ".join(cls.available())
            raise UnavailableError(f"this build does not contain a backend {name!r}, only {has}: add it to the build")
        with registering():
            if name not in cls._others:
                load_module(name, files[0] if files else library_of(manifest), linked=not files)
                if name != "rpc":
                    devices_opened()
                cls._others.add(name)

    @classmethod
    def available(cls) -> list[str]:
        """Return the names of the backends in this build, loaded or not: `cpu`, `rpc`, `vulkan`."""
        return sorted(_manifest.read().modules)

    @classmethod
    def registrations(cls) -> list[BackendReg]:
        """Return the loaded backends. Each knows its devices and its features.

        Maps to `ggml_backend_reg_count` and `ggml_backend_reg_get`.
        """
        with listing():
            return [BackendReg(lib.ggml_backend_reg_get(index)) for index in range(lib.ggml_backend_reg_count())]

    @classmethod
    def devices(cls) -> list[BackendDevice]:
        """Return the devices of all loaded backends, in the order in which these were loaded.

        Maps to `ggml_backend_dev_count` and `ggml_backend_dev_get`.
        """
        with listing():
            return [BackendDevice.get(index) for index in range(BackendDevice.count())]


def _told(candidate: Candidate) -> CpuVariant:
    from pathlib import Path

    from llama_cffi.ggml.facts import CpuVariant

    return CpuVariant(candidate.name, Path(candidate.file), candidate.score, candidate.reason)


_loaded: dict[bytes, Any] = {}  # files of modules that ggml has loaded


def load_module(name: str, path: str, *, linked: bool = False) -> None:
    """Register a backend of the manifest with ggml, and its functions with `lib`. Call it inside `registering()`.

    `linked` means that it is part of the linked libraries, and that `path` is the library to look its functions up in.
    Raises UnavailableError if it cannot be loaded.
    """
    file = os.fsencode(path)
    abi.require_files(ffi, lib, _manifest.read().linked if linked else [path])
    if linked:
        if lib.ggml_backend_reg_by_name(name.encode()) == ffi.NULL:  # case-insensitive
            raise UnavailableError(
                f"the {name} backend, which is part of libggml in this build, did not start: run "
                "`python -m llama_cffi doctor`"
            )
        lib.shim_module_open(name.encode(), file)
        return
    if file not in _loaded:
        _loaded.update(zip([file], map(lib.ggml_backend_load, [file])))  # noqa: B905  # one call of C; see `atomic`
    if _loaded[file] == ffi.NULL:
        del _loaded[file]
        log = "".join(f"\n  {line}" for line in native_log().splitlines()[-4:])
        odd = [variable for variable in sorted(os.environ) if variable.startswith("GGML_")]
        raise UnavailableError(
            f"{path} could not be loaded as a backend: reinstall the package, or run `make build`"
            + (f"; a wrong value of {', '.join(odd)} may be the reason too" if odd else "")
            + log
        )
    lib.shim_module_open(name.encode(), file)


def _report_foreign_openmp() -> None:
    """Log a warning if another package has loaded OpenMP's runtime before this one."""
    path = ffi.new("char[]", lib.shim_openmp(ffi.NULL, 0) + 1)
    lib.shim_openmp(path, len(path))
    warning = openmp.foreign_runtime(os.fsdecode(ffi.string(path)))
    write = listener()
    if warning is not None and write is not None:
        write(lib.GGML_LOG_LEVEL_WARN, warning)


def system_info() -> str:
    """Return the features of the loaded backends as one line. (llama.cpp writes it to a static buffer.)"""
    with locked(_info_lock), listing():
        return bytes(ffi.string(lib.llama_print_system_info())).decode("utf-8", "replace")
