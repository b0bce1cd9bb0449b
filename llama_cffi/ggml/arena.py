"""A ggml context as an arena: memory for tensors and graphs, which is freed as a whole.

An arena without a given size grows: it owns several contexts of ggml, and makes a larger one when the last is full.
Tensors of one arena may be sources of another's. The other then keeps the first one's memory until its own is freed.
"""

from __future__ import annotations

from llama_cffi._core.arguments import byte_buffer
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import own
from llama_cffi._host.resources import available_memory
from llama_cffi.errors import NativeMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from llama_cffi._core.ownership import Owned

_FIRST_CHUNK = 64 * 1024
_FIRST_NO_ALLOC = 1024 * 1024  # `backendAllocTensors` needs all tensors in one; it is not touched before it is used
_LARGEST_STEP = 64 * 1024 * 1024
_MAX_BYTES = 1 << 46

_FAULTS = {
    lib.SHIM_TENSOR_EMPTY: "the result would have no elements: each dimension must be at least 1",
    lib.SHIM_TENSOR_TOO_LARGE: "the result would have more than 2**44 elements",
    lib.SHIM_TENSOR_NOT_WHOLE_BLOCKS: "the rows of a quantized tensor must be multiples of its type's block",
    lib.SHIM_TENSOR_STRIDES: "strides and offsets must be multiples of the element's size, and strides not 0",
    lib.SHIM_TENSOR_OUTSIDE: "the view reaches beyond the end of its source",
}


class Placement:
    """Says to the arenas of a graph which allocator has given memory to its tensors. They keep that allocator."""

    __slots__ = ("allocator", "ended")

    def __init__(self) -> None:
        self.allocator: Any = None
        self.ended = False


class Arena(Handle):
    """The memory of a ggml context. `Ggml.Context` adds the operations."""

    __slots__ = ("_bases", "_buffers", "_chunk", "_chunks", "_grows", "_keeps", "_noAlloc", "_placements")

    _KIND = "ggml context"

    _chunk: Any  # the C context that new objects go into
    _chunks: list[Any]  # all of them
    _bases: list[tuple[int, int]]  # the memory of all chunks: from, to
    _keeps: list[Arena]  # the arenas whose tensors are used here
    _buffers: list[Handle]  # buffers of a backend that tensors lie in
    _placements: list[Placement]  # of allocators that tensors have memory of

    def _start(self, size: int | None, no_alloc: bool, memory: Any = None) -> None:
        """Allocate the memory, unless the caller has some. Without a size, it grows."""
        self._grows = size is None and memory is None
        self._noAlloc = no_alloc
        self._chunks = []
        self._bases = []
        self._keeps = []
        self._buffers = []
        self._placements = []
        if memory is not None:
            owned = self._in_memory(size, memory)
        else:
            owned = self._new_chunk((_FIRST_NO_ALLOC if no_alloc else _FIRST_CHUNK) if size is None else size)
        self._chunk = owned.pointer
        self._open(owned)
        self._note(owned.pointer)

    def _in_memory(self, size: int | None, memory: Any) -> Owned:
        array, length = byte_buffer(memory, "memBuffer", writable=True)
        if int(ffi.cast("uintptr_t", array)) % lib.GGML_MEM_ALIGN:
            raise ValueError(f"memBuffer must begin at a multiple of {lib.GGML_MEM_ALIGN}: use a larger one's part")
        size = integer(length if size is None else size, 1, length, "memSize", "memBuffer ends there")
        params = ffi.new(
            "struct ggml_init_params *", {"mem_size": size, "mem_buffer": array, "no_alloc": self._noAlloc}
        )
        owned = own(lib.ggml_free, lib.ggml_init, params[0])
        owned.keep(array)
        return owned

    def _new_chunk(self, size: int) -> Owned:
        integer(size, 0, _MAX_BYTES, "memSize")
        free = available_memory()
        if free is not None and size > free:
            raise NativeMemoryError(
                f"a ggml context of {size} bytes exceeds the free memory, {free} bytes: make it smaller",
                operation="ggml_init",
            )
        params = ffi.new("struct ggml_init_params *", {"mem_size": size, "no_alloc": self._noAlloc})
        owned = own(lib.ggml_free, lib.ggml_init, params[0])
        if owned.pointer is None:
            raise NativeMemoryError(f"out of memory for a ggml context of {size} bytes", operation="ggml_init")
        return owned

    def _note(self, chunk: Any) -> None:
        base = int(ffi.cast("uintptr_t", lib.ggml_get_mem_buffer(chunk)))
        self._chunks.append(chunk)
        self._bases.append((base, base + lib.ggml_get_mem_size(chunk)))

    def _measure(self, function: Any, values: list[Any]) -> int:
        """Call a constructor in a scratch context. Return the bytes that it needs; raise if its result is invalid."""
        objects, data = ffi.new("size_t *"), ffi.new("size_t *")
        probe = lib.shim_probe()
        function(probe, *values)
        fault = lib.shim_probe_size(probe, objects, data)
        if fault:
            raise ValueError(_FAULTS[fault])
        need: int = objects[0] + (0 if self._noAlloc else data[0])
        return need

    def _reserve(self, need: int) -> Any:
        """Return the C context that has this much room. The caller has acquired the arena."""
        left = lib.ggml_get_mem_size(self._chunk) - lib.ggml_used_mem(self._chunk)
        if need <= left:
            return self._chunk
        if not self._grows:
            raise NativeMemoryError(
                f"the memory of this ggml context is full: {need} bytes are needed and {left} are left. Make it with "
                "a larger memSize, or without one: then it grows",
                operation="ggml_init",
            )
        last = lib.ggml_get_mem_size(self._chunk)
        owned = self._new_chunk(max(need, min(2 * last, _LARGEST_STEP)))
        mine = self._owned
        if mine is None or not mine.keep(owned):
            self._raise_closed()
        self._note(owned.pointer)
        self._chunk = owned.pointer
        return self._chunk

    def _keep(self, other: Arena) -> None:
        """Keep the memory of another arena until this one's is freed."""
        if other is self or other in self._keeps:
            return
        mine, its = self._owned, other._owned
        if mine is None:
            self._raise_closed()
        if its is None or not mine.keep(its):
            other._raise_closed()
        self._keeps.append(other)

    def _keep_buffer(self, buffer: Handle) -> None:
        """Keep a buffer that tensors of this arena lie in."""
        mine, its = self._owned, buffer._owned
        if mine is None:
            self._raise_closed()
        if its is None or not mine.keep(its):
            buffer._raise_closed()
        self._buffers.append(buffer)

    def _reach(self) -> Iterator[Arena]:
        """This arena and all that it keeps."""
        seen: list[Arena] = [self]
        for arena in seen:
            seen += [other for other in arena._keeps if other not in seen]
        return iter(seen)

    def _arena_of(self, pointer: Any) -> Arena:
        """Return the arena that a tensor of C lies in: this one, or one that it keeps."""
        address = int(ffi.cast("uintptr_t", pointer))
        for arena in self._reach():
            if any([low <= address < high for low, high in arena._bases]):
                return arena
        return self  # memory of the caller

    def _holds_buffer(self, pointer: Any) -> bool:
        """Return True if memory of this buffer stays as long as this arena's does."""
        address = int(ffi.cast("uintptr_t", pointer))
        return any([address in buffer._addresses for arena in self._reach() for buffer in arena._buffers])

    def _detach_users(self) -> None:
        for placement in tuple(self._placements):
            if placement.allocator is not None:
                placement.allocator._release(self)

    def _add_placement(self, placement: Placement) -> None:
        for old in tuple(self._placements):
            if old.ended:
                try:
                    self._placements.remove(old)
                except ValueError:  # another thread has removed it
                    pass
        self._placements.append(placement)
