"""What every part of a context stands on: its state, and the way to call into it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_cffi import _callbacks
from llama_cffi._ffi import ffi, lib
from llama_cffi._handle import Handle
from llama_cffi._views import Views
from llama_cffi.errors import BusyError

if TYPE_CHECKING:
    from llama_cffi.adapter import Adapter
    from llama_cffi.memory import Memory
    from llama_cffi.model import Model


class ContextBase(Handle):
    """The private side of `Context`."""

    _KIND = "context"

    _model: Model
    _memory: Memory
    _nVocab: int
    _nBatch: int
    _nUbatch: int
    _nSeqMax: int
    _nOutputsMax: int
    _decodes: bool  # has a memory to decode into
    _encodes: bool
    _embeds: bool  # gives embeddings
    _reserved: int  # outputs that llama.cpp's buffer has room for; one more moves the buffer
    _views: Views
    _kept: list[Any]  # what C reads through the context: callbacks, samplers, thread pools
    _adapters: dict[Adapter, float]

    def _run(self, function: Any, *arguments: Any) -> Any:
        """Call `function(context, ...)` while no other call uses the context; raise what a callback raised."""
        if not self._busy.acquire(blocking=False):
            self._is_busy()
        try:
            # The pointer is read under the lock: another thread may just have freed the context.
            result = function(self._c, *arguments)
        finally:
            self._busy.release()
        _callbacks.reraise()
        return result

    def _make_room(self, outputs: int) -> None:
        """Before a call that gives so many outputs: arrays of earlier ones must survive it, or be gone."""
        self._views.retire()
        if outputs <= self._reserved:
            return
        if self._views.pinned():
            raise BusyError(
                f"an array of this context's outputs is still in use, and {outputs} outputs need a larger buffer, "
                f"which would move it (it has room for {self._reserved}): drop the array, or copy it"
            )
        self._reserved = outputs

    def _finish(self, why: str) -> None:
        """Arrays of outputs that are still in use hold the C context alive; the last one frees it."""
        self._views.retire()
        self._dependents += self._views.hand_over(self._child_gone)
        super()._finish(why)

    def _destroy(self, pointer: Any) -> None:
        lib.llama_free(pointer)
        self._kept.clear()

    def _check_seq(self, seq: int, name: str = "seqId") -> None:
        if not 0 <= seq < self._nSeqMax:
            raise ValueError(f"{name} goes from 0 to {self._nSeqMax - 1}; {seq} needs a higher Context.Params.nSeqMax")


def null_if_none(value: Any) -> Any:
    return ffi.NULL if value is None else value
