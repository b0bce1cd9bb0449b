"""KV cache accounting for an engine whose sequences share one pool of cells (kvUnified)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llama_cffi.engine.prompt_plan import Plan, in_one_pool
from llama_cffi.engine.sequence_pool import UNLIMITED, CellRange, EngineSequence, SequencePool
from llama_cffi.generation.checkpoints import Checkpoints

if TYPE_CHECKING:
    from llama_cffi._core.base_types import Token
    from llama_cffi.context.context import Context
    from llama_cffi.engine.job import Job


class CellPool(SequencePool):
    """The sequences of a context with one pool of cells, and an exact count of the cells they use.

    Prefix sharing: the common prefix of two sequences is stored once. The price is that each token attends to the cells
    of all sequences, which are masked.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.total = UNLIMITED if context.getModel().isRecurrent else context.nCtx
        self.per_sequence = self.total
        self._used: int | None = 0  # cells; None: to be counted
        self._live: int | None = 0  # ... in sequences of requests

    def close(self, sequence: EngineSequence, keep: bool) -> None:
        super().close(sequence, keep)
        self._used = self._live = None

    def _unkeep(self, sequence: EngineSequence) -> None:
        super()._unkeep(sequence)
        self._used = self._live = None

    def _forget(self, sequence: EngineSequence) -> None:
        super()._forget(sequence)
        self._release(sequence)

    def empty(self, sequence: EngineSequence) -> None:
        super().empty(sequence)
        self._release(sequence)

    def _release(self, sequence: EngineSequence) -> None:
        for cells in sequence.ranges:
            cells.users.discard(sequence)
        sequence.ranges = []
        self._used = self._live = None

    def plan(self, prompts: Iterable[Job], free: int) -> Plan:
        """Which prompts the next batch holds, in `free` entries; see `prompt_plan`."""
        return in_one_pool(prompts, free)

    def number(self, jobs: Iterable[Job]) -> None:
        """Nothing to do: in one pool, the numbers of the sequences do not matter."""

    def arrange(self, live: Iterable[EngineSequence]) -> None:
        """Nothing to do: in one pool, the numbers of the sequences do not matter."""

    # Cells

    def grow(self, sequence: EngineSequence, tokens: array[int]) -> None:
        """Record that tokens were decoded into a sequence."""
        sequence.tokens += tokens
        last = sequence.ranges[-1] if sequence.ranges else None
        if last is not None and len(last.users) == 1:
            last.length += len(tokens)
        else:
            sequence.ranges.append(CellRange(len(tokens), [sequence]))
        if self._used is not None and self._live is not None:
            self._used += len(tokens)
            self._live += len(tokens)

    def grow_one(self, sequence: EngineSequence, token: Token) -> None:
        """`grow` for one token."""
        ranges = sequence.ranges
        if not ranges or len(ranges[-1].users) > 1:
            self.grow(sequence, array("i", [token]))
            return
        sequence.tokens.append(token)
        ranges[-1].length += 1
        if self._used is not None and self._live is not None:
            self._used += 1
            self._live += 1

    @property
    def used(self) -> int:
        """The number of cells in use."""
        if self._used is None:
            self._used = sum(cells.length for cells in self._ranges())
        return self._used

    @property
    def used_by_live(self) -> int:
        """The number of cells in sequences of requests."""
        if self._live is None:
            ranges = self._ranges()
            self._live = sum(cells.length for cells in ranges if any([not user.kept for user in cells.users]))
        return self._live

    def evict_for(self, cells: int, reserved: int, donor: EngineSequence | None = None, shared: int = 0) -> bool:
        """Make `cells` cells available besides those in use and `reserved` ones, by evicting kept sequences.

        True if that is possible; else nothing is evicted. The first `shared` cells of `donor` are not evicted, and the
        rest of it only if nothing else is left.
        """
        limit = self.total - reserved - cells
        pinned = set() if donor is None else set(_ranges_until(donor, shared))
        rest = 0 if donor is None or not donor.kept else _cut_length(donor, shared)
        stay = sum(r.length for r in self._ranges() if r in pinned or any([not user.kept for user in r.users]))
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

    def share(self, donor: EngineSequence, sequence: EngineSequence, length: int) -> int:
        memory = self._memory
        whole = length == len(donor.tokens)
        restores = not self._can_share(donor, length)
        memory.seqCopy(donor.id, sequence.id, -1, -1 if whole else donor.position(length))
        if (restores and not self._restore(donor, sequence, length)) or not self._ends(donor, length, sequence.id):
            memory.seqRemove(sequence.id)
            return 0
        if donor.checkpoints is not None:
            sequence.checkpoints = Checkpoints(item for item in donor.checkpoints.items() if item[0] <= length)
        sequence.ranges = donor.ranges[: self._split(donor, length)]
        for cells in sequence.ranges:
            cells.users.add(sequence)
        sequence.share(donor, length)
        self._used = self._live = None
        return length

    def _truncate(self, sequence: EngineSequence, length: int) -> bool:
        if length == len(sequence.tokens):
            return True
        if not super()._truncate(sequence, length):
            return False
        keep = self._split(sequence, length)
        for cells in sequence.ranges[keep:]:
            cells.users.discard(sequence)
        del sequence.ranges[keep:]
        self._used = self._live = None
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
