"""The sequences of an engine's context: which requests use them, which are kept, and which prefix they can share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi.engine.sequence_checkpoints import CheckpointedSequence, SequenceCheckpoints
from llama_cffi.generation.prefix import common_length, last_position, media_within, whole_media

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


class EngineSequence(CheckpointedSequence):
    """A sequence of the context: used by a request, or kept for later requests with the same prefix."""

    __slots__ = ("adapters", "ranges")

    def __init__(self, number: SeqId, adapters: AdapterKey = ()) -> None:
        super().__init__(number)
        self.adapters = adapters  # with which its tokens are decoded
        self.ranges: list[CellRange] = []  # for a CellPool

    def forget(self) -> None:
        """Forget the tokens."""
        self.tokens, self.media = array("i"), []
        self.checkpoints = self.mark = None

    def share(self, donor: EngineSequence, length: int) -> None:
        """Take over the first tokens of another sequence, or of this one."""
        self.tokens, self.media = donor.tokens[:length], media_within(donor.media, length)


class SequencePool:
    """What both memory layouts have in common. `CellPool` and `StreamPool` say where the tokens lie.

    A recurrent memory copies whole states only, and a sliding window drops tokens: the result of each copy is checked,
    and undone if it is not what was asked for. Both go back to checkpoints.
    """

    def __init__(self, context: Context) -> None:
        model = context.getModel()
        self._memory = context.getMemory()
        self._window = model.nSwa
        self._shares_parts = not (model.isRecurrent or model.isHybrid)
        self.checkpoints = SequenceCheckpoints(context)
        self._free = set(range(context.nSeqMax))
        self._kept: dict[SeqId, EngineSequence] = {}  # the oldest first
        self._all: set[EngineSequence] = set()
        self._common: list[int] = []  # tokens of the last `open` that each sequence began with
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
        if self.checkpoints.useful:
            self._common = [common_length(tokens, other.tokens) for other in self._all]
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
        """True if a request is to continue a kept sequence itself, and not a copy of its prefix.

        A window has no cells for a second copy of what a checkpoint holds.
        """
        if shared == len(donor.tokens) or (donor is oldest and not self._free):
            return True
        return bool(self._window) and not self._can_share(donor, shared)

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
        """Remove what was decoded after the tokens of a sequence.

        If the memory cannot, the sequence has fewer tokens then: those before its mark, or none.
        """
        memory, length = self._memory, len(sequence.tokens)
        position = sequence.position(length)
        if memory.seqRemove(sequence.id, position) and self._ends(sequence, length):
            if not self._window or memory.seqPosMin(sequence.id) <= max(0, position - self._window):
                return
        if sequence.mark is None or not self._truncate(sequence, sequence.mark[0]):
            self.empty(sequence)

    def checkpoint(self, sequence: EngineSequence) -> None:
        """Make a checkpoint of a sequence, whose tokens are decoded up to here."""
        if not self.copying:
            self.checkpoints.add(sequence, [*self._kept.values(), *self._all])

    def places(self, sequence: EngineSequence, tokens: array[int], waiting: Iterable[array[int]]) -> list[int]:
        """Return where to make checkpoints of a prompt, for which `open` has just been called.

        Where it parts from other sequences, or from the prompts that wait, its beginning may be shared.
        """
        if not self.checkpoints.useful:
            return []
        common = [*self._common, *(common_length(tokens, other) for other in waiting)]
        found = self.checkpoints.places(len(tokens), len(sequence.tokens), common)
        return [place for place in found if whole_media(tokens, place) == place]

    def empty(self, sequence: EngineSequence) -> None:
        """Remove the tokens of a sequence, which stays in use."""
        self._memory.seqRemove(sequence.id)
        sequence.forget()

    def close(self, sequence: EngineSequence, keep: bool) -> None:
        """End the use of a sequence. With `keep`, its contents stay until the cells are needed."""
        sequence.mark = None
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
        sequence.forget()

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
            shared = whole_media(tokens, min(common_length(tokens, sequence.tokens), len(tokens) - 1))
            if shared > most and not self._can_share(sequence, shared):
                shared = self.checkpoints.best(sequence, shared)
            if shared > most:
                best, most = sequence, shared
        return best, most

    def _can_share(self, sequence: EngineSequence, length: int) -> bool:
        if length == len(sequence.tokens):
            return True  # a copy of the whole state goes on as the original would
        return self._shares_parts and (
            not self._window or self._memory.seqPosMin(sequence.id) <= max(0, sequence.position(length) - self._window)
        )

    def share(self, donor: EngineSequence, sequence: EngineSequence, length: int) -> int:
        """Share the first tokens of a sequence with an empty one. Returns how many the latter has then."""
        raise NotImplementedError

    def _truncate(self, sequence: EngineSequence, length: int) -> bool:
        """Remove all but the first `length` tokens of a sequence. False if the memory cannot."""
        if length == len(sequence.tokens):
            return True
        cut = self._can_share(sequence, length) and self._memory.seqRemove(sequence.id, sequence.position(length))
        if not (cut and self._ends(sequence, length)) and not self._restore(sequence, sequence, length):
            return False
        sequence.share(sequence, length)
        if sequence.checkpoints is not None:
            sequence.checkpoints.keep(length)
        return True

    def _ends(self, sequence: EngineSequence, length: int, number: SeqId | None = None) -> bool:
        """True if the memory has the first `length` tokens of a sequence, under this number or its own, and no more."""
        found = self._memory.seqPosMax(sequence.id if number is None else number)
        return found == last_position(sequence.media, length)

    def _restore(self, donor: EngineSequence, sequence: EngineSequence, length: int) -> bool:
        """Restore a checkpoint of `donor` in a sequence that has its other tokens. False if that is not possible."""
        if self.copying:  # the contents to be copied would come after the restored ones
            return False
        restored = self.checkpoints.restore(donor, sequence.id, length)
        if not restored:
            self._verify(sequence)
        return restored

    def _verify(self, failed: EngineSequence) -> None:
        """Empty the sequences that a state which did not fit has cleared, but for that which it was for."""
        for sequence in list(self._all):
            last = last_position(sequence.media, len(sequence.tokens))
            if sequence is failed or self._memory.seqPosMax(sequence.id) >= last:  # some have guesses, too
                continue
            if sequence.kept:
                self.evict(sequence)
            else:
                self.empty(sequence)
