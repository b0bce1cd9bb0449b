"""The context of an engine, and its memory layout: one pool of cells for all sequences, or a stream for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi._core.compat import has
from llama_cffi.context import sequence_state
from llama_cffi.context.context import Context
from llama_cffi.engine.cell_pool import CellPool
from llama_cffi.engine.stream_pool import StreamPool
from llama_cffi.errors import ContextError, LlamaError

if TYPE_CHECKING:
    from llama_cffi.context.sequence_state import SequenceState
    from llama_cffi.engine.sequence_pool import EngineSequence
    from llama_cffi.generation.prompt_cache.cache import PromptCache
    from llama_cffi.model.model import Model

_STREAM = 256  # llama.cpp rounds the cells of a stream to this number
_MAX_CARRIED_BYTES = 512 << 20  # states of kept sequences that a change of the layout carries over


class MemoryLayout:
    """Owns the context, and makes another one when the layout changes.

    In streams, decoding many sequences is faster, but each has only its part of the cells. In one pool, a sequence can
    have all cells. `stream` is the size of a stream, 0 if the layout cannot be streams: other models, older llama.cpp,
    too few cells.
    """

    def __init__(self, model: Model, params: Context.Params, unified: bool | None) -> None:
        """`unified` None chooses by the requests. Raises ValueError and ContextError."""
        self._model, self._params = model, params
        self.nCtx, self._nSeqMax = params.nCtx, params.nSeqMax
        possible = self._nSeqMax > 1 and has("llama_n_ctx_seq") and not (model.isRecurrent or model.isHybrid)
        cells = self.nCtx // max(self._nSeqMax, 1) // _STREAM * _STREAM
        if unified is False:
            cells = max(cells, _STREAM)
        self.stream = cells if possible and unified is not True else 0
        self.fixed = unified is not None or not self.stream
        self.unified = not self.stream
        self.disk: PromptCache | None = None  # where prompts are kept besides
        try:
            self._open()
        except ContextError:  # some models cannot have streams
            if self.fixed:
                raise
            self.unified = self.fixed = True
            self._open()

    def _open(self) -> None:
        params = self._params
        params.kvUnified = self.unified
        params.nCtx = self.nCtx if self.unified else self.stream * self._nSeqMax
        self.context = Context.initFromModel(self._model, params)
        self.pool: CellPool | StreamPool = (CellPool if self.unified else StreamPool)(self.context)

    def change(self, live: Iterable[EngineSequence]) -> dict[EngineSequence, EngineSequence]:
        """Change the layout. Returns the new sequence for each of those in use, and keeps others where they fit.

        A sequence whose state cannot be carried over has no tokens afterwards: they must be decoded again. If there is
        no memory for the new context, the layout stays, and is fixed from then on.
        """
        states = {sequence: self._state(sequence) for sequence in live}
        kept, carried = [], 0
        for sequence in reversed(self.pool.kept):  # the latest first
            state = self._state(sequence)
            carried += sum(map(len, state.caches)) if state else 0
            if state and carried <= _MAX_CARRIED_BYTES:
                kept.append((sequence, state))
        self.context.close()
        self.unified = not self.unified
        try:
            self._open()
        except LlamaError:
            self.unified, self.fixed = not self.unified, True
            self._open()
        changed = {sequence: self._restore(sequence, state) for sequence, state in states.items()}
        for sequence, state in reversed(kept):
            if self.pool.has_free:
                self.pool.close(self._restore(sequence, state), keep=True)
        for sequence in (*changed.values(), *self.pool.kept):
            self._verify(sequence)
        return changed

    @property
    def _n_streams(self) -> int:
        return 1 if self.unified else self._nSeqMax

    def _state(self, sequence: EngineSequence) -> SequenceState | None:
        if self.pool.copying or not sequence.tokens:
            return None
        return sequence_state.read(self.context, sequence.id, self._n_streams)

    def _restore(self, old: EngineSequence, state: SequenceState | None) -> EngineSequence:
        sequence = self.pool.add(old.adapters)
        if state and len(old.tokens) <= self.pool.per_sequence:
            try:
                sequence_state.write(self.context, sequence.id, self._n_streams, state)
            except LlamaError:  # there are too few cells
                return sequence
            self.pool.grow(sequence, old.tokens)
            sequence.media = old.media
        return sequence

    def _verify(self, sequence: EngineSequence) -> None:
        """Empty a sequence that is not what it should be: a state that did not fit may have cleared the context."""
        if not self.pool._ends(sequence, len(sequence.tokens)):
            if sequence.kept:
                self.pool.evict(sequence)
            else:
                self.pool.empty(sequence)
