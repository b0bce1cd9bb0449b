"""KV cache accounting for an engine whose sequences have cells of their own (kvUnified=False)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi.engine.prompt_plan import Plan, in_streams
from llama_cffi.engine.sequence_pool import EngineSequence, SequencePool
from llama_cffi.model.placement import is_on_cpu

if TYPE_CHECKING:
    from llama_cffi._core.base_types import SeqId, Token
    from llama_cffi.context.context import Context
    from llama_cffi.engine.job import Job

# To share a prefix, llama.cpp copies the whole stream. An estimate from the sizes of models: computing a token takes
# longer than copying 16 cells. Not measured.
_WORTH_COPYING = 16  # copy if the prefix is at least this part of the stream
# A prompt that is computed apart reads the weights once more. By the speeds in docs/performance.md, that takes as long
# as 5 tokens with 2 CPUs, 25 with 16 CPUs, and 200 on an H200. In a simulation, 8 was right for 5 and for 25.
_MOST_DUMMIES, _MOST_DUMMIES_GPU = 8, 192
_MAX_MOVED_BYTES = 64 << 20  # of a stream that is moved to make the running ones neighbours


class StreamPool(SequencePool):
    """The sequences of a context in which each has a stream: cells that only its tokens attend to.

    A token attends to the cells of its own sequence only, so decoding many sequences is faster than in one pool of
    cells. A prefix is shared by a copy. llama.cpp computes sequences together only if their numbers are consecutive.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.per_sequence = context.nCtxSeq
        self.total = self.per_sequence * context.nSeqMax
        self._n = context.nSeqMax
        self._positions = min(self.per_sequence, context._limits.n_pos or self.per_sequence)
        most = _MOST_DUMMIES if is_on_cpu(context.getModel()._params) else _MOST_DUMMIES_GPU
        self._most_dummies = 0 if self._window else most  # dummy tokens would take the cells that leave the window
        self._movable = stream_bytes(context) <= _MAX_MOVED_BYTES

    def _continues(self, donor: EngineSequence, shared: int, oldest: EngineSequence | None) -> bool:
        return super()._continues(donor, shared, oldest) or 2 * shared >= len(donor.tokens)

    # Cells

    def grow(self, sequence: EngineSequence, tokens: array[int]) -> None:
        """Record that tokens were decoded into a sequence."""
        sequence.tokens += tokens

    def grow_one(self, sequence: EngineSequence, token: Token) -> None:
        """`grow` for one token."""
        sequence.tokens.append(token)

    @property
    def used(self) -> int:
        """The number of cells in use."""
        return sum(len(sequence.tokens) for sequence in self._all)

    @property
    def used_by_live(self) -> int:
        """The number of cells in sequences of requests."""
        return sum(len(sequence.tokens) for sequence in self._all if not sequence.kept)

    def evict_for(self, cells: int, reserved: int, donor: EngineSequence | None = None, shared: int = 0) -> bool:
        """True if a sequence can have `cells` cells besides the `shared` ones."""
        return shared + cells <= self.per_sequence

    # Streams

    def share(self, donor: EngineSequence, sequence: EngineSequence, length: int) -> int:
        if length * _WORTH_COPYING < self.per_sequence or not self._can_share(donor, length):
            return 0
        memory, self.copying = self._memory, True
        memory.seqCopy(donor.id, sequence.id)
        cut = length == len(donor.tokens) or memory.seqRemove(sequence.id, donor.position(length))
        if not cut or not self._ends(donor, length, sequence.id):
            memory.seqRemove(sequence.id)
            return 0
        sequence.share(donor, length)
        return length

    def plan(self, prompts: Iterable[Job], free: int) -> Plan:
        """Which prompts the next batch holds, in `free` entries; see `prompt_plan`."""
        return in_streams(prompts, free, self._positions, self._most_dummies)

    def number(self, jobs: Iterable[Job]) -> None:
        """Give empty sequences of jobs that start together numbers by the lengths of the prompts: equal ones become
        neighbours.
        """
        empty = sorted(
            (job for job in jobs if job.sequence is not None and not job.sequence.tokens), key=lambda job: job.pending
        )
        numbers = sorted(job.sequence.id for job in empty if job.sequence is not None)
        for job, number in zip(empty, numbers, strict=True):
            assert job.sequence is not None
            job.sequence.id = number

    def arrange(self, live: Iterable[EngineSequence]) -> None:
        """Make the numbers of these sequences consecutive, so that they are computed together."""
        sequences = list(live)
        numbers, count = [sequence.id for sequence in sequences], len(sequences)
        if count < 2 or max(numbers) - min(numbers) < count or not self._movable:
            return
        usable = self._free.union(self._kept, numbers)  # requests with other adapters use the rest
        starts = [start for start in range(self._n - count + 1) if usable.issuperset(range(start, start + count))]
        if not starts:
            return
        start = max(starts, key=lambda start: sum(start <= number < start + count for number in numbers))
        holes = iter(sorted(set(range(start, start + count)) - set(numbers)))
        for sequence in sequences:
            if not start <= sequence.id < start + count:
                self._move(sequence, next(holes))

    def _move(self, sequence: EngineSequence, number: SeqId) -> None:
        """Give a sequence another number. What is kept there moves to a free one; if there is none, one is evicted."""
        if number not in self._free:
            occupant = self._kept[number]
            if not self._free:
                self.evict(next(iter(self._kept.values())))
            if occupant.kept:
                self._relabel(occupant, min(self._free))
        self._relabel(sequence, number)

    def _relabel(self, sequence: EngineSequence, number: SeqId) -> None:
        self.copying = True
        self._memory.seqCopy(sequence.id, number)
        self._memory.seqRemove(sequence.id)
        self._free.remove(number)
        self._free.add(sequence.id)
        if sequence.kept:  # keeps its age
            self._kept = {number if held is sequence else key: held for key, held in self._kept.items()}
        sequence.id = number


def stream_bytes(context: Context) -> int:
    """About how many bytes of keys and values a sequence can have, in half precision."""
    model = context.getModel()
    width = model.nEmbd * max(model.nHeadKv, 1) // max(model.nHead, 1)
    return context.nCtxSeq * model.nLayer * 2 * width * 2
