"""Backends: what computes, loaded at run time and from inside the package only."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import ClassVar

from llama_cffi._core import abi, manifest as _manifest, user_warnings
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing, registering
from llama_cffi._core.native_log import native_log
from llama_cffi._core.process import devices_opened, require_devices
from llama_cffi._host import vulkan
from llama_cffi.errors import UnavailableError
from llama_cffi.ggml._cpu_variants import LINKED, CpuVariant, choose, library_of, variants
from llama_cffi.ggml.device import BackendDevice, BackendReg

_info_lock = threading.Lock()


class Backend:
    """The backends of ggml. Loading one twice is harmless, in any order and on any thread."""

    _cpu: CpuVariant | None = None
    _others: ClassVar[set[str]] = set()  # the names of those that are loaded beside the CPU
    _complete = False  # whether what a model needs is loaded

    @classmethod
    def cpuLoad(cls) -> None:
        """Load the CPU backend: the fastest variant that really runs here.

        `LLAMA_CFFI_CPU_VARIANT` names another one (`haswell`, say). A machine may advertise AMX and fault on it: a
        small product on AMX is tried in a child process first. Raises UnavailableError where no variant runs.
        """
        if cls._cpu is not None:
            return
        with registering():
            if cls._cpu is None:
                chosen = choose(cls.cpuVariants(), os.environ.get("LLAMA_CFFI_CPU_VARIANT"))
                load_module("cpu", chosen.path, linked=chosen.name == LINKED)
                cls._cpu = chosen

    @classmethod
    def ensureCpu(cls) -> None:
        """Load the CPU backend unless one is there already; no model loads without it."""
        if cls._cpu is None:
            cls.cpuLoad()

    @classmethod
    def ensure(cls) -> None:
        """Load what a model needs: the CPU backend, and Vulkan where `GGML_USE_VULKAN` is exactly `1`.

        `Model.load` and `backendInit` call this. Where there is no Vulkan device, the first of them warns.
        """
        if not cls._complete:
            cls.ensureCpu()
            if os.environ.get("GGML_USE_VULKAN") == "1":
                cls.vkLoad()
            cls._complete = True
        require_devices()

    @classmethod
    def cpuVariant(cls) -> CpuVariant | None:
        """The variant that was loaded."""
        return cls._cpu

    @classmethod
    def cpuVariants(cls) -> list[CpuVariant]:
        """Every variant of the CPU backend in this package, best first, each with what speaks against it."""
        return variants()

    @classmethod
    def vkLoad(cls) -> None:
        """Load the Vulkan backend, and the CPU backend. Models that are loaded from now on use its devices.

        Without a Vulkan device that is a warning which says why, and not a failure. The loader and the drivers are
        tried in a child process first. Raises ValueError where `GGML_VK_VISIBLE_DEVICES` names what there is not, and
        BusyError inside a callback of a model that is loading.
        """
        cls.cpuLoad()
        problem = cls._load_vulkan()
        if problem:
            user_warnings.warn(str(problem), RuntimeWarning)

    @classmethod
    def _load_vulkan(cls) -> vulkan.Problem | None:
        """Returns why there is no Vulkan; None where there is."""
        if "vulkan" in cls._others:
            return None
        if "vulkan" not in _manifest.read().modules:
            return vulkan.NO_MODULE
        problem = vulkan.why_not()
        if not problem:
            cls._load_other("vulkan")
        return problem

    @classmethod
    def load(cls, name: str) -> None:
        """Load a backend that `available()` names, and the CPU backend. `cpu` is `cpuLoad()`, `vulkan` is `vkLoad()`.

        Raises UnavailableError for one that this build does not have.

        Maps to `ggml_backend_load`.
        """
        if not isinstance(name, str):
            raise TypeError(f"name is the name of a backend, not {type(name).__name__}: Ggml.Backend.available()")
        if name == "vulkan":
            cls.vkLoad()
            return
        cls.cpuLoad()
        if name != "cpu":
            cls._load_other(name)

    @classmethod
    def _load_other(cls, name: str) -> None:
        """Load a backend that needs no choice."""
        if name in cls._others:
            return
        manifest = _manifest.read()
        files = manifest.modules.get(name)
        if files is None:
            has = ", ".join(cls.available())
            raise UnavailableError(f"this build has no backend {name!r}, but {has}: add it to the build")
        with registering():
            if name not in cls._others:
                load_module(name, files[0] if files else library_of(manifest), linked=not files)
                if name != "rpc":
                    devices_opened()
                cls._others.add(name)

    @classmethod
    def available(cls) -> list[str]:
        """The names of the backends in this build, loaded or not: `cpu`, `rpc`, `vulkan`."""
        return sorted(_manifest.read().modules)

    @classmethod
    def registrations(cls) -> list[BackendReg]:
        """Every loaded backend, with its devices and its features.

        Maps to `ggml_backend_reg_count` and `ggml_backend_reg_get`.
        """
        with listing():
            return [BackendReg(lib.ggml_backend_reg_get(index)) for index in range(lib.ggml_backend_reg_count())]

    @classmethod
    def devices(cls) -> list[BackendDevice]:
        """Every device of the loaded backends, in the order in which they were loaded: the CPU, GPUs.

        Maps to `ggml_backend_dev_count` and `ggml_backend_dev_get`.
        """
        with listing():
            return [BackendDevice.get(index) for index in range(BackendDevice.count())]


def load_module(name: str, path: Path, *, linked: bool = False) -> None:
    """Make a backend of the manifest known to ggml, and its functions to `lib`. For use inside of `registering()`.

    `linked` says that it is part of the libraries already, and that `path` is the one that leads to its functions.
    Raises UnavailableError.
    """
    file = os.fsencode(path)
    abi.require_files(ffi, lib, _manifest.read().linked if linked else [path])
    if linked:
        if lib.ggml_backend_reg_by_name(name.encode()) == ffi.NULL:  # capitals do not matter
            raise UnavailableError(
                f"the {name} backend, which is part of this build's libggml, did not start: run `python -m llama_cffi "
                "doctor`"
            )
    elif lib.ggml_backend_load(file) == ffi.NULL:
        log = "".join(f"\n  {line}" for line in native_log().splitlines()[-4:])
        odd = [variable for variable in sorted(os.environ) if variable.startswith("GGML_")]
        raise UnavailableError(
            f"{path} could not be loaded as a backend: reinstall the package, or run `make build`"
            + (f"; a value that ggml does not understand does it too: {', '.join(odd)}" if odd else "")
            + log
        )
    lib.shim_module_open(name.encode(), file)


def system_info() -> str:
    """What the loaded backends can do. llama.cpp writes it to one buffer of its own."""
    with _info_lock, listing():
        return bytes(ffi.string(lib.llama_print_system_info())).decode("utf-8", "replace")
