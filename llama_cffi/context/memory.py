"""The memory of a context: what it has seen, by sequence and position."""

from __future__ import annotations

from threading import Lock
from typing import Any

from llama_cffi._core.base_types import Pos, SeqId
from llama_cffi._core.checks import integer, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi.errors import UnavailableError

_POSITIONS = 1 << 30  # as for a batch


def no_such_sequence(name: str, seq: SeqId, n: int, also: str = "") -> ValueError:
    """The error for the number of a sequence that a context of `n` sequences does not have."""
    return out_of_range(name, seq, 0, n - 1, f"raise Context.Params.nSeqMax for more sequences{also}")


class Memory(Uncopyable):
    """The KV cache (or recurrent state) of a context. A range of positions is [p0, p1); negative ends are open.

    A model without memory (an embedding model) has an empty one: its methods do nothing. Maps to `llama_memory`.
    """

    _KIND = "memory"

    __slots__ = ("_changes", "_contents", "_context", "_nSeqMax", "_pointer", "_shifts", "_decode_lock", "_unified")

    def __init__(self, context: Handle, nSeqMax: int, unified: bool) -> None:
        """Not for users: `ctx.getMemory()` makes it."""
        self._context = context
        self._pointer = lib.llama_get_memory(context._c)
        self._nSeqMax = nSeqMax
        self._unified = unified
        self._changes = [0] * nSeqMax  # how often each sequence was changed, but for what decode adds
        self._decode_lock = Lock()  # held by whoever decodes and then reads the outputs
        self._contents: dict[SeqId, Any] = {}  # the tokens of each sequence; see generation/token_cache.py
        self._shifts = bool(lib.llama_memory_can_shift(self._pointer))

    @property
    def _c(self) -> Any:
        if self._context._pointer is None:
            self._context._raise_closed()
        return self._pointer

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Call while no other call uses the context."""
        return self._context._run(lambda _: function(self._c, *arguments))

    def _changed(self, seq: SeqId = -1) -> None:
        """Note that a sequence (-1: any) may hold something else from now on."""
        for changed in range(self._nSeqMax) if seq == -1 else (seq,):
            self._changes[changed] += 1

    def _check_seq(self, seq: SeqId, name: str, allow_all: bool = False) -> None:
        if allow_all and seq == -1:
            return
        if not 0 <= seq < self._nSeqMax:
            raise no_such_sequence(name, seq, self._nSeqMax, " (-1 means all)" if allow_all else "")

    def clear(self, data: bool = True) -> None:
        """Forget everything; with `data`, zero the buffers too.

        Maps to `llama_memory_clear`.
        """
        self._call(lib.llama_memory_clear, bool(data))
        self._changed()

    def seqRemove(self, seq: SeqId, p0: Pos = -1, p1: Pos = -1) -> bool:
        """Forget a range of a sequence (-1: of all). False where this kind of memory cannot forget a part.

        Maps to `llama_memory_seq_rm`.
        """
        self._check_seq(seq, "seq", allow_all=True)
        removed: bool = self._call(lib.llama_memory_seq_rm, seq, p0, p1)
        self._changed(seq)
        return removed

    def seqCopy(self, src: SeqId, dst: SeqId, p0: Pos = -1, p1: Pos = -1) -> None:
        """Let a sequence share a range of another one.

        Maps to `llama_memory_seq_cp`.
        """
        self._check_seq(src, "src")
        self._check_seq(dst, "dst")
        if not self._unified and self._nSeqMax > 1 and src != dst and (p0 > 0 or p1 >= 0):
            raise ValueError(
                "a part of a sequence can be shared only with Context.Params.kvUnified=True: copy it whole"
            )
        self._call(lib.llama_memory_seq_cp, src, dst, p0, p1)
        self._changed(dst)

    def seqKeep(self, seq: SeqId) -> None:
        """Forget every other sequence.

        Maps to `llama_memory_seq_keep`.
        """
        self._check_seq(seq, "seq")
        self._call(lib.llama_memory_seq_keep, seq)
        self._changed()

    def seqAdd(self, seq: SeqId, p0: Pos, p1: Pos, delta: Pos) -> None:
        """Shift the positions of a range by `delta`. What would come before position 0 is forgotten.

        Raises ValueError for a position beyond those that a batch may have.

        Maps to `llama_memory_seq_add`.
        """
        self._check_seq(seq, "seq")
        self._check_shift()
        delta = integer(delta, 1 - _POSITIONS, _POSITIONS - 1, "delta")

        def add(memory: Any) -> None:
            last: Pos = lib.llama_memory_seq_pos_max(memory, seq)
            if 0 <= p1 <= last:
                last = p1 - 1
            if last >= max(p0, 0) and last + delta >= _POSITIONS:
                raise ValueError(f"delta {delta} moves position {last} to {last + delta}, beyond {_POSITIONS - 1}")
            lib.llama_memory_seq_add(memory, seq, p0, p1, delta)

        self._call(add)
        self._changed(seq)

    def seqDiv(self, seq: SeqId, p0: Pos, p1: Pos, d: int) -> None:
        """Divide the positions of a range by `d`, at least 1.

        Maps to `llama_memory_seq_div`.
        """
        self._check_seq(seq, "seq")
        self._check_shift()
        d = integer(d, 1, (1 << 31) - 1, "d")
        self._call(lib.llama_memory_seq_div, seq, p0, p1, d)
        self._changed(seq)

    def canShift(self) -> bool:
        """Whether `seqAdd` and `seqDiv` work for this model.

        Maps to `llama_memory_can_shift`.
        """
        self._c  # noqa: B018 - raises if the context was freed
        return self._shifts

    def _check_shift(self) -> None:
        if self._c != ffi.NULL and not self.canShift():
            raise UnavailableError("the memory of this model cannot shift positions: decode the moved part again")

    def seqPosMin(self, seq: SeqId) -> Pos:
        """The first position that is there, or -1 for an empty sequence.

        Maps to `llama_memory_seq_pos_min`.
        """
        self._check_seq(seq, "seq")
        position: Pos = self._call(lib.llama_memory_seq_pos_min, seq)
        return position

    def seqPosMax(self, seq: SeqId) -> Pos:
        """The last position that is there, or -1 for an empty sequence.

        Maps to `llama_memory_seq_pos_max`.
        """
        self._check_seq(seq, "seq")
        position: Pos = self._call(lib.llama_memory_seq_pos_max, seq)
        return position
