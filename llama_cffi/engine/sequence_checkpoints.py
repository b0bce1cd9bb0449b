"""Checkpoints in an engine: its sequences go back, and share prefixes, where the memory cannot do so by itself."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llama_cffi.errors import LlamaError, StateError
from llama_cffi.generation import checkpoints
from llama_cffi.generation.checkpoints import PARTIAL_ONLY, Checkpoints
from llama_cffi.generation.prefix import last_position, position_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama_cffi._core.base_types import Pos, SeqId
    from llama_cffi.context.context import Context
    from llama_cffi.generation.prefix import PlacedMedium


class CheckpointedSequence:
    """A sequence of an engine, as far as checkpoints are about it."""

    __slots__ = ("checkpoints", "id", "kept", "mark", "media", "tokens")

    def __init__(self, number: SeqId) -> None:
        self.id = number
        self.tokens = array("i")  # those in the KV cache
        self.media: list[PlacedMedium] = []  # the images and sounds among them
        self.kept = False
        self.checkpoints: Checkpoints | None = None
        self.mark: tuple[int, bytes] | None = None  # one more checkpoint, before guesses

    def position(self, length: int) -> Pos:
        """Return the position after the first `length` tokens. With M-RoPE, images have fewer positions than tokens."""
        return position_of(self.media, length) if self.media else length


class SequenceCheckpoints:
    """Makes and restores the checkpoints of an engine's sequences; all together have at most 512 MiB.

    `useful` is False for memories that go back by themselves; then there are none.
    """

    __slots__ = ("_context", "_is_recurrent", "_memory", "useful")

    def __init__(self, context: Context) -> None:
        model = context.getModel()
        self._context, self._memory = context, context.getMemory()
        self._is_recurrent = model.isRecurrent or model.isHybrid
        self.useful = checkpoints.are_useful(context)

    def places(self, n: int, start: int, common: Iterable[int]) -> list[int]:
        """Return where to make checkpoints of a prompt of `n` tokens that is decoded from `start` on.

        `common` is how many tokens others have in common with it.
        """
        partings = [min(length, n - 1) for length in common]
        partings = [length for length in partings if length - start >= checkpoints.MIN_NEW]
        found = checkpoints.places(start, max(partings, default=0), n, self._context._limits.n_ubatch, False)
        return sorted({*found, min(partings)}) if partings else found

    def add(self, sequence: CheckpointedSequence, every: Iterable[CheckpointedSequence]) -> None:
        """Make a checkpoint of a sequence. Those of kept sequences are removed for it, the oldest sequences first."""
        try:
            size = self._context.stateSeqGetSize(sequence.id, PARTIAL_ONLY)
            known = [other for other in every if other.checkpoints is not None]
            for other in [other for other in known if other.kept]:
                if _size(known) + size <= checkpoints.MAX_BYTES:
                    break
                other.checkpoints = None
                known.remove(other)
            if _size(known) + size > checkpoints.MAX_BYTES:
                return
            sequence.checkpoints = sequence.checkpoints or Checkpoints()
            sequence.checkpoints.add(self._context, sequence.id, len(sequence.tokens))
        except (LlamaError, MemoryError):  # the prompt is read again if it is needed
            pass

    def set_mark(self, sequence: CheckpointedSequence) -> None:
        """Make one more checkpoint, before guesses. It replaces the last one of these."""
        sequence.mark = None
        if self._is_recurrent and sequence.tokens:
            state = self._context.stateSeqGetData(None, None, sequence.id, PARTIAL_ONLY)
            sequence.mark = len(sequence.tokens), state

    def best(self, sequence: CheckpointedSequence, most: int) -> int:
        """Return how many tokens are before the last checkpoint with at most `most`; 0 if there is none."""
        found = None if sequence.checkpoints is None else sequence.checkpoints.best(most)
        return 0 if found is None else found[0]

    def restore(self, donor: CheckpointedSequence, number: SeqId, length: int) -> bool:
        """Restore a checkpoint with `length` tokens before it. False if there is none, or there are too few cells.

        The rest of the memory must have these tokens. After a failure, the sequence may be empty.
        """
        state = None if donor.checkpoints is None else dict(donor.checkpoints.items()).get(length)
        if state is None and donor.mark is not None and donor.mark[0] == length:
            state = donor.mark[1]
        if state is None:
            return False
        memory = self._memory
        try:
            self._context.stateSeqSetData(state, None, number, PARTIAL_ONLY)
        except StateError:
            return False
        last = last_position(donor.media, length)
        return memory.seqRemove(number, donor.position(length)) and memory.seqPosMax(number) == last


def _size(sequences: Iterable[CheckpointedSequence]) -> int:
    """The bytes of all checkpoints. Sequences that share a beginning share those of it."""
    states = {id(state): len(state) for each in sequences for _, state in (each.checkpoints or Checkpoints()).items()}
    return sum(states.values())
