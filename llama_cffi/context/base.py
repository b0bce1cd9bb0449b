"""The state of a context, which all parts of `Context` share."""

from __future__ import annotations

from llama_cffi._core.base_types import SeqId
from llama_cffi._core.ffi import ffi
from llama_cffi.context.memory import Memory, check_sequence
from llama_cffi.context.output_views import Views
from llama_cffi.model.model import Model
from llama_cffi.sampling.logits_source import LogitsSource
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.ggml.threadpool import Threadpool
    from llama_cffi.model.adapter import Adapter


class ContextBase(LogitsSource):
    """The state of a `Context`, with that of `LogitsSource`; `Context._set_up` fills it."""

    _KIND = "context"
    _MADE_BY = "Context.initFromModel(model) makes one"

    _model: Model
    _memory: Memory
    _nSeqMax: int
    _encodes: bool  # True if `encode` works
    _threads: Any  # a `struct shim_threads *`, or NULL if the number of threads is fixed
    _views: Views  # the arrays over llama.cpp's output buffer
    _chains: list[Sampler]  # chains that run with the model
    _adapters: dict[Adapter, float]  # the LoRA adapters in use, and their scales
    _steered: bool  # a control vector is in use
    _pools: tuple[Threadpool, Threadpool] | None  # for single tokens, for larger batches
    _kept: list[Any]  # what C may read through the context: parameters, thread pools
    _stop: Any  # an `int32_t *`: computations stop while it is not zero
    _abort: object  # keeps the abort callback of `setAbortCallback` alive

    def _describe(self) -> str:
        return f"nCtx={self.nCtx}, nSeqMax={self._nSeqMax}, {self._model!r}"

    def _reserve_outputs(self, outputs: int) -> None:
        """Prepare for a call that makes this many outputs: invalidate arrays that it would move, or raise BusyError."""
        limits = self._limits
        if self._views.invalidate() and outputs > limits.reserved:
            from llama_cffi.context.batch_errors import pinned

            raise pinned(outputs, limits)
        limits.reserved = max(limits.reserved, outputs)

    def _finish(self, why: str) -> None:
        """Free the C context now, or when the last array over its outputs is gone."""
        self._views.invalidate()
        super()._finish(why)
        self._chains.clear()

    def _check_seq(self, seq: SeqId, name: str = "seqId") -> None:
        check_sequence(seq, self._nSeqMax, name)


def null_if_none(value: Any) -> Any:
    """Return `value`, or NULL for None."""
    return ffi.NULL if value is None else value
