"""Extended batches, built entry by entry: tokens with embeddings beside them, positions for M-RoPE."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

from llama_cffi._core.arguments import read_buffer
from llama_cffi._core.base_types import Pos, SeqId, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import own
from llama_cffi.context.base import ContextBase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REASONS = {
    -1: "the batch is full: its capacity is the context's nBatch",
    -2: "the token or the embedding does not fit the model",
    -3: "the context does not have this sequence: raise Context.Params.nSeqMax for more sequences",
}


class BatchExt(Handle):
    """A batch for one context, for `Context.process`. Freeing the context frees it.

    Each entry has a sequence, a token or an embedding, and a position, which must be set.

    Maps to `llama_batch_ext`.
    """

    _KIND = "batch"
    _MADE_BY = "BatchExt.init(ctx) makes one"

    _context: ContextBase
    _count: int
    _filled: set[int]  # entries with a token or an embedding
    _outputs: set[int]
    _states: set[int]
    _positions: dict[int, Pos]  # entry -> its largest position
    _embeddings: list[Any]  # copies that C reads

    @classmethod
    def init(cls, ctx: ContextBase) -> BatchExt:
        """Make an empty batch for a context. Its capacity is the context's nBatch.

        Maps to `llama_batch_ext_init`.
        """
        if not isinstance(ctx, ContextBase):
            raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
        batch = cls.__new__(cls)
        with ctx._exclusive() as context:
            batch._context = ctx
            batch._reset()
            batch._open(own(lib.llama_batch_ext_free, lib.llama_batch_ext_init, context), parent=ctx)
        return batch

    def _describe(self) -> str:
        return f"of {self._count} entries, {len(self._outputs)} outputs"

    def _require_complete(self) -> tuple[int, int, int]:
        """Return the numbers of entries and outputs, and the largest position; raise if something is missing."""
        if not self._count:
            raise ValueError("the batch is empty: add tokens to it first")
        empty = set(range(self._count)) - self._filled
        if empty:
            raise ValueError(f"entry {min(empty)} has neither a token nor an embedding: call setEmbdToken")
        missing = set(range(self._count)) - self._positions.keys()
        if missing:
            raise ValueError(f"entry {min(missing)} has no position: call setPos")
        if self._states and (without := set(range(self._count)) - self._states):
            raise ValueError(f"entry {min(without)} has no state, and others have one: call setEmbdState")
        return self._count, len(self._outputs), max(self._positions.values())

    def _reset(self) -> None:
        self._count, self._embeddings = 0, []
        self._filled, self._outputs, self._states, self._positions = set(), set(), set(), {}

    def free(self) -> None:
        """Free the batch. Freeing twice is harmless.

        Maps to `llama_batch_ext_free`.
        """
        BatchExt._require(self)
        self.close()

    def clear(self) -> None:
        """Remove all entries.

        Maps to `llama_batch_ext_clear`.
        """
        with self._exclusive() as pointer:
            lib.llama_batch_ext_clear(pointer)
            self._reset()

    def add(self, seqId: SeqId) -> int:
        """Append an entry without a token, for an embedding. Returns its index.

        Maps to `llama_batch_ext_add`.
        """
        return self._add(lib.llama_batch_ext_add, seqId)

    def addToken(self, seqId: SeqId, id: Token) -> int:
        """Append a token. Returns its index.

        Maps to `llama_batch_ext_add_token`.
        """
        self._context._model.vocab._check(id)  # if llama.cpp rejects a token, an entry without one is left
        return self._add(lib.llama_batch_ext_add_token, seqId, id, filled=True)

    def addEmbd(self, seqId: SeqId, embd: Any) -> int:
        """Append an embedding: a buffer of nEmbdInp floats of the model; a copy. Returns its index.

        Maps to `llama_batch_ext_add_embd`.
        """
        return self._add(lib.llama_batch_ext_add_embd, seqId, self._embd(embd)[0], filled=True)

    def _add(self, function: Any, *arguments: Any, filled: bool = False) -> int:
        with self._exclusive() as pointer:
            index: int = function(pointer, *arguments)
            if index < 0:
                raise ValueError(_REASONS.get(index, f"llama.cpp rejected the entry ({index})"))
            self._count = index + 1
            if filled:
                self._filled.add(index)
            return index

    def _embd(self, values: Any, state: bool = False) -> Any:
        array, n = read_buffer(values, "float", None, "embd", "its length")
        model = self._context._model._c
        width = lib.llama_model_n_embd_out(model) if state else lib.llama_model_n_embd_inp(model)
        if n != width:
            raise ValueError(f"embd must have {width} floats for this model, got {n}")
        own = ffi.new("float[]", n)
        ffi.memmove(own, array, 4 * n)
        self._embeddings.append(own)
        return ffi.new("struct llama_embd *", {"data": own, "n_rows": 1, "n_embd": n})

    def _index(self, idx: int) -> int:
        if not 0 <= idx < self._count:
            raise IndexError(f"idx {idx} is out of range: the batch has {self._count} entries")
        return idx

    def _set(self, function: Any, idx: int, value: Any, what: str, hint: str = "") -> None:
        with self._exclusive() as pointer:
            if not function(pointer, self._index(idx), value):
                raise ValueError(f"llama.cpp rejected {what} of entry {idx}{hint}")

    def addSeq(self, idx: int, seqId: SeqId) -> None:
        """Add an entry to one more sequence. Call it before the other setters.

        Maps to `llama_batch_ext_add_seq`.
        """
        self._set(lib.llama_batch_ext_add_seq, idx, seqId, f"sequence {seqId}")

    def setEmbdToken(self, idx: int, embd: Any) -> None:
        """Set the embedding of an entry: a buffer of nEmbdInp floats of the model; a copy.

        Maps to `llama_batch_ext_set_embd_token`.
        """
        self._set(lib.llama_batch_ext_set_embd_token, idx, self._embd(embd)[0], "the embedding")
        self._filled.add(idx)

    def setEmbdState(self, idx: int, embd: Any) -> None:
        """Set the state of an entry, carried over from an earlier stage: a buffer of nEmbdOut floats; a copy.

        Only a context with ctxType=MTP takes states, one for each entry; in older llama.cpp, none does.

        Maps to `llama_batch_ext_set_embd_state`.
        """
        hint = ": only a context with ctxType=MTP takes states, and one for each entry"
        self._set(lib.llama_batch_ext_set_embd_state, idx, self._embd(embd, state=True)[0], "the state", hint)
        self._states.add(idx)

    def setOutputEmbd(self, idx: int, value: bool = True) -> None:
        """Request the embedding of an entry, or cancel that with False; at present the same as `setOutputLogits`.

        Maps to `llama_batch_ext_set_output_embd`.
        """
        self._set(lib.llama_batch_ext_set_output_embd, idx, bool(value), "an output")
        self._note(idx, value)

    def setOutputLogits(self, idx: int, value: bool = True) -> None:
        """Request the logits of an entry, or cancel that with False.

        Maps to `llama_batch_ext_set_output_logits`.
        """
        self._set(lib.llama_batch_ext_set_output_logits, idx, bool(value), "an output")
        self._note(idx, value)

    def _note(self, idx: int, value: bool) -> None:
        (self._outputs.add if value else self._outputs.discard)(idx)

    def setPos(self, idx: int, pos: Pos | Sequence[Pos]) -> None:
        """Set the position of an entry: one number, or four for an embedding of a model with multi-dimensional RoPE.

        Maps to `llama_batch_ext_set_pos`.
        """
        try:
            values = [integer(value, 0, (1 << 31) - 1, "pos") for value in _numbers(pos)]
        except TypeError:
            raise expected("an integer, or four of them", pos, name="pos") from None
        if len(values) not in (1, 4):
            raise ValueError(f"pos must be one or four numbers of at least 0, got {len(values)}")
        array = ffi.new("int32_t[4]", [*values, *[values[0]] * (4 - len(values))])
        self._set(lib.llama_batch_ext_set_pos, idx, array, "the position")
        self._positions[idx] = max(values)

    def __len__(self) -> int:
        return self._count


def _numbers(value: Pos | Sequence[Pos]) -> Iterable[Pos]:
    """A number, or several, as several. Arrays of numpy without a dimension are numbers."""
    try:
        return [operator.index(value)]  # type: ignore[arg-type]
    except TypeError:
        return iter(value)  # type: ignore[arg-type]
