"""Devices (CPU, GPUs), their buffer types, and the backends that they belong to. ggml never frees any of them."""

from __future__ import annotations

from llama_cffi._core.arguments import c_string
from llama_cffi._core.checks import expected
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing
from llama_cffi._generated import enums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from llama_cffi._generated.enums import GgmlBackendDevType
    from llama_cffi.ggml.facts import DeviceCaps, DeviceMemory


class _Native:
    """A pointer to an object that ggml never frees. Two of them are equal if the pointers are."""

    __slots__ = ("_c",)

    _C_TYPE: ClassVar[str]

    def __init__(self, pointer: Any) -> None:
        """Internal: use the class methods, or `Ggml.Backend.devices()`."""
        if not isinstance(pointer, ffi.CData) or ffi.typeof(pointer) is not ffi.typeof(self._C_TYPE) or not pointer:
            raise TypeError(f"expected a {self._C_TYPE}, got {pointer!r}: Ggml.Backend.devices() lists the devices")
        self._c = pointer

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Native) and bool(other._c == self._c)

    def __hash__(self) -> int:
        return hash(self._c)


class BackendBufferType(_Native):
    """A type of memory for tensors, such as that of the CPU or of a GPU.

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
        """True if the CPU can access this memory directly.

        Maps to `ggml_backend_buft_is_host`.
        """
        return lib.ggml_backend_buft_is_host(self._c)

    def getAlignment(self) -> int:
        """Return the alignment of tensors, in bytes.

        Maps to `ggml_backend_buft_get_alignment`.
        """
        return lib.ggml_backend_buft_get_alignment(self._c)

    def getMaxSize(self) -> int:
        """Return the maximum size of a buffer, in bytes.

        Maps to `ggml_backend_buft_get_max_size`.
        """
        return lib.ggml_backend_buft_get_max_size(self._c)

    def getDevice(self) -> BackendDevice | None:
        """Return the device that the memory belongs to; None if it does not belong to one.

        Maps to `ggml_backend_buft_get_device`.
        """
        return _device(lib.ggml_backend_buft_get_device(self._c))

    def __repr__(self) -> str:
        return f"<BackendBufferType {self.name}>"


class BackendDevice(_Native):
    """A device that computes, such as the CPU or a GPU. Devices exist after their backend is loaded.

    Maps to `ggml_backend_device`.
    """

    __slots__ = ()

    _C_TYPE = "ggml_backend_dev_t"

    @classmethod
    def count(cls) -> int:
        """Return the number of devices of the loaded backends.

        Maps to `ggml_backend_dev_count`.
        """
        return lib.ggml_backend_dev_count()

    @classmethod
    def get(cls, index: int) -> BackendDevice:
        """Return the device `index`, counted from 0. Raises IndexError if there are fewer.

        Maps to `ggml_backend_dev_get`.
        """
        with listing():
            count = cls.count()
            if not 0 <= index < count:
                raise IndexError(
                    f"index must be less than {count}, the number of devices, got {index}: load a backend to get more"
                )
            return cls(lib.ggml_backend_dev_get(index))

    @classmethod
    def byName(cls, name: str) -> BackendDevice | None:
        """Return the device called `name`, in any case; None if it does not exist.

        Maps to `ggml_backend_dev_by_name`.
        """
        text = c_string(name, "name")
        with listing():
            return _device(lib.ggml_backend_dev_by_name(text))

    @classmethod
    def byType(cls, type: GgmlBackendDevType) -> BackendDevice | None:
        """Return the first device of a type; None if it does not exist.

        Maps to `ggml_backend_dev_by_type`.
        """
        wanted = enums.GgmlBackendDevType(type)
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
        """The description of the device, such as the model name of the processor.

        Maps to `ggml_backend_dev_description`.
        """
        return _text(lib.ggml_backend_dev_description(self._c))

    @property
    def type(self) -> GgmlBackendDevType:
        """The type: CPU, GPU, integrated GPU or accelerator.

        Maps to `ggml_backend_dev_type`.
        """
        return enums.GgmlBackendDevType(lib.ggml_backend_dev_type(self._c))

    @property
    def memory(self) -> DeviceMemory:
        """The free and the total memory now, in bytes.

        Maps to `ggml_backend_dev_memory`.
        """
        from llama_cffi.ggml.facts import DeviceMemory

        free, total = ffi.new("size_t *"), ffi.new("size_t *")
        lib.ggml_backend_dev_memory(self._c, free, total)
        return DeviceMemory(free[0], total[0])

    @property
    def deviceId(self) -> str | None:
        """The PCI address of a GPU, such as `0000:c1:00.0`; None if it is not on the PCI bus, or is not known.

        Maps to `ggml_backend_dev_props.device_id`.
        """
        pointer = self._props().device_id if has("ggml_backend_dev_props.device_id") else ffi.NULL
        return None if pointer == ffi.NULL else _text(pointer)

    @property
    def caps(self) -> DeviceCaps:
        """The capabilities of the device.

        Maps to `ggml_backend_dev_get_props`.
        """
        from llama_cffi.ggml.facts import DeviceCaps

        caps = self._props().caps
        names = ["async", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support"]
        if not has("ggml_backend_dev_caps.mmap_support"):
            names[-1] = "buffer_from_host_ptr"  # what older versions check before they map a file
        return DeviceCaps(*(getattr(caps, name) for name in names))

    def _props(self) -> Any:
        props = ffi.new("struct ggml_backend_dev_props *")
        lib.ggml_backend_dev_get_props(self._c, props)
        return props

    def backendReg(self) -> BackendReg:
        """Return the backend that the device belongs to.

        Maps to `ggml_backend_dev_backend_reg`.
        """
        return BackendReg(lib.ggml_backend_dev_backend_reg(self._c))

    def bufferType(self) -> BackendBufferType:
        """Return the default type of memory of the device.

        Maps to `ggml_backend_dev_buffer_type`.
        """
        return BackendBufferType(lib.ggml_backend_dev_buffer_type(self._c))

    def hostBufferType(self) -> BackendBufferType | None:
        """Return the type of CPU memory that the device reads fastest; None if it has no such type.

        Maps to `ggml_backend_dev_host_buffer_type`.
        """
        pointer = lib.ggml_backend_dev_host_buffer_type(self._c)
        return None if pointer == ffi.NULL else BackendBufferType(pointer)

    def supportsBuft(self, buft: BackendBufferType) -> bool:
        """Return True if the device can compute with tensors in this type of memory.

        Maps to `ggml_backend_dev_supports_buft`.
        """
        if not isinstance(buft, BackendBufferType):
            raise expected("a Ggml.BackendBufferType", buft, "device.bufferType() returns one", "buft")
        return lib.ggml_backend_dev_supports_buft(self._c, buft._c)

    def __repr__(self) -> str:
        return f"<BackendDevice {self.name}: {self.description}>"


class BackendReg(_Native):
    """A loaded backend: `CPU`, `Vulkan` or `RPC`. `Ggml.Backend.registrations()` lists them.

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
        """Return the devices of the backend; empty if it did not find any.

        Maps to `ggml_backend_reg_dev_count` and `ggml_backend_reg_dev_get`.
        """
        count = lib.ggml_backend_reg_dev_count(self._c)
        return [BackendDevice(lib.ggml_backend_reg_dev_get(self._c, index)) for index in range(count)]

    @property
    def features(self) -> dict[str, str]:
        """The features in use, such as `{"AVX2": "1", "OPENMP": "1"}`; empty if the backend does not tell them.

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
