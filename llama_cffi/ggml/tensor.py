"""`Ggml.Tensor`: an array in a ggml context, or a node of a graph that computes one."""

from __future__ import annotations

from llama_cffi._core.arguments import byte_buffer, c_string, new_uncleared
from llama_cffi._core.checks import expected, integer, number, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi._generated import enums
from llama_cffi.ggml.arena import Arena
from llama_cffi.ggml.tensor_operators import TensorOperators

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from llama_cffi._core.arguments import OutBuffer, StrOrBytes
    from llama_cffi._generated.enums import GgmlOp, GgmlType

_MAX_NAME = lib.GGML_MAX_NAME - 1


class Tensor(TensorOperators, Uncopyable):
    """A tensor of up to four dimensions. Methods of `Ggml.Context` make them, and so do operators such as `a + b`.

    An operation computes nothing yet: its result is a node of a graph. `Ggml.compute(result)` computes it.
    `shape` is in numpy's order, with the row last and without leading ones; `ne` and `nb` are in ggml's, the row first.
    A tensor keeps its context until it is collected; after `Ggml.free(ctx)` its use raises ClosedError.

    Maps to `ggml_tensor`.
    """

    __slots__ = ("_arena", "_pointer")

    _KIND = "tensor"

    def __init__(self, arena: Arena, pointer: Any) -> None:
        """Internal: use the methods of `Ggml.Context`."""
        if not isinstance(arena, Arena):
            raise expected("a Ggml.Context", arena, "ctx.newTensor(type, n) makes a tensor", "ctx")
        typed = isinstance(pointer, ffi.CData) and ffi.typeof(pointer) is ffi.typeof("struct ggml_tensor *")
        if not typed or not pointer:
            raise expected("a struct ggml_tensor * that is not NULL", pointer, "ctx.newTensor(type, n) makes a tensor")
        self._arena = arena
        self._pointer = pointer

    @property
    def _c(self) -> Any:
        """The C pointer; raises once the context is freed."""
        self._arena._c  # noqa: B018
        return self._pointer

    def __eq__(self, other: object) -> bool:
        """Return True for the same tensor. Use `numpy()` to compare elements."""
        return isinstance(other, Tensor) and bool(other._pointer == self._pointer)

    def __hash__(self) -> int:
        return hash(self._pointer)

    def _operation(self, function: Any, *arguments: Any) -> Tensor:
        """Call a constructor of C in the context of this tensor."""
        return make(self._arena, function, *arguments)

    # What it is

    @property
    def name(self) -> str:
        """The name, of at most 63 bytes. Graphs name the tensors that have none.

        Maps to `ggml_get_name` and `ggml_set_name`.
        """
        return bytes(ffi.string(lib.ggml_get_name(self._c))).decode("utf-8", "replace")

    @name.setter
    def name(self, value: StrOrBytes) -> None:
        text = c_string(value, "name")
        if len(text) > _MAX_NAME:
            raise ValueError(f"name must be at most {_MAX_NAME} bytes long, got {len(text)}")
        lib.ggml_set_name(self._c, text)

    @property
    def type(self) -> GgmlType:
        """The type of the elements."""
        return enums.GgmlType(self._c.type)

    @property
    def op(self) -> GgmlOp:
        """The operation that computes the tensor; NONE for data."""
        return enums.GgmlOp(self._c.op)

    @property
    def ne(self) -> tuple[int, int, int, int]:
        """The number of elements of each dimension in ggml's order: the row first."""
        return tuple(self._c.ne)

    @property
    def nb(self) -> tuple[int, int, int, int]:
        """The stride of each dimension in bytes, in ggml's order."""
        return tuple(self._c.nb)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in numpy's order: the row last, without leading ones."""
        return tuple(reversed(self.ne[: self.nDims]))

    @property
    def nDims(self) -> int:
        """The number of dimensions without trailing ones of `ne`.

        Maps to `ggml_n_dims`.
        """
        return lib.ggml_n_dims(self._c)

    @property
    def nElements(self) -> int:
        """The number of elements.

        Maps to `ggml_nelements`.
        """
        return lib.ggml_nelements(self._c)

    @property
    def nRows(self) -> int:
        """The number of rows.

        Maps to `ggml_nrows`.
        """
        return lib.ggml_nrows(self._c)

    @property
    def nBytes(self) -> int:
        """The bytes from the first to the last element.

        Maps to `ggml_nbytes`.
        """
        return lib.ggml_nbytes(self._c)

    @property
    def nBytesPad(self) -> int:
        """`nBytes`, rounded up to a multiple of 16.

        Maps to `ggml_nbytes_pad`.
        """
        return lib.ggml_nbytes_pad(self._c)

    @property
    def isContiguous(self) -> bool:
        """True if the elements lie one after the other.

        Maps to `ggml_is_contiguous`.
        """
        return lib.ggml_is_contiguous(self._c)

    @property
    def sources(self) -> list[Tensor]:
        """The tensors that the operation uses."""
        return [Tensor(self._arena._arena_of(source), source) for source in self._c.src if source != ffi.NULL]

    @property
    def context(self) -> Arena:
        """The context that the tensor lies in."""
        return self._arena

    # Marks

    def setInput(self) -> Tensor:
        """Mark as an input: allocators give it memory that no other tensor uses before. Returns the tensor.

        Maps to `ggml_set_input`.
        """
        lib.ggml_set_input(self._c)
        return self

    def setOutput(self) -> Tensor:
        """Mark as an output: allocators do not reuse its memory. Returns the tensor.

        Maps to `ggml_set_output`.
        """
        lib.ggml_set_output(self._c)
        return self

    def setParam(self) -> Tensor:
        """Mark as a parameter to train. Raises ValueError for the result of an operation. Returns the tensor.

        Maps to `ggml_set_param`.
        """
        if self.op != enums.GgmlOp.NONE:
            raise ValueError(f"a parameter must be data, and this tensor is the result of {self.op.name}")
        lib.ggml_set_param(self._c)
        return self

    def setLoss(self) -> Tensor:
        """Mark as the loss to minimize. Raises ValueError unless it is one F32 number. Returns the tensor.

        Maps to `ggml_set_loss`.
        """
        if self.type != enums.GgmlType.F32 or self.nElements != 1:
            raise ValueError(f"a loss must be one F32 number, got {self.type.name} of shape {self.shape}")
        lib.ggml_set_loss(self._c)
        return self

    # Data

    @property
    def isAllocated(self) -> bool:
        """True if the tensor has memory. Results in a context with noAlloc get it from an allocator."""
        tensor = self._c
        return bool((tensor if tensor.view_src == ffi.NULL else tensor.view_src).data != ffi.NULL)

    @property
    def isHost(self) -> bool:
        """True if the CPU can access the memory directly."""
        buffer = self._buffer()
        return buffer == ffi.NULL or lib.ggml_backend_buffer_is_host(buffer)

    def _buffer(self) -> Any:
        """The C buffer that it lies in; NULL for memory of its context."""
        tensor = self._c
        return tensor.buffer if tensor.view_src == ffi.NULL else tensor.view_src.buffer

    def _data(self) -> Any:
        """The C pointer to the data. Raises ValueError without memory."""
        tensor = self._c
        if tensor.view_src == ffi.NULL:
            pointer = tensor.data
        else:  # it lies where its source does, which may have got other memory since
            base = tensor.view_src.data
            pointer = ffi.NULL if base == ffi.NULL else ffi.cast("char *", base) + tensor.view_offs
        if pointer == ffi.NULL:
            raise ValueError(
                f"tensor {self.name!r} has no memory: compute a graph with it, or ctx.backendAllocTensors(backend)"
            )
        return pointer

    def _is_lasting(self) -> bool:
        """Return True if the memory is the host's and stays as long as the context."""
        buffer = self._buffer()
        if buffer == ffi.NULL:
            return True
        return lib.ggml_backend_buffer_is_host(buffer) and self._arena._holds_buffer(buffer)

    def _memory(self) -> Any:
        """Return the data as a writable buffer, which keeps the memory. Raises ValueError for memory of a device."""
        pointer = self._data()
        if not self._is_lasting():
            raise ValueError("the memory belongs to a device or an allocator: use numpy(), backendGet and backendSet")
        pin = self._arena._owned and self._arena._owned.pin()
        if pin is None:
            self._arena._raise_closed()
        return ffi.buffer(ffi.gc(ffi.cast("char *", pointer), pin.finish), self.nBytes)

    @property
    def data(self) -> memoryview[Any]:
        """The memory as bytes, writable, without a copy. It stays valid after the context is freed.

        Raises ValueError without memory, and for memory of a device or an allocator.

        Maps to `ggml_get_data`.
        """
        return memoryview(self._memory()).cast("B")

    @property
    def dataF32(self) -> memoryview[Any]:
        """The memory as floats, writable, without a copy. Raises ValueError for other types than F32, and as `data`.

        Maps to `ggml_get_data_f32`.
        """
        if self.type != enums.GgmlType.F32:
            raise ValueError(f"dataF32 is for F32, and this tensor is {self.type.name}: use numpy()")
        return self.data.cast("f")

    def numpy(self) -> npt.NDArray[Any]:
        """Return the elements as an array of this shape.

        The array is a view of the memory for types that numpy has, with the tensor's strides; else a copy. A copy too
        for memory of a device or an allocator. BF16 and quantized types become float32. Raises ValueError without
        memory.
        """
        from llama_cffi.ggml.arrays import read

        return read(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import numpy as np

        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a copy is needed to convert {array.dtype} to {dtype}")
            return array.astype(dtype)
        return np.array(array) if copy else array

    def set(self, array: Any) -> Tensor:
        """Write the elements, which must have this shape or be one number. Converts and quantizes. Returns the tensor.

        Raises ValueError for another shape, and without memory.
        """
        from llama_cffi.ggml.arrays import write

        write(self, array)
        return self

    def setF32(self, value: float) -> Tensor:
        """Set all elements to a number. Returns the tensor.

        Maps to `ggml_set_f32`.
        """
        return self.set(number(value, "value"))

    def setZero(self) -> Tensor:
        """Set all bytes to 0. Returns the tensor.

        Maps to `ggml_set_zero`.
        """
        self._data()
        lib.ggml_set_zero(self._c)
        return self

    def backendSet(self, data: Any, offset: int = 0, size: int | None = None) -> None:
        """Copy bytes from a buffer to the tensor, in memory of any device. `size` is the length of `data` by default.

        Raises ValueError beyond the end of either, and without memory.

        Maps to `ggml_backend_tensor_set`.
        """
        source, room = byte_buffer(data, "data")
        size = self._check_part(offset, room if size is None else size, room, "data")
        if self._buffer() == ffi.NULL:
            ffi.memmove(ffi.cast("char *", self._data()) + offset, source, size)
        else:
            lib.ggml_backend_tensor_set(self._c, source, offset, size)

    def backendGet(self, data: OutBuffer | None = None, offset: int = 0, size: int | None = None) -> bytes | None:
        """Copy bytes from the tensor to a buffer. Without a buffer, returns the bytes, all by default.

        Raises ValueError beyond the end of either, and without memory.

        Maps to `ggml_backend_tensor_get`.
        """
        if data is None:
            whole = self.nBytes
            integer(offset, 0, whole, "offset", "the tensor ends there")
            room = whole - offset if size is None else integer(size, 0, whole - offset, "size", "the tensor ends there")
            target: Any = new_uncleared("char[]", room)
        else:
            target, room = byte_buffer(data, "data", writable=True)
        size = self._check_part(offset, room if size is None else size, room, "data")
        if self._buffer() == ffi.NULL:
            ffi.memmove(target, ffi.cast("char *", self._data()) + offset, size)
        else:
            lib.ggml_backend_tensor_get(self._c, target, offset, size)
        return bytes(ffi.buffer(target, size)) if data is None else None

    def _check_part(self, offset: int, size: int, room: int, name: str) -> int:
        self._data()
        whole = self.nBytes
        integer(offset, 0, whole, "offset", "the tensor ends there")
        size = integer(size, 0, whole - offset, "size", "the tensor ends there")
        if size > room:
            raise out_of_range("size", size, 0, room, f"{name} has {room} bytes")
        return size

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        if self._arena.closed:
            return "<Tensor of a context that was freed>"
        name = f" {self.name!r}" if self.name else ""
        made = "" if self.op == enums.GgmlOp.NONE else f" by {self.op.name}"
        return f"<Tensor{name} {self.type.name} {self.shape}{made}>"


def require_tensor(value: object, name: str) -> Tensor:
    """Check an argument."""
    if not isinstance(value, Tensor):
        raise expected("a Ggml.Tensor", value, "ctx.tensor(array) makes one", name)
    return value


def make(arena: Arena, function: Any, *arguments: Any) -> Tensor:
    """Call a constructor of C in an arena, after a trial in a scratch context that shows what would fail.

    Keeps the arenas of the tensors among the arguments. Raises NativeAssertionError for what ggml asserts, ValueError
    for what it does not check, NativeMemoryError if the arena is full.
    """
    values = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            values.append(argument._c)
            arena._keep(argument._arena)
        else:
            values.append(argument)
    with exclusive(arena):
        need = arena._measure(function, values)
        return Tensor(arena, function(arena._reserve(need), *values))
