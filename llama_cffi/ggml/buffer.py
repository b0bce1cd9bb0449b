"""`Ggml.BackendBuffer`: memory of a device, which tensors lie in."""

from __future__ import annotations

from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import own
from llama_cffi._generated import enums
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.device import BackendBufferType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi._core.ownership import Owned
    from llama_cffi._generated.enums import GgmlBackendBufferUsage


class BackendBuffer(Handle):
    """Memory of a device. `ctx.backendAllocTensors(backend)` allocates one for all tensors of a context.

    After `free`, the memory stays until the contexts whose tensors lie in it are freed, and the last array is gone.

    Maps to `ggml_backend_buffer`.
    """

    __slots__ = ()

    _KIND = "buffer"
    _MADE_BY = "use ctx.backendAllocTensors(backend) or BackendBuffer.alloc(bufferType, size)"

    @classmethod
    def alloc(cls, bufferType: BackendBufferType, size: int) -> BackendBuffer:
        """Allocate a buffer of a type of memory. Raises NativeMemoryError.

        Maps to `ggml_backend_buft_alloc_buffer`.
        """
        if not isinstance(bufferType, BackendBufferType):
            raise expected("a Ggml.BackendBufferType", bufferType, "device.bufferType() returns one", "bufferType")
        integer(size, 1, lib.ggml_backend_buft_get_max_size(bufferType._c), "size")
        return cls._of(own(lib.ggml_backend_buffer_free, lib.ggml_backend_buft_alloc_buffer, bufferType._c, size), size)

    @classmethod
    def _of(cls, owned: Owned, size: object) -> BackendBuffer:
        if owned.pointer is None:
            raise NativeMemoryError(
                f"out of memory for a buffer of {size} bytes", operation="ggml_backend_alloc_buffer"
            )
        buffer = cls.__new__(cls)
        buffer._open(owned)
        return buffer

    @property
    def name(self) -> str:
        """The name of the type of memory, such as `CPU`.

        Maps to `ggml_backend_buffer_name`.
        """
        return bytes(ffi.string(lib.ggml_backend_buffer_name(self._c))).decode("utf-8", "replace")

    @property
    def size(self) -> int:
        """The size in bytes.

        Maps to `ggml_backend_buffer_get_size`.
        """
        return lib.ggml_backend_buffer_get_size(self._c)

    @property
    def isHost(self) -> bool:
        """True if the CPU can access the memory directly.

        Maps to `ggml_backend_buffer_is_host`.
        """
        return lib.ggml_backend_buffer_is_host(self._c)

    @property
    def type(self) -> BackendBufferType:
        """The type of memory.

        Maps to `ggml_backend_buffer_get_type`.
        """
        return BackendBufferType(lib.ggml_backend_buffer_get_type(self._c))

    @property
    def usage(self) -> GgmlBackendBufferUsage:
        """What the memory is for. A scheduler computes where the WEIGHTS are.

        Maps to `ggml_backend_buffer_get_usage` and `ggml_backend_buffer_set_usage`.
        """
        return enums.GgmlBackendBufferUsage(lib.ggml_backend_buffer_get_usage(self._c))

    @usage.setter
    def usage(self, value: GgmlBackendBufferUsage) -> None:
        lib.ggml_backend_buffer_set_usage(self._c, enums.GgmlBackendBufferUsage(value))

    def clear(self, value: int = 0) -> None:
        """Set all bytes to a value.

        Maps to `ggml_backend_buffer_clear`.
        """
        self._run(lib.ggml_backend_buffer_clear, integer(value, 0, 255, "value"))

    def free(self) -> None:
        """Free the buffer, once no tensor lies in it any more. Freeing twice is harmless.

        Maps to `ggml_backend_buffer_free`.
        """
        BackendBuffer._require(self)
        self.close()

    def _describe(self) -> str:
        return f"of {self.size} bytes, {self.name}"
