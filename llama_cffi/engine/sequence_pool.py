"""The sequences of an engine's context: which requests use them, which are kept, and which prefix they can share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi.generation.prefix import common_length

if TYPE_CHECKING:
    from llama_cffi._core.base_types import Pos, SeqId
    from llama_cffi.context.context import Context
    from llama_cffi.engine.adapter_set import AdapterKey

UNLIMITED = 1 << 60  # cells of a memory that does not grow with the text


class CellRange:
    """Consecutive cells that always occur together: every sequence holds all of them or none."""

    __slots__ = ("length", "users")

    def __init__(self, length: int, users: Iterable[EngineSequence]) -> None:
        self.length = length
        self.users = set(users)


class EngineSequence:
    """A sequence of the context: used by a request, or kept for later requests with the same prefix."""

    __slots__ = ("adapters", "id", "kept", "ranges", "tokens")

    def __init__(self, number: SeqId, adapters: AdapterKey = ()) -> None:
        self.id = number
        self.adapters = adapters  # with which its tokens are decoded
        self.tokens = array("i")  # those in the KV cache
        self.ranges: list[CellRange] = []  # for a CellPool
        self.kept = False


class SequencePool:
    """What both memory layouts have in common. `CellPool` and `StreamPool` say where the tokens lie.

    A recurrent memory copies whole states only, and a sliding window drops tokens: the result of each copy is checked,
    and undone if it is not what was asked for.
    """

    def __init__(self, context: Context) -> None:
        model = context.getModel()
        self._memory = context.getMemory()
        self._window = model.nSwa
        self._shares_parts = not (model.isRecurrent or model.isHybrid)
        self._free = set(range(context.nSeqMax))
        self._kept: dict[SeqId, EngineSequence] = {}  # the oldest first
        self._all: set[EngineSequence] = set()
        self.copying = False  # contents that the next decode copies are not where they belong yet

    @property
    def has_sequence(self) -> bool:
        """True if another request can get a sequence."""
        return bool(self._free or self._kept)

    @property
    def shares_parts(self) -> bool:
        """True if a sequence can share a prefix that ends before its last token."""
        return self._shares_parts

    @property
    def kept(self) -> list[EngineSequence]:
        """The sequences that are kept, the oldest first."""
        return list(self._kept.values())

    def open(self, tokens: array[int], live: Iterable[EngineSequence], adapters: AdapterKey = ()) -> EngineSequence:
        """Return a sequence for these tokens that shares the longest available prefix, without the last token."""
        donor, shared = self.find(tokens, live, adapters)
        oldest = next(iter(self._kept.values()), None)
        if donor is not None and donor.kept and self._continues(donor, shared, oldest):
            self._unkeep(donor)
            if self._truncate(donor, shared):
                return donor
            self._forget(donor)
        if not self._free:
            assert oldest is not None
            self.evict(oldest)
        sequence = self.add(adapters)
        if donor is not None and donor in self._all:
            self.share(donor, sequence, shared)
        return sequence

    def _continues(self, donor: EngineSequence, shared: int, oldest: EngineSequence | None) -> bool:
        """True if a request is to continue a kept sequence itself, and not a copy of its prefix."""
        return shared == len(donor.tokens) or (donor is oldest and not self._free)

    def add(self, adapters: AdapterKey = ()) -> EngineSequence:
        """Return an empty sequence. There must be a free one."""
        number = min(self._free)
        self._free.remove(number)
        sequence = EngineSequence(number, adapters)
        self._all.add(sequence)
        return sequence

    @property
    def has_free(self) -> bool:
        """True if a sequence is not in use, and not kept."""
        return bool(self._free)

    def cut(self, number: SeqId, end: Pos) -> None:
        """Remove the tokens of a sequence from a position on, which are not counted."""
        self._memory.seqRemove(number, end)

    def take_back(self, sequence: EngineSequence) -> None:
        """Remove what was decoded after the tokens of a sequence. If the memory cannot, the sequence is empty then."""
        memory, length = self._memory, len(sequence.tokens)
        removed = memory.seqRemove(sequence.id, length) and memory.seqPosMax(sequence.id) == length - 1
        if not removed or (self._window and memory.seqPosMin(sequence.id) > max(0, length - self._window)):
            self.empty(sequence)

    def empty(self, sequence: EngineSequence) -> None:
        """Remove the tokens of a sequence, which stays in use."""
        self._memory.seqRemove(sequence.id)
        sequence.tokens = array("i")

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
        self._all.discard(sequence)
        self._free.add(sequence.id)
        sequence.tokens = array("i")

    # Prefix sharing

    def find(
        self, tokens: array[int], live: Iterable[EngineSequence], adapters: AdapterKey = ()
    ) -> tuple[EngineSequence | None, int]:
        """Find the sequence that can share the longest prefix of these tokens. Returns it and the prefix's length.

        The keys and values of a token depend on the adapters, so only sequences with the same ones share a prefix.
        """
        best, most = None, 0
        for sequence in (*self._kept.values(), *live):
            if sequence.adapters != adapters:
                continue
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
        raise NotImplementedError

    def _truncate(self, sequence: EngineSequence, length: int) -> bool:
        """Remove all but the first `length` tokens of a sequence. False if the memory cannot."""
        if length == len(sequence.tokens):
            return True
        memory = self._memory
        if not memory.seqRemove(sequence.id, length) or memory.seqPosMax(sequence.id) != length - 1:
            return False
        sequence.tokens = sequence.tokens[:length]
        return True
