"""KV cache accounting for an engine: which tokens its sequences hold, in how many cells, and which cells are shared."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llama_cffi.generation.prefix import common_length

if TYPE_CHECKING:
    from llama_cffi._core.base_types import SeqId
    from llama_cffi.context.context import Context

UNLIMITED = 1 << 60  # cells of a memory that does not grow with the text


class CellRange:
    """Consecutive cells that always occur together: every sequence holds all of them or none."""

    __slots__ = ("length", "users")

    def __init__(self, length: int, users: Iterable[EngineSequence]) -> None:
        self.length = length
        self.users = set(users)


class EngineSequence:
    """A sequence of the context: used by a request, or kept for later requests with the same prefix."""

    __slots__ = ("id", "kept", "ranges", "tokens")

    def __init__(self, number: SeqId) -> None:
        self.id = number
        self.tokens = array("i")  # those in the KV cache
        self.ranges: list[CellRange] = []
        self.kept = False


class CellPool:
    """The sequences of a context, and an exact count of the cells they use.

    Prefix sharing: the common prefix of two sequences is stored once. This needs a memory with one pool of cells
    (kvUnified) that can copy a part of a sequence. A recurrent memory copies whole states only, and a sliding window
    drops tokens: the result of each copy is checked, and undone if it is not what was asked for.
    """

    def __init__(self, context: Context) -> None:
        model = context.getModel()
        self._memory = context.getMemory()
        self._window = model.nSwa
        self._shares_parts = not (model.isRecurrent or model.isHybrid)
        self.total = UNLIMITED if model.isRecurrent else context.nCtx
        self._free = list(range(context.nSeqMax - 1, -1, -1))
        self._kept: dict[SeqId, EngineSequence] = {}  # the oldest first
        self._all: set[EngineSequence] = set()

    # Sequences

    @property
    def has_sequence(self) -> bool:
        """True if another request can get a sequence."""
        return bool(self._free or self._kept)

    @property
    def shares_parts(self) -> bool:
        """True if a sequence can share a prefix that ends before its last token."""
        return self._shares_parts

    def open(self, tokens: array[int], live: Iterable[EngineSequence]) -> EngineSequence:
        """Return a sequence for these tokens that shares the longest available prefix, without the last token."""
        donor, shared = self.find(tokens, live)
        oldest = next(iter(self._kept.values()), None)
        if donor is not None and donor.kept and (shared == len(donor.tokens) or (donor is oldest and not self._free)):
            self._unkeep(donor)
            if self._truncate(donor, shared):
                return donor
            self._forget(donor)
        if not self._free:
            assert oldest is not None
            self.evict(oldest)
        sequence = EngineSequence(self._free.pop())
        self._all.add(sequence)
        if donor is not None and donor in self._all:
            self.share(donor, sequence, shared)
        return sequence

    def close(self, sequence: EngineSequence, keep: bool) -> None:
        """End the use of a sequence. With `keep`, its contents stay until the cells are needed."""
        if keep and sequence.tokens:
            sequence.kept = True
            self._kept[sequence.id] = sequence
        else:
            self._forget(sequence)

    def evict(self, sequence: EngineSequence) -> None:
        """Free a kept sequence."""
        self._unkeep(sequence)
        self._forget(sequence)

    def evict_all(self) -> bool:
        """Free all kept sequences. True if there were any."""
        kept = list(self._kept.values())
        for sequence in kept:
            self.evict(sequence)
        return bool(kept)

    def _unkeep(self, sequence: EngineSequence) -> None:
        del self._kept[sequence.id]
        sequence.kept = False

    def _forget(self, sequence: EngineSequence) -> None:
        self._memory.seqRemove(sequence.id)
        self._release(sequence)
        self._all.discard(sequence)
        self._free.append(sequence.id)

    # Cells

    def grow(self, sequence: EngineSequence, tokens: array[int]) -> None:
        """Record that tokens were decoded into a sequence."""
        sequence.tokens += tokens
        last = sequence.ranges[-1] if sequence.ranges else None
        if last is not None and len(last.users) == 1:
            last.length += len(tokens)
        else:
            sequence.ranges.append(CellRange(len(tokens), [sequence]))

    @property
    def used(self) -> int:
        """The number of cells in use."""
        return sum(cells.length for cells in self._ranges())

    @property
    def used_by_live(self) -> int:
        """The number of cells in sequences of requests."""
        return sum(cells.length for cells in self._ranges() if any(not user.kept for user in cells.users))

    def evict_for(self, cells: int, reserved: int, donor: EngineSequence | None = None, shared: int = 0) -> bool:
        """Make `cells` cells available besides those in use and `reserved` ones, by evicting kept sequences.

        True if that is possible; else nothing is evicted. The first `shared` cells of `donor` are not evicted, and the
        rest of it only if nothing else is left.
        """
        limit = self.total - reserved - cells
        pinned = set() if donor is None else set(_ranges_until(donor, shared))
        rest = 0 if donor is None or not donor.kept else _cut_length(donor, shared)
        stay = sum(r.length for r in self._ranges() if r in pinned or any(not user.kept for user in r.users))
        if stay - rest > limit:
            return False
        for sequence in list(self._kept.values()):
            if self.used <= limit:
                break
            if sequence is not donor:
                self.evict(sequence)
        if self.used > limit and donor is not None and donor.kept:
            self._truncate(donor, shared)
        return self.used <= limit

    def _ranges(self) -> set[CellRange]:
        return {cells for sequence in self._all for cells in sequence.ranges}

    def _release(self, sequence: EngineSequence) -> None:
        for cells in sequence.ranges:
            cells.users.discard(sequence)
        sequence.ranges = []
        sequence.tokens = array("i")

    def _split(self, sequence: EngineSequence, length: int) -> int:
        """Make a range end after `length` tokens of a sequence. Returns the number of ranges up to there."""
        at = 0
        for index, cells in enumerate(sequence.ranges):
            if at == length:
                return index
            if at + cells.length > length:
                rest = CellRange(at + cells.length - length, cells.users)
                cells.length = length - at
                for user in cells.users:
                    user.ranges.insert(user.ranges.index(cells) + 1, rest)
                return index + 1
            at += cells.length
        return len(sequence.ranges)

    # Prefix sharing

    def find(self, tokens: array[int], live: Iterable[EngineSequence]) -> tuple[EngineSequence | None, int]:
        """Find the sequence that can share the longest prefix of these tokens. Returns it and the prefix's length."""
        best, most = None, 0
        for sequence in (*self._kept.values(), *live):
            shared = min(common_length(tokens, sequence.tokens), len(tokens) - 1)
            if shared > most and self._can_share(sequence, shared):
                best, most = sequence, shared
        return best, most

    def _can_share(self, sequence: EngineSequence, length: int) -> bool:
        if length == len(sequence.tokens):
            return True  # a copy of the whole state goes on as the original would
        return self._shares_parts and (
            not self._window or self._memory.seqPosMin(sequence.id) <= max(0, length - self._window)
        )

    def share(self, donor: EngineSequence, sequence: EngineSequence, length: int) -> int:
        """Share the first tokens of a sequence with an empty one. Returns how many the latter has then."""
        memory = self._memory
        whole = length == len(donor.tokens)
        memory.seqCopy(donor.id, sequence.id, -1, -1 if whole else length)
        if memory.seqPosMax(sequence.id) != length - 1:
            memory.seqRemove(sequence.id)
            return 0
        sequence.ranges = donor.ranges[: self._split(donor, length)]
        for cells in sequence.ranges:
            cells.users.add(sequence)
        sequence.tokens = donor.tokens[:length]
        return length

    def _truncate(self, sequence: EngineSequence, length: int) -> bool:
        """Remove all but the first `length` tokens of a sequence. False if the memory cannot."""
        if length == len(sequence.tokens):
            return True
        memory = self._memory
        if not memory.seqRemove(sequence.id, length) or memory.seqPosMax(sequence.id) != length - 1:
            return False
        keep = self._split(sequence, length)
        for cells in sequence.ranges[keep:]:
            cells.users.discard(sequence)
        del sequence.ranges[keep:]
        sequence.tokens = sequence.tokens[:length]
        return True


def _ranges_until(sequence: EngineSequence, length: int) -> Iterator[CellRange]:
    """The ranges with the first `length` tokens of a sequence."""
    at = 0
    for cells in sequence.ranges:
        if at >= length:
            return
        yield cells
        at += cells.length


def _cut_length(sequence: EngineSequence, length: int) -> int:
    """The cells that truncating a kept sequence would free, in the range that the cut goes through."""
    at = 0
    for cells in _ranges_until(sequence, length):
        at += cells.length
        if at > length and cells.users == {sequence}:
            return at - length
    return 0
