"""`Ggml.Backend`: loads the backends (CPU, Vulkan, RPC) at run time, from this package only."""

from __future__ import annotations

import os
import threading

from llama_cffi._core import abi, manifest as _manifest, openmp
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.locks import listing, registering
from llama_cffi._core.native_log import listener, native_log
from llama_cffi._core.ownership import locked, own
from llama_cffi._core.process import devices_opened, require_devices
from llama_cffi._host.resources import check_threads, usable_cpus
from llama_cffi.errors import NativeError, UnavailableError
from llama_cffi.ggml._cpu_variants import LINKED, Candidate, candidates, choose, library_of
from llama_cffi.ggml.device import BackendBufferType, BackendDevice, BackendReg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from typing_extensions import Self

    from llama_cffi._generated.enums import GgmlStatus
    from llama_cffi._host import vulkan
    from llama_cffi.ggml.facts import CpuVariant

_info_lock = threading.Lock()


class Backend(Handle):
    """The backends of ggml. They may be loaded in any order, on any thread, and repeatedly.

    An object of this class computes graphs: `cpuInit`, `vkInit` and `init` make one for a device.

    Maps to `ggml_backend`.
    """

    __slots__ = ("_device", "_nThreads", "_running", "_stop")

    _KIND = "backend"
    _MADE_BY = "use its class methods, such as Backend.devices() and Backend.cpuInit()"

    _device: BackendDevice
    _nThreads: int  # of a CPU backend
    _running: list[Any]  # graphs that may be computed still
    _stop: Any

    Reg: ClassVar[type[BackendReg]] = BackendReg

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
    def init(cls, device: BackendDevice) -> Backend:
        """Make a backend that computes on a device. Raises NativeError if that fails.

        Maps to `ggml_backend_dev_init`.
        """
        if not isinstance(device, BackendDevice):
            raise expected("a Ggml.BackendDevice", device, "Ggml.Backend.devices() lists them", "device")
        return cls._of_device(device)

    @classmethod
    def cpuInit(cls) -> Backend:
        """Make a backend that computes on the CPU. Loads the CPU backend.

        Maps to `ggml_backend_cpu_init`.
        """
        cls.ensureCpu()
        device = BackendDevice.byName("CPU")
        assert device is not None
        return cls._of_device(device)

    @classmethod
    def vkInit(cls, devNum: int = 0) -> Backend:
        """Make a backend that computes on a Vulkan device. Loads the Vulkan backend.

        Raises IndexError if there are fewer devices.

        Maps to `ggml_backend_vk_init`.
        """
        cls.vkLoad()
        found = [device for device in cls.devices() if device.backendReg().name == "Vulkan"]
        if not 0 <= integer(devNum, -(1 << 31), (1 << 31) - 1, "devNum") < len(found):
            raise IndexError(f"devNum must be less than {len(found)}, the number of Vulkan devices, got {devNum}")
        return cls._of_device(found[devNum])

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

    @classmethod
    def _of_device(cls, device: BackendDevice) -> Self:
        require_devices()
        owned = own(lib.ggml_backend_free, lib.ggml_backend_dev_init, device._c, ffi.NULL)
        if owned.pointer is None:
            raise NativeError(f"the device {device.name} could not be initialized", operation="ggml_backend_dev_init")
        backend = cls.__new__(cls)
        backend._device = device
        backend._nThreads = usable_cpus()
        backend._running = []
        backend._stop = ffi.new("int32_t *")
        backend._open(owned)
        if backend.isCpu:
            lib.ggml_backend_cpu_set_abort_callback(owned.pointer, ffi.addressof(lib, "shim_abort"), backend._stop)
        return backend

    @property
    def name(self) -> str:
        """The name, such as `CPU` or `Vulkan0`.

        Maps to `ggml_backend_name`.
        """
        return bytes(ffi.string(lib.ggml_backend_name(self._c))).decode("utf-8", "replace")

    @property
    def device(self) -> BackendDevice:
        """The device that it computes on.

        Maps to `ggml_backend_get_device`.
        """
        self._c  # noqa: B018  # raises once it is closed
        return self._device

    @property
    def isCpu(self) -> bool:
        """True for a CPU backend.

        Maps to `ggml_backend_is_cpu`.
        """
        return lib.ggml_backend_is_cpu(self._c)

    @property
    def isVk(self) -> bool:
        """True for a Vulkan backend.

        Maps to `ggml_backend_is_vk`.
        """
        return bool(self.device.backendReg().name.encode() == ffi.string(lib.GGML_VK_NAME))

    def getDefaultBufferType(self) -> BackendBufferType:
        """Return the type of memory that the backend computes in.

        Maps to `ggml_backend_get_default_buffer_type`.
        """
        return BackendBufferType(lib.ggml_backend_get_default_buffer_type(self._c))

    def supportsOp(self, op: Any) -> bool:
        """Return True if the backend can compute a tensor.

        Maps to `ggml_backend_supports_op`.
        """
        from llama_cffi.ggml.tensor import require_tensor

        return lib.ggml_backend_supports_op(self._c, require_tensor(op, "op")._c)

    def cpuSetNThreads(self, threads: int) -> None:
        """Set the number of threads of a CPU backend. Raises ValueError for another backend.

        Maps to `ggml_backend_cpu_set_n_threads`.
        """
        if not self.isCpu:
            raise ValueError(f"{self.name} is not a CPU backend: the number of threads is for Ggml.Backend.cpuInit()")
        number = integer(threads, 1, lib.GGML_MAX_N_THREADS, "threads")
        check_threads("threads", number)
        self._nThreads = number

    def graphCompute(self, graph: Any) -> GgmlStatus:
        """Compute a graph whose tensors lie in memory that the backend can use, and wait for the end.

        Raises ValueError if a tensor has no memory, or the backend cannot compute an operation for these types.

        Maps to `ggml_backend_graph_compute`.
        """
        from llama_cffi.ggml.computation import compute

        return compute(self, graph, lib.ggml_backend_graph_compute)

    def graphComputeAsync(self, graph: Any) -> GgmlStatus:
        """Begin to compute a graph; `synchronize` waits for the end. The CPU computes it at once.

        Maps to `ggml_backend_graph_compute_async`.
        """
        from llama_cffi.ggml.computation import compute

        return compute(self, graph, lib.ggml_backend_graph_compute_async)

    def synchronize(self) -> None:
        """Wait until all graphs are computed.

        Maps to `ggml_backend_synchronize`.
        """
        self._run(lib.ggml_backend_synchronize)
        self._running.clear()

    def _detach_users(self) -> None:
        if self._running:
            lib.ggml_backend_synchronize(self._c)
            self._running.clear()

    def free(self) -> None:
        """Free the backend, after what it computes. Freeing twice is harmless.

        Maps to `ggml_backend_free`.
        """
        Backend._require(self)
        self.close()

    def _describe(self) -> str:
        return self.name


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
