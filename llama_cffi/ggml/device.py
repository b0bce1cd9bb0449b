"""Devices that compute, the types of memory that they use, and the backends that they belong to. All of them live as
long as the process.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from llama_cffi._core.arguments import c_string
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing
from llama_cffi._generated.enums import GgmlBackendDevType


class DeviceMemory(NamedTuple):
    """A device's memory in bytes."""

    free: int
    total: int


class DeviceCaps(NamedTuple):
    """What a device can do beside computing.

    Maps to `ggml_backend_dev_caps`.
    """

    async_: bool
    """It computes while the caller goes on."""
    hostBuffer: bool
    """It has memory of the CPU's that it reads fast: `hostBufferType()`."""
    bufferFromHostPtr: bool
    """It computes in memory that somebody else has allocated."""
    events: bool
    """It lets others wait for a point in its work."""
    mmapSupport: bool
    """It takes models that are mapped into memory."""


class _Native:
    """Something of ggml's that is never freed. Equal where it is the same."""

    __slots__ = ("_c",)

    _C_TYPE: ClassVar[str]

    def __init__(self, pointer: Any) -> None:
        """Not for users: the class methods and `Backend.devices()` make it."""
        if not isinstance(pointer, ffi.CData) or ffi.typeof(pointer) is not ffi.typeof(self._C_TYPE) or not pointer:
            raise TypeError(f"Ggml.Backend.devices() lists the devices; {type(self).__name__}({pointer!r}) is none")
        self._c = pointer

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Native) and bool(other._c == self._c)

    def __hash__(self) -> int:
        return hash(self._c)


class BackendBufferType(_Native):
    """A type of memory that tensors can be placed in, such as the CPU's or a GPU's.

    Maps to `ggml_backend_buffer_type`.
    """

    __slots__ = ()

    _C_TYPE = "ggml_backend_buffer_type_t"

    @property
    def name(self) -> str:
        """The name, such as `CPU` or `Vulkan0`.

        Maps to `ggml_backend_buft_name`.
        """
        return _text(lib.ggml_backend_buft_name(self._c))

    @property
    def isHost(self) -> bool:
        """Whether the CPU reads this memory directly.

        Maps to `ggml_backend_buft_is_host`.
        """
        return lib.ggml_backend_buft_is_host(self._c)

    def getAlignment(self) -> int:
        """Where a tensor may begin, in bytes.

        Maps to `ggml_backend_buft_get_alignment`.
        """
        return lib.ggml_backend_buft_get_alignment(self._c)

    def getMaxSize(self) -> int:
        """How large one buffer can be, in bytes.

        Maps to `ggml_backend_buft_get_max_size`.
        """
        return lib.ggml_backend_buft_get_max_size(self._c)

    def getDevice(self) -> BackendDevice | None:
        """The device that the memory belongs to.

        Maps to `ggml_backend_buft_get_device`.
        """
        return _device(lib.ggml_backend_buft_get_device(self._c))

    def __repr__(self) -> str:
        return f"<BackendBufferType {self.name}>"


class BackendDevice(_Native):
    """Something that computes: a CPU, a GPU. There are none before a backend is loaded.

    Maps to `ggml_backend_device`.
    """

    __slots__ = ()

    _C_TYPE = "ggml_backend_dev_t"

    @classmethod
    def count(cls) -> int:
        """How many devices the loaded backends have.

        Maps to `ggml_backend_dev_count`.
        """
        return lib.ggml_backend_dev_count()

    @classmethod
    def get(cls, index: int) -> BackendDevice:
        """A device by its index from 0. Raises IndexError.

        Maps to `ggml_backend_dev_get`.
        """
        with listing():
            count = cls.count()
            if not 0 <= index < count:
                raise IndexError(
                    f"there is no device {index}: {count} are known (Ggml.Backend.cpuLoad() makes one known)"
                )
            return cls(lib.ggml_backend_dev_get(index))

    @classmethod
    def byName(cls, name: str) -> BackendDevice | None:
        """The device of a name, or None. Capitals do not matter.

        Maps to `ggml_backend_dev_by_name`.
        """
        text = c_string(name, "name")
        with listing():
            return _device(lib.ggml_backend_dev_by_name(text))

    @classmethod
    def byType(cls, type: GgmlBackendDevType) -> BackendDevice | None:
        """The first device of a type, or None.

        Maps to `ggml_backend_dev_by_type`.
        """
        wanted = GgmlBackendDevType(type)
        with listing():
            return _device(lib.ggml_backend_dev_by_type(wanted))

    @property
    def name(self) -> str:
        """The name, such as `CPU` or `Vulkan0`.

        Maps to `ggml_backend_dev_name`.
        """
        return _text(lib.ggml_backend_dev_name(self._c))

    @property
    def description(self) -> str:
        """What the device calls itself: the model of the processor.

        Maps to `ggml_backend_dev_description`.
        """
        return _text(lib.ggml_backend_dev_description(self._c))

    @property
    def type(self) -> GgmlBackendDevType:
        """CPU, GPU, integrated GPU or accelerator.

        Maps to `ggml_backend_dev_type`.
        """
        return GgmlBackendDevType(lib.ggml_backend_dev_type(self._c))

    @property
    def memory(self) -> DeviceMemory:
        """How much memory is free now, and how much there is, in bytes.

        Maps to `ggml_backend_dev_memory`.
        """
        free, total = ffi.new("size_t *"), ffi.new("size_t *")
        lib.ggml_backend_dev_memory(self._c, free, total)
        return DeviceMemory(free[0], total[0])

    @property
    def deviceId(self) -> str | None:
        """Where a GPU is plugged in, such as `0000:c1:00.0`; None for what is not on the PCI bus, and where llama.cpp
        does not tell.

        Maps to `ggml_backend_dev_props.device_id`.
        """
        pointer = self._props().device_id if has("ggml_backend_dev_props.device_id") else ffi.NULL
        return None if pointer == ffi.NULL else _text(pointer)

    @property
    def caps(self) -> DeviceCaps:
        """What the device can do beside computing.

        Maps to `ggml_backend_dev_get_props`.
        """
        caps = self._props().caps
        names = ["async", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support"]
        if not has("ggml_backend_dev_caps.mmap_support"):
            names[-1] = "buffer_from_host_ptr"  # what older versions go by when they map a file
        return DeviceCaps(*(getattr(caps, name) for name in names))

    def _props(self) -> Any:
        props = ffi.new("struct ggml_backend_dev_props *")
        lib.ggml_backend_dev_get_props(self._c, props)
        return props

    def backendReg(self) -> BackendReg:
        """The backend that the device belongs to.

        Maps to `ggml_backend_dev_backend_reg`.
        """
        return BackendReg(lib.ggml_backend_dev_backend_reg(self._c))

    def bufferType(self) -> BackendBufferType:
        """The type of memory that the device computes in.

        Maps to `ggml_backend_dev_buffer_type`.
        """
        return BackendBufferType(lib.ggml_backend_dev_buffer_type(self._c))

    def hostBufferType(self) -> BackendBufferType | None:
        """The type of the CPU's memory that the device reads fastest, if it has one.

        Maps to `ggml_backend_dev_host_buffer_type`.
        """
        pointer = lib.ggml_backend_dev_host_buffer_type(self._c)
        return None if pointer == ffi.NULL else BackendBufferType(pointer)

    def supportsBuft(self, buft: BackendBufferType) -> bool:
        """Whether the device can compute with tensors in this type of memory.

        Maps to `ggml_backend_dev_supports_buft`.
        """
        if not isinstance(buft, BackendBufferType):
            raise TypeError(f"buft is a BackendBufferType, not {type(buft).__name__}: device.bufferType() gives one")
        return lib.ggml_backend_dev_supports_buft(self._c, buft._c)

    def __repr__(self) -> str:
        return f"<BackendDevice {self.name}: {self.description}>"


class BackendReg(_Native):
    """A backend that is loaded: `CPU`, `Vulkan`, `RPC`. `Ggml.Backend.registrations()` lists them.

    Maps to `ggml_backend_reg`.
    """

    __slots__ = ()

    _C_TYPE = "ggml_backend_reg_t"

    @property
    def name(self) -> str:
        """The name, such as `CPU` or `Vulkan`.

        Maps to `ggml_backend_reg_name`.
        """
        return _text(lib.ggml_backend_reg_name(self._c))

    def devices(self) -> list[BackendDevice]:
        """Its devices: none where the backend found none.

        Maps to `ggml_backend_reg_dev_count` and `ggml_backend_reg_dev_get`.
        """
        count = lib.ggml_backend_reg_dev_count(self._c)
        return [BackendDevice(lib.ggml_backend_reg_dev_get(self._c, index)) for index in range(count)]

    @property
    def features(self) -> dict[str, str]:
        """What it was compiled with and uses here, such as `{"AVX2": "1", "OPENMP": "1"}`. Empty where it does not say.

        Maps to `ggml_backend_get_features_t`.
        """
        function = lib.ggml_backend_reg_get_proc_address(self._c, b"ggml_backend_get_features")
        if function == ffi.NULL:
            return {}
        feature = ffi.cast("ggml_backend_get_features_t", function)(self._c)
        features = {}
        while feature.name != ffi.NULL:
            features[_text(feature.name)] = _text(feature.value)
            feature += 1
        return features

    def __repr__(self) -> str:
        return f"<BackendReg {self.name}>"


def _device(pointer: Any) -> BackendDevice | None:
    return None if pointer == ffi.NULL else BackendDevice(pointer)


def _text(pointer: Any) -> str:
    return bytes(ffi.string(pointer)).decode("utf-8", "replace")
