"""`Ggml.Context`: memory for tensors and graphs, and every operation of ggml as a method."""

from __future__ import annotations

from llama_cffi._core.arguments import c_string
from llama_cffi._core.checks import boolean, enum_member, expected, integer, number
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive, own
from llama_cffi._generated import enums
from llama_cffi._generated.constructors import Constructors
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.buffer import BackendBuffer
from llama_cffi.ggml.cgraph import CGraph
from llama_cffi.ggml.custom import CustomOperations
from llama_cffi.ggml.quantization import tensor_type
from llama_cffi.ggml.tensor import Tensor, make, require_tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, overload

    from llama_cffi._core.arguments import OutBuffer, StrOrBytes
    from llama_cffi._generated.enums import GgmlStatus, GgmlType
else:
    from llama_cffi._core.stand_ins import overload

_MAX_GRAPH = 1 << 24
_LARGEST = 1 << 40


class Context(CustomOperations, Constructors[Tensor]):
    """Memory for tensors and graphs, which is freed as a whole, and the operations that make tensors in it.

    `memSize` is its size in bytes; without it, the memory grows. With `noAlloc` there is memory for the metadata only:
    an allocator or `backendAllocTensors` gives memory to the data. `Ggml.free(ctx)`, `with` and the garbage collector
    free it, once no other context uses its tensors and no array its memory.

    Maps to `ggml_context`.
    """

    __slots__ = ()

    def __init__(
        self, memSize: int | None = None, *, noAlloc: bool = False, memBuffer: OutBuffer | None = None
    ) -> None:
        """Make a context, in memory of the caller if `memBuffer` is a writable buffer. Raises NativeMemoryError.

        Maps to `ggml_init`.
        """
        self._start(memSize, boolean(noAlloc, "noAlloc"), memBuffer)

    # For the generated methods

    def _make(self, function: Any, *arguments: Any) -> Tensor:
        return make(self, function, *arguments)

    def _tensor(self, value: Tensor | None, name: str, optional: bool = False) -> Any:
        return ffi.NULL if optional and value is None else require_tensor(value, name)

    def _enum(self, kind: Any, value: Any, name: str) -> Any:
        return enum_member(kind, value, name)

    # Data

    def newTensor(self, type: GgmlType, *ne: Any) -> Tensor:
        """Make a tensor of one to four dimensions, in ggml's order: `newTensor(type, columns, rows)`.

        Also `newTensor(type, nDims, [ne0, ne1, ...])`, as in C. The memory is not cleared.

        Maps to `ggml_new_tensor`.
        """
        if len(ne) == 2 and isinstance(ne[1], (list, tuple)):
            count = integer(ne[0], 1, 4, "nDims")
            if len(ne[1]) != count:
                raise ValueError(f"ne must have nDims elements, {count}, got {len(ne[1])}")
            ne = tuple(ne[1])
        sizes = _sizes(ne)
        array = ffi.new("int64_t[]", sizes)
        return self._make(lib.ggml_new_tensor, self._enum(enums.GgmlType, type, "type"), len(sizes), array)

    def tensor(self, array: Any, type: GgmlType | None = None, *, imatrix: Any = None) -> Tensor:
        """Make a tensor with the elements of an array: numpy's, any buffer, a list of numbers, or a number.

        `type` converts and quantizes; without it, 64-bit floats become F32, small unsigned integers and bools I32, and
        others keep their type. The shape is the array's, of one to four dimensions; the last is the row. `imatrix` has
        a weight for each column, for quantizing. With noAlloc, the data lies in a buffer of the CPU.
        """
        from llama_cffi.ggml.convert import as_array, encode, type_of

        values = as_array(array)
        kind = type_of(values) if type is None else tensor_type(type, "type")
        if not 1 <= max(values.ndim, 1) <= 4 or values.size == 0:
            raise ValueError(f"array must have between 1 and 4 dimensions and at least 1 element, got {values.shape}")
        data = encode(values, kind, imatrix)
        made = self.newTensor(kind, *(reversed(values.shape) if values.ndim else (1,)))
        if self._noAlloc:
            self._place(made)
        made.backendSet(data)
        return made

    def _place(self, tensor: Tensor) -> None:
        """Give a tensor of a context without memory for data a buffer of the CPU."""
        Backend.ensureCpu()
        buft = lib.ggml_backend_cpu_buffer_type()
        size = lib.ggml_backend_buft_get_alloc_size(buft, tensor._c)
        owned = own(lib.ggml_backend_buffer_free, lib.ggml_backend_buft_alloc_buffer, buft, size)
        buffer = BackendBuffer._of(owned, size)
        self._keep_buffer(buffer)
        lib.ggml_backend_tensor_alloc(buffer._c, tensor._c, lib.ggml_backend_buffer_get_base(buffer._c))

    def newF32(self, value: float) -> Tensor:
        """Make a tensor of one F32 number. Raises ValueError with noAlloc.

        Maps to `ggml_new_f32`.
        """
        return self._scalar(enums.GgmlType.F32, number(value, "value"))

    def newI32(self, value: int) -> Tensor:
        """Make a tensor of one I32 number. Raises ValueError with noAlloc.

        Maps to `ggml_new_i32`.
        """
        return self._scalar(enums.GgmlType.I32, integer(value, -(1 << 31), (1 << 31) - 1, "value"))

    def _scalar(self, kind: GgmlType, value: float) -> Tensor:
        if self._noAlloc:
            raise ValueError("this context has no memory for data (noAlloc): use ctx.tensor")
        return self.newTensor(kind, 1).set(value)

    def getTensor(self, name: StrOrBytes) -> Tensor | None:
        """Return the tensor of a name; None if it does not exist.

        Maps to `ggml_get_tensor`.
        """
        text = c_string(name, "name")
        for tensor in self.tensors:
            if tensor.name.encode() == text:
                return tensor
        return None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the context, in the order in which they were made.

        Maps to `ggml_get_first_tensor` and `ggml_get_next_tensor`.
        """
        found = []
        with exclusive(self):
            for chunk in self._chunks:
                pointer = lib.ggml_get_first_tensor(chunk)
                while pointer != ffi.NULL:
                    found.append(Tensor(self, pointer))
                    pointer = lib.ggml_get_next_tensor(chunk, pointer)
        return found

    # Shapes

    @overload
    def reshape(self, a: Tensor, b: Tensor, /) -> Tensor: ...
    @overload
    def reshape(self, a: Tensor, /, *ne: int) -> Tensor: ...
    def reshape(self, a: Tensor, /, *ne: Any) -> Tensor:
        """Return a view of a contiguous tensor in the shape of `b`, or in one to four dimensions in ggml's order.

        Maps to `ggml_reshape`.
        """
        require_tensor(a, "a")
        if len(ne) == 1 and isinstance(ne[0], Tensor):
            return self._make(lib.ggml_reshape, a, ne[0])
        sizes = _sizes(ne)
        functions = (lib.ggml_reshape_1d, lib.ggml_reshape_2d, lib.ggml_reshape_3d, lib.ggml_reshape_4d)
        return self._make(functions[len(sizes) - 1], a, *sizes)

    def view(self, a: Tensor, /, *sizes: int) -> Tensor:
        """Return a view of a part: `view(a, ne0, offset)`, `view(a, ne0, ne1, nb1, offset)`, and so on up to four.

        Strides and the offset are in bytes.

        Maps to `ggml_view_1d`.
        """
        methods: dict[int, Any] = {2: self.view1d, 4: self.view2d, 6: self.view3d, 8: self.view4d}
        if len(sizes) not in methods:
            raise TypeError(f"view takes 2, 4, 6 or 8 numbers after the tensor, got {len(sizes)}: ne, nb and offset")
        made: Tensor = methods[len(sizes)](a, *sizes)
        return made

    # Graphs

    def newGraph(self, size: int = lib.GGML_DEFAULT_GRAPH_SIZE, grads: bool = False) -> CGraph:
        """Make a graph of up to `size` nodes and as many leafs, with room for gradients or not.

        Maps to `ggml_new_graph` and `ggml_new_graph_custom`.
        """
        integer(size, 1, _MAX_GRAPH, "size")
        boolean(grads, "grads")
        need = lib.ggml_graph_overhead_custom(size, grads)
        with exclusive(self):
            return CGraph(self, lib.ggml_new_graph_custom(self._reserve(need), size, grads), grads)

    @overload
    def dup(self, a: Tensor) -> Tensor: ...
    @overload
    def dup(self, a: CGraph, forceGrads: bool = False) -> CGraph: ...
    def dup(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, a: Tensor | CGraph, forceGrads: bool = False
    ) -> Tensor | CGraph:
        """Make a tensor of the same type and shape, without the data; or a copy of a graph.

        Maps to `ggml_dup_tensor` and `ggml_graph_dup`.
        """
        if not isinstance(a, CGraph):
            return self._make(lib.ggml_dup_tensor, require_tensor(a, "a"))
        grads = boolean(forceGrads, "forceGrads") or a._hasGrads
        source = a._c
        self._keep(a._arena)
        need = lib.ggml_graph_overhead_custom(a.size, True)
        with exclusive(self, *([] if a._arena is self else [a._arena])):
            copy = CGraph(self, lib.ggml_graph_dup(self._reserve(need), source, grads), grads)
            copy._leafs += a._leafs
            return copy

    def graphCompute(self, graph: CGraph, nThreads: int = 0) -> GgmlStatus:
        """Compute a graph by the CPU, with work memory of its own. `nThreads` 0: one for each CPU.

        Maps to `ggml_graph_compute_with_ctx`.
        """
        self._c  # noqa: B018  # raises once it is closed
        if not isinstance(graph, CGraph):
            raise expected("a Ggml.CGraph", graph, "ctx.newGraph() makes one", "graph")
        return graph.compute(graph.plan(nThreads))

    def backendAllocTensors(self, backend: Backend) -> BackendBuffer | None:
        """Allocate memory of a backend for all tensors of this context that have none. None if there is nothing to do.

        The context must have noAlloc. Raises NativeMemoryError.

        Maps to `ggml_backend_alloc_ctx_tensors`.
        """
        if not isinstance(backend, Backend):
            raise expected("a Ggml.Backend", backend, "Ggml.Backend.cpuInit() makes one", "backend")
        if not self._noAlloc:
            raise ValueError("this context has memory for its data: make it with noAlloc=True")
        if all([tensor.isAllocated or tensor._c.view_src != ffi.NULL for tensor in self.tensors]):
            return None
        return self._allocate(backend)

    def _allocate(self, backend: Backend) -> BackendBuffer:
        if len(self._chunks) > 1:
            raise ValueError("a context that has grown cannot be allocated as a whole: make it with a memSize")
        with exclusive(self, backend) as pointer:
            owned = own(lib.ggml_backend_buffer_free, lib.ggml_backend_alloc_ctx_tensors, pointer, backend._c)
            buffer = BackendBuffer._of(owned, "all tensors")
            self._keep_buffer(buffer)
            return buffer

    # Memory

    @property
    def usedMem(self) -> int:
        """The bytes in use.

        Maps to `ggml_used_mem`.
        """
        with exclusive(self):
            return sum(lib.ggml_used_mem(chunk) for chunk in self._chunks)

    @property
    def memSize(self) -> int:
        """The size of the memory in bytes.

        Maps to `ggml_get_mem_size`.
        """
        with exclusive(self):
            return sum(lib.ggml_get_mem_size(chunk) for chunk in self._chunks)

    @property
    def noAlloc(self) -> bool:
        """True if the context has memory for the metadata only.

        Maps to `ggml_get_no_alloc`.
        """
        return self._noAlloc

    def free(self) -> None:
        """Free the context with every tensor and graph in it. Freeing twice is harmless.

        The memory stays while other contexts use its tensors, or arrays its data.

        Maps to `ggml_free`.
        """
        Context._require(self)
        self.close()

    def _describe(self) -> str:
        return f"of {self.usedMem} bytes in use{', noAlloc' if self._noAlloc else ''}"


def _sizes(ne: tuple[Any, ...]) -> list[int]:
    if not 1 <= len(ne) <= 4:
        raise ValueError(f"a tensor has between 1 and 4 dimensions, got {len(ne)}")
    return [integer(size, 1, _LARGEST, f"ne{axis}") for axis, size in enumerate(ne)]
