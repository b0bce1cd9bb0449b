"""Extended batches: llama.cpp builds them entry by entry. For embeddings beside tokens, and for M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_cffi._core.arguments import read_buffer
from llama_cffi._core.base_types import Pos, SeqId, Token
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi.context.base import ContextBase

_REASONS = {
    -1: "the batch is full: it takes as many entries as the context's nBatch",
    -2: "the token or the embedding does not fit the model",
    -3: "the sequence is not among those of the context: raise Context.Params.nSeqMax, or use another",
}


class BatchExt(Handle):
    """A batch for one context. Every entry has a sequence, a token or an embedding, and a position that must be set.

    Maps to `llama_batch_ext`.
    """

    _KIND = "batch"

    _context: ContextBase
    _count: int
    _filled: set[int]  # entries with a token or an embedding
    _outputs: set[int]
    _placed: dict[int, Pos]  # entry -> its largest position
    _rows: list[Any]  # embeddings that C reads

    @classmethod
    def init(cls, ctx: ContextBase) -> BatchExt:
        """An empty batch for a context.

        Maps to `llama_batch_ext_init`.
        """
        if not isinstance(ctx, ContextBase):
            raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
        batch = cls.__new__(cls)
        with ctx._exclusive() as context:
            batch._open(lib.llama_batch_ext_init(context), parent=ctx)
        batch._context = ctx
        batch._reset()
        return batch

    def _ready(self) -> tuple[int, int, int]:
        """How many entries it has, how many outputs it asks for, and its last position; raises for a batch that cannot
        be processed.
        """
        if not self._count:
            raise ValueError("the batch is empty: add tokens to it first")
        empty = set(range(self._count)) - self._filled
        if empty:
            raise ValueError(f"entry {min(empty)} has neither a token nor an embedding: call setEmbdToken")
        missing = set(range(self._count)) - self._placed.keys()
        if missing:
            raise ValueError(f"entry {min(missing)} has no position: call setPos")
        return self._count, len(self._outputs), max(self._placed.values())

    def _reset(self) -> None:
        self._count, self._rows = 0, []
        self._filled, self._outputs, self._placed = set(), set(), {}

    def _destroy(self, pointer: Any) -> None:
        lib.llama_batch_ext_free(pointer)

    def free(self) -> None:
        """Free the batch. Freeing twice is harmless.

        Maps to `llama_batch_ext_free`.
        """
        BatchExt._require(self)
        self.close()

    def clear(self) -> None:
        """Make the batch empty again.

        Maps to `llama_batch_ext_clear`.
        """
        with self._exclusive() as pointer:
            lib.llama_batch_ext_clear(pointer)
            self._reset()

    def add(self, seqId: SeqId) -> int:
        """Append an entry without a token, to be given an embedding. Returns its index.

        Maps to `llama_batch_ext_add`.
        """
        return self._add(lib.llama_batch_ext_add, seqId)

    def addToken(self, seqId: SeqId, id: Token) -> int:
        """Append a token. Returns its index.

        Maps to `llama_batch_ext_add_token`.
        """
        self._context._model.vocab._check(id)  # a refused token would leave an entry without one behind
        return self._add(lib.llama_batch_ext_add_token, seqId, id, filled=True)

    def addEmbd(self, seqId: SeqId, embd: Any) -> int:
        """Append an embedding, a buffer of floats as wide as the model's. Returns its index.

        Maps to `llama_batch_ext_add_embd`.
        """
        return self._add(lib.llama_batch_ext_add_embd, seqId, self._embd(embd)[0], filled=True)

    def _add(self, function: Any, *arguments: Any, filled: bool = False) -> int:
        with self._exclusive() as pointer:
            index: int = function(pointer, *arguments)
            if index < 0:
                raise ValueError(_REASONS.get(index, f"llama.cpp refused the entry ({index})"))
            self._count = index + 1
            if filled:
                self._filled.add(index)
            return index

    def _embd(self, values: Any) -> Any:
        array, n = read_buffer(values, "float", None, "embd", "its length")
        width = lib.llama_model_n_embd_inp(self._context._model._c)
        if n != width:
            raise ValueError(f"embd has {n} floats, but the model takes {width}")
        own = ffi.new("float[]", n)
        ffi.memmove(own, array, 4 * n)
        self._rows.append(own)
        return ffi.new("struct llama_embd *", {"data": own, "n_rows": 1, "n_embd": n})

    def _at(self, idx: int) -> int:
        if not 0 <= idx < self._count:
            raise IndexError(f"the batch has {self._count} entries, and {idx} is not the index of one")
        return idx

    def _set(self, function: Any, idx: int, value: Any, what: str) -> None:
        with self._exclusive() as pointer:
            if not function(pointer, self._at(idx), value):
                raise ValueError(f"llama.cpp refused {what} for this entry")

    def addSeq(self, idx: int, seqId: SeqId) -> None:
        """Put an entry into one more sequence. Before its other settings.

        Maps to `llama_batch_ext_add_seq`.
        """
        self._set(lib.llama_batch_ext_add_seq, idx, seqId, f"sequence {seqId}")

    def setEmbdToken(self, idx: int, embd: Any) -> None:
        """Give an entry an embedding beside its token.

        Maps to `llama_batch_ext_set_embd_token`.
        """
        self._set(lib.llama_batch_ext_set_embd_token, idx, self._embd(embd)[0], "the embedding")
        self._filled.add(idx)

    def setEmbdState(self, idx: int, embd: Any) -> None:
        """Give an entry a state carried over from an earlier stage.

        Maps to `llama_batch_ext_set_embd_state`.
        """
        self._set(lib.llama_batch_ext_set_embd_state, idx, self._embd(embd)[0], "the state")
        self._filled.add(idx)

    def setOutputEmbd(self, idx: int, value: bool = True) -> None:
        """Whether an entry's embedding is wanted; the same as `setOutputLogits` today.

        Maps to `llama_batch_ext_set_output_embd`.
        """
        self._set(lib.llama_batch_ext_set_output_embd, idx, bool(value), "an output")
        self._note(idx, value)

    def setOutputLogits(self, idx: int, value: bool = True) -> None:
        """Whether an entry's logits are wanted.

        Maps to `llama_batch_ext_set_output_logits`.
        """
        self._set(lib.llama_batch_ext_set_output_logits, idx, bool(value), "an output")
        self._note(idx, value)

    def _note(self, idx: int, value: bool) -> None:
        (self._outputs.add if value else self._outputs.discard)(idx)

    def setPos(self, idx: int, pos: Pos | Sequence[Pos]) -> None:
        """Set an entry's position: one number, or four for an embedding of a model with multi-dimensional RoPE.

        Maps to `llama_batch_ext_set_pos`.
        """
        values = [pos] if isinstance(pos, int) else list(pos)
        if any(value < 0 for value in values) or len(values) not in (1, 4):
            raise ValueError(f"a position is one number or four, from 0 on, not {pos}")
        array = ffi.new("int32_t[4]", [*values, *[values[0]] * (4 - len(values))])
        self._set(lib.llama_batch_ext_set_pos, idx, array, "the position")
        self._placed[idx] = max(values)

    def __len__(self) -> int:
        return self._count
