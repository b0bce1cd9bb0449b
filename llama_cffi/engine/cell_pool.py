"""What an engine's sequences hold of the memory: which tokens, how many cells, and who shares them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi._core.base_types import SeqId
    from llama_cffi.context.context import Context

ENDLESS = 1 << 60  # cells of a memory that does not grow with the text


class Span:
    """Cells that stand side by side in every sequence that has them."""

    __slots__ = ("length", "users")

    def __init__(self, length: int, users: Iterable[Sequence]) -> None:
        self.length = length
        self.users = set(users)


class Sequence:
    """A sequence of the context in use: of a request, or kept for those that begin like it."""

    __slots__ = ("id", "kept", "spans", "tokens")

    def __init__(self, number: SeqId) -> None:
        self.id = number
        self.tokens = array("i")  # those that are in the memory
        self.spans: list[Span] = []
        self.kept = False


class Cells:
    """The sequences of a context, and a count of the cells that they hold.

    Sequences share cells: what two of them begin with together is there once. That needs a memory with one pool for all
    (kvUnified), and one that can give a part of a sequence to another one. A recurrent memory can only give a whole
    state, and a sliding window forgets: each copy is looked at, and taken back where it is not what was wanted.
    """

    def __init__(self, context: Context) -> None:
        model = context.getModel()
        self._memory = context.getMemory()
        self._window = model.nSwa
        self._parts = not (model.isRecurrent or model.isHybrid)
        self.total = ENDLESS if model.isRecurrent else context.nCtx
        self._free = list(range(context.nSeqMax - 1, -1, -1))
        self._kept: dict[SeqId, Sequence] = {}  # the one that waited longest first
        self._all: set[Sequence] = set()

    # Sequences

    @property
    def hasSequence(self) -> bool:
        """Whether there is one for another request."""
        return bool(self._free or self._kept)

    @property
    def sharesParts(self) -> bool:
        """Whether the beginning of a sequence can be given to another one."""
        return self._parts

    def open(self, tokens: array[int], live: Iterable[Sequence]) -> Sequence:
        """A sequence for these tokens, with what others hold of them already, all but the last one."""
        donor, shared = self.find(tokens, live)
        oldest = next(iter(self._kept.values()), None)
        if donor is not None and donor.kept and (shared == len(donor.tokens) or (donor is oldest and not self._free)):
            self._wake(donor)
            if self._cut(donor, shared):
                return donor
            self._forget(donor)
        if not self._free:
            assert oldest is not None
            self.drop(oldest)
        sequence = Sequence(self._free.pop())
        self._all.add(sequence)
        if donor is not None and donor in self._all:
            self.share(donor, sequence, shared)
        return sequence

    def close(self, sequence: Sequence, keep: bool) -> None:
        """The request has ended. What it leaves is kept until somebody needs the room, or forgotten."""
        if keep and sequence.tokens:
            sequence.kept = True
            self._kept[sequence.id] = sequence
        else:
            self._forget(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Give up a sequence that was kept."""
        self._wake(sequence)
        self._forget(sequence)

    def dropAll(self) -> bool:
        """Give up everything that was kept. Whether there was something."""
        kept = list(self._kept.values())
        for sequence in kept:
            self.drop(sequence)
        return bool(kept)

    def _wake(self, sequence: Sequence) -> None:
        del self._kept[sequence.id]
        sequence.kept = False

    def _forget(self, sequence: Sequence) -> None:
        self._memory.seqRemove(sequence.id)
        self._release(sequence)
        self._all.discard(sequence)
        self._free.append(sequence.id)

    # Cells

    def grow(self, sequence: Sequence, tokens: array[int]) -> None:
        """Tokens were decoded into the sequence."""
        sequence.tokens += tokens
        last = sequence.spans[-1] if sequence.spans else None
        if last is not None and len(last.users) == 1:
            last.length += len(tokens)
        else:
            sequence.spans.append(Span(len(tokens), [sequence]))

    @property
    def used(self) -> int:
        """Cells that hold something."""
        return sum(span.length for span in self._spans())

    @property
    def usedByLive(self) -> int:
        """Cells of sequences that a request has."""
        return sum(span.length for span in self._spans() if any(not user.kept for user in span.users))

    def makeRoom(self, cells: int, reserved: int, donor: Sequence | None, shared: int) -> bool:
        """Whether so many cells can be had besides what is in use and reserved, giving up what is kept for it.

        `shared` cells of `donor` are to stay; its last ones may go once they are shared.
        """
        room = self.total - reserved - cells
        pinned = set() if donor is None else set(_until(donor, shared))
        rest = 0 if donor is None or not donor.kept else _cut_length(donor, shared)
        stay = sum(s.length for s in self._spans() if s in pinned or any(not user.kept for user in s.users))
        if stay - rest > room:
            return False
        for sequence in list(self._kept.values()):
            if self.used <= room:
                break
            if sequence is not donor:
                self.drop(sequence)
        if self.used > room and donor is not None and donor.kept:
            self._cut(donor, shared)
        return self.used <= room

    def _spans(self) -> set[Span]:
        return {span for sequence in self._all for span in sequence.spans}

    def _release(self, sequence: Sequence) -> None:
        for span in sequence.spans:
            span.users.discard(sequence)
        sequence.spans = []
        sequence.tokens = array("i")

    def _split(self, sequence: Sequence, length: int) -> int:
        """Make spans end after so many tokens of a sequence. Returns how many spans those are."""
        at = 0
        for index, span in enumerate(sequence.spans):
            if at == length:
                return index
            if at + span.length > length:
                rest = Span(at + span.length - length, span.users)
                span.length = length - at
                for user in span.users:
                    user.spans.insert(user.spans.index(span) + 1, rest)
                return index + 1
            at += span.length
        return len(sequence.spans)

    # Beginnings

    def find(self, tokens: array[int], live: Iterable[Sequence]) -> tuple[Sequence | None, int]:
        """The sequence that holds the most of what these tokens begin with, and how many it can give."""
        best, most = None, 0
        for sequence in (*self._kept.values(), *live):
            shared = min(common(tokens, sequence.tokens), len(tokens) - 1)
            if shared > most and self._gives(sequence, shared):
                best, most = sequence, shared
        return best, most

    def _gives(self, sequence: Sequence, length: int) -> bool:
        if length == len(sequence.tokens):
            return True  # a copy goes on as the original would
        return self._parts and (
            not self._window or self._memory.seqPosMin(sequence.id) <= max(0, length - self._window)
        )

    def share(self, donor: Sequence, sequence: Sequence, length: int) -> int:
        """Give the first tokens of one sequence to another one, which is empty. Returns how many it has then."""
        memory = self._memory
        whole = length == len(donor.tokens)
        memory.seqCopy(donor.id, sequence.id, -1, -1 if whole else length)
        if memory.seqPosMax(sequence.id) != length - 1:
            memory.seqRemove(sequence.id)
            return 0
        sequence.spans = donor.spans[: self._split(donor, length)]
        for span in sequence.spans:
            span.users.add(sequence)
        sequence.tokens = donor.tokens[:length]
        return length

    def _cut(self, sequence: Sequence, length: int) -> bool:
        """Forget what stands in a sequence after so many tokens. False where the memory cannot."""
        if length == len(sequence.tokens):
            return True
        memory = self._memory
        if not memory.seqRemove(sequence.id, length) or memory.seqPosMax(sequence.id) != length - 1:
            return False
        keep = self._split(sequence, length)
        for span in sequence.spans[keep:]:
            span.users.discard(sequence)
        del sequence.spans[keep:]
        sequence.tokens = sequence.tokens[:length]
        return True


def _until(sequence: Sequence, length: int) -> Iterator[Span]:
    """The spans that hold the first so many tokens of a sequence."""
    at = 0
    for span in sequence.spans:
        if at >= length:
            return
        yield span
        at += span.length


def _cut_length(sequence: Sequence, length: int) -> int:
    """What would be free if a kept sequence lost all after so many tokens, of the span that goes across."""
    at = 0
    for span in _until(sequence, length):
        at += span.length
        if at > length and span.users == {sequence}:
            return at - length
    return 0


def common(a: array[int], b: array[int]) -> int:
    """How many numbers two arrays begin with together."""
    low, high = 0, min(len(a), len(b))
    with memoryview(a).cast("B") as x, memoryview(b).cast("B") as y:
        size = a.itemsize
        while low < high:
            middle = (low + high + 1) // 2
            if x[low * size : middle * size] == y[low * size : middle * size]:
                low = middle
            else:
                high = middle - 1
    return low
