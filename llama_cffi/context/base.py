"""What every part of a context stands on: its state, and the way to call into it."""

from __future__ import annotations

from typing import Any

from llama_cffi._core.ffi import ffi, lib
from llama_cffi.context.batch_errors import pinned
from llama_cffi.context.memory import Memory, no_such_sequence
from llama_cffi.context.output_views import Views
from llama_cffi.ggml.threadpool import Threadpool
from llama_cffi.model.adapter import Adapter
from llama_cffi.model.model import Model
from llama_cffi.sampling.logits_source import LogitsSource
from llama_cffi.sampling.sampler import Sampler


class ContextBase(LogitsSource):
    """The private side of `Context`."""

    _KIND = "context"

    _model: Model
    _memory: Memory
    _nSeqMax: int
    _encodes: bool
    _views: Views
    _chains: list[Sampler]  # which the context runs together with the model
    _pools: tuple[Threadpool, Threadpool] | None
    _kept: list[Any]  # what C reads through the context: parameters, thread pools
    _stop: Any  # an int32_t that stops computations while it is not zero
    _abort: object  # ... and the callback that it asks whether to stop
    _adapters: dict[Adapter, float]

    def _reserve_outputs(self, outputs: int) -> None:
        """Before a call that gives so many outputs: arrays of earlier ones must survive it, or be gone."""
        limits = self._limits
        if self._views.invalidate() and outputs > limits.reserved:
            raise pinned(outputs, limits)
        limits.reserved = max(limits.reserved, outputs)

    def _finish(self, why: str) -> None:
        """Arrays of outputs that are still in use hold the C context alive; the last one frees it."""
        self._views.invalidate()
        self._dependents += self._views.close_when_unused(self._remove_dependent)
        super()._finish(why)

    def _destroy(self, pointer: Any) -> None:
        lib.llama_free(pointer)
        self._kept.clear()

    def _check_seq(self, seq: int, name: str = "seqId") -> None:
        if not 0 <= seq < self._nSeqMax:
            raise no_such_sequence(name, seq, self._nSeqMax)


def null_if_none(value: Any) -> Any:
    return ffi.NULL if value is None else value
