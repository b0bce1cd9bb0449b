"""The KV cache of a context: removing, copying and shifting its tokens, by sequence and position."""

from __future__ import annotations

from threading import Lock

from llama_cffi._core.base_types import Pos, SeqId
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi.errors import UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Positions are below this. No model was trained for more, and higher ones would overflow in the batches after.
POSITION_LIMIT = 1 << 30


def check_sequence(seq: SeqId, n_seq_max: int, name: str = "seqId", allow_all: bool = False) -> None:
    """Raise ValueError for a sequence that a context of `n_seq_max` sequences does not have; -1 may stand for all."""
    hint = "raise Context.Params.nSeqMax for more sequences"
    if allow_all:
        integer(seq, -1, n_seq_max - 1, name, f"-1 means all; {hint}")
    else:
        integer(seq, 0, n_seq_max - 1, name, hint)


class Memory(Uncopyable):
    """The KV cache (or recurrent state) of a context, organized by sequence and position.

    A range of positions is [p0, p1); a negative p0 or p1 leaves that end open. For a model without a KV cache (an
    embedding model), it is empty and the methods do nothing.

    Maps to `llama_memory`.
    """

    _KIND = "memory"
    _MADE_BY = "ctx.getMemory() returns the one of a context"

    __slots__ = (
        *("_changes", "_contents", "_context", "_nSeqMax", "_pointer", "_shifts", "_decode_lock", "_unified"),
        "_copies",
    )

    def __init__(self, context: Handle, nSeqMax: int, unified: bool) -> None:
        """Private: use `ctx.getMemory()`."""
        if not isinstance(context, Handle):
            raise TypeError(f"Memory objects are not made by calling the class: {self._MADE_BY}")
        self._context = context
        self._pointer = lib.llama_get_memory(context._c)
        self._nSeqMax = nSeqMax
        self._unified = unified
        self._copies = False  # the next decode copies streams, so that a state must not be read into one before
        self._changes = [0] * nSeqMax  # counts changes of each sequence; appends by decode are not counted
        self._decode_lock = Lock()  # held from decode until the outputs are read
        self._contents: dict[SeqId, Any] = {}  # the tokens in each sequence; see generation/token_cache.py
        self._shifts = bool(lib.llama_memory_can_shift(self._pointer))

    @property
    def _c(self) -> Any:
        if self._context._pointer is None:
            self._context._raise_closed()
        return self._pointer

    def __repr__(self) -> str:
        return f"<Memory of {getattr(self, '_context', 'no context')!r}>"

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Call `function(memory, ...)` with exclusive use of the context."""
        return self._context._run(lambda _: function(self._c, *arguments))

    def _change(self, seq: SeqId, function: Any, *arguments: Any) -> Any:
        """Call `function(memory, ...)`, which changes a sequence (-1: all), and note that before."""

        def change(_: Any) -> Any:
            self._changed(seq)
            return function(self._c, *arguments)

        return self._context._run(change)

    def _changed(self, seq: SeqId = -1) -> None:
        """Note that the tokens of a sequence (-1: of all) may have changed."""
        for changed in range(self._nSeqMax) if seq == -1 else (seq,):
            self._changes[changed] += 1

    def clear(self, data: bool = True) -> None:
        """Remove all tokens of all sequences; with `data`, also zero the buffers.

        Maps to `llama_memory_clear`.
        """
        self._change(-1, lib.llama_memory_clear, bool(data))

    def seqRemove(self, seq: SeqId, p0: Pos = -1, p1: Pos = -1) -> bool:
        """Remove a range of positions of a sequence (-1: of all).

        Returns False if this kind of memory, such as a recurrent state, cannot remove a part of a sequence.

        Maps to `llama_memory_seq_rm`.
        """
        check_sequence(seq, self._nSeqMax, "seq", allow_all=True)
        removed: bool = self._change(seq, lib.llama_memory_seq_rm, seq, p0, p1)
        return removed

    def seqCopy(self, src: SeqId, dst: SeqId, p0: Pos = -1, p1: Pos = -1) -> None:
        """Copy a range of positions from sequence `src` to `dst`.

        With Context.Params.kvUnified=True, both sequences share the cells (prefix sharing). Without it, only a whole
        sequence can be copied: raises ValueError for a part.

        Maps to `llama_memory_seq_cp`.
        """
        check_sequence(src, self._nSeqMax, "src")
        check_sequence(dst, self._nSeqMax, "dst")
        if not self._unified and self._nSeqMax > 1 and src != dst and (p0 > 0 or p1 >= 0):
            raise ValueError(
                "copying a part of a sequence needs Context.Params.kvUnified=True: set it, or copy the whole sequence"
            )
        self._copies |= not self._unified
        self._change(dst, lib.llama_memory_seq_cp, src, dst, p0, p1)

    def seqKeep(self, seq: SeqId) -> None:
        """Remove all other sequences.

        Maps to `llama_memory_seq_keep`.
        """
        check_sequence(seq, self._nSeqMax, "seq")
        self._change(-1, lib.llama_memory_seq_keep, seq)

    def seqAdd(self, seq: SeqId, p0: Pos, p1: Pos, delta: Pos) -> None:
        """Add `delta` to the positions of a range. Tokens that would move below position 0 are removed.

        Raises ValueError if a position would become 2**30 or more, UnavailableError if `canShift()` is False.

        Maps to `llama_memory_seq_add`.
        """
        check_sequence(seq, self._nSeqMax, "seq")
        self._check_shift()
        delta = integer(delta, 1 - POSITION_LIMIT, POSITION_LIMIT - 1, "delta")

        def add(memory: Any) -> None:
            last: Pos = lib.llama_memory_seq_pos_max(memory, seq)
            if 0 <= p1 <= last:
                last = p1 - 1
            if last >= max(p0, 0) and last + delta >= POSITION_LIMIT:
                limit = POSITION_LIMIT - 1
                raise ValueError(f"positions must be at most {limit}, but delta {delta} moves {last} to {last + delta}")
            lib.llama_memory_seq_add(memory, seq, p0, p1, delta)

        self._change(seq, add)

    def seqDiv(self, seq: SeqId, p0: Pos, p1: Pos, d: int) -> None:
        """Divide the positions of a range by `d`, at least 1. Raises UnavailableError if `canShift()` is False.

        Maps to `llama_memory_seq_div`.
        """
        check_sequence(seq, self._nSeqMax, "seq")
        self._check_shift()
        d = integer(d, 1, (1 << 31) - 1, "d")
        self._change(seq, lib.llama_memory_seq_div, seq, p0, p1, d)

    def canShift(self) -> bool:
        """Return True if `seqAdd` and `seqDiv` work for this model.

        Maps to `llama_memory_can_shift`.
        """
        self._c  # noqa: B018 - raises if the context was freed
        return self._shifts

    def _check_shift(self) -> None:
        if self._c != ffi.NULL and not self.canShift():
            raise UnavailableError("the KV cache of this model cannot shift positions: decode the moved tokens again")

    def seqPosMin(self, seq: SeqId) -> Pos:
        """Return the smallest position of a sequence; -1 if it is empty.

        Maps to `llama_memory_seq_pos_min`.
        """
        check_sequence(seq, self._nSeqMax, "seq")
        position: Pos = self._call(lib.llama_memory_seq_pos_min, seq)
        return position

    def seqPosMax(self, seq: SeqId) -> Pos:
        """Return the largest position of a sequence; -1 if it is empty.

        Maps to `llama_memory_seq_pos_max`.
        """
        check_sequence(seq, self._nSeqMax, "seq")
        position: Pos = self._call(lib.llama_memory_seq_pos_max, seq)
        return position
