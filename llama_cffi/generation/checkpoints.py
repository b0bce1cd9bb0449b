"""Checkpoints of a sequence: copies of the part of its memory that cannot go back to an earlier token.

A recurrent state is replaced with each token, and a sliding window drops the oldest ones. To go back, all tokens would
be decoded again: after an edit of the conversation, or for a prompt that shares its beginning with the last one. A
checkpoint keeps that part as it was after a number of tokens; the rest of the memory (the attention of hybrid models,
the layers without a window) still has them.
"""

from __future__ import annotations

from collections.abc import Iterable

from llama_cffi._core.base_types import SeqId
from llama_cffi._core.compat import has
from llama_cffi.context.context import Context

PARTIAL_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY

# The limits for one sequence.
MAX_CHECKPOINTS = 8
MAX_BYTES = 512 << 20

BEFORE_END = 8
"""Tokens before the end of a prompt at which a checkpoint is made: the next prompt may differ from there on, because
the marks with which an answer begins (`<|im_start|>assistant`, `<think>`) are not the same in a history."""


STEP = 256
"""The least number of tokens between checkpoints inside a prompt: where other prompts may part from it."""
MIN_NEW = 64
"""Fewer tokens are read again: a prompt with fewer new ones has no checkpoint near its end, unless it is a chat's."""


def places(start: int, parting: int, end: int, n_ubatch: int, chat: bool) -> list[int]:
    """Return where to make checkpoints of a prompt with `end` tokens, of which `start` are decoded.

    At `parting` it parts from an earlier prompt, so later ones may do so too; 0: it does not. The places in between
    stay within `MAX_CHECKPOINTS`, and do not cut parts of `n_ubatch` tokens.
    """
    near_end = end - BEFORE_END
    least = max(STEP, (near_end - start) // (MAX_CHECKPOINTS - 1))
    step = -(-least // n_ubatch) * n_ubatch
    found = set(range(start + step, near_end - STEP // 2, step))
    if parting - start >= MIN_NEW:
        found.add(parting)
    if near_end > start and (chat or near_end - start >= MIN_NEW):
        found.add(near_end)
    return sorted(found)


class Checkpoints:
    """The checkpoints of one sequence, by the number of tokens before them."""

    __slots__ = ("_states", "partings")

    def __init__(self, states: Iterable[tuple[int, bytes]] = ()) -> None:
        """Takes over at most as many checkpoints as the limits allow, the last ones."""
        self._states: dict[int, bytes] = {}  # in ascending order
        self.partings: set[int] = set()  # where prompts parted: these are removed last
        for count, state in sorted(states)[-MAX_CHECKPOINTS:]:
            if self.size + len(state) <= MAX_BYTES:
                self._states[count] = state

    def __len__(self) -> int:
        return len(self._states)

    @property
    def size(self) -> int:
        """Bytes of all checkpoints."""
        return sum(map(len, self._states.values()))

    def add(self, ctx: Context, seq: SeqId, count: int, parting: bool = False) -> None:
        """Make a checkpoint of a sequence that has `count` tokens. One that is too large is left out."""
        self.keep(count - 1)
        if parting:
            self.partings.add(count)
        size = ctx.stateSeqGetSize(seq, PARTIAL_ONLY)
        if size > MAX_BYTES:
            return
        while len(self) >= MAX_CHECKPOINTS or self.size + size > MAX_BYTES:
            self._thin()
        self._states[count] = ctx.stateSeqGetData(None, None, seq, PARTIAL_ONLY)

    def items(self) -> list[tuple[int, bytes]]:
        """Return the number of tokens before each checkpoint, and its state."""
        return list(self._states.items())

    def best(self, most: int) -> tuple[int, bytes] | None:
        """Return the last checkpoint with at most `most` tokens before it: their number, and its state."""
        count = max((count for count in self._states if count <= most), default=0)
        return (count, self._states[count]) if count else None

    def keep(self, most: int) -> None:
        """Remove the checkpoints with more than `most` tokens before them."""
        for count in [count for count in self._states if count > most]:
            del self._states[count]
        self.partings = {count for count in self.partings if count <= most}

    def _thin(self) -> None:
        """Remove the checkpoint that is missed least: the one that leaves the smallest gap."""
        counts = [0, *self._states]
        gaps = {counts[i]: counts[i + 1] - counts[i - 1] for i in range(1, len(counts) - 1)}
        others = [count for count in gaps if count not in self.partings]
        del self._states[min(others or gaps, key=gaps.__getitem__, default=counts[-1])]


def are_useful(ctx: Context) -> bool:
    """Return True if the memory of a context cannot go back by itself, and this llama.cpp can copy that part."""
    model = ctx.getModel()
    if not has("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY") or model.hasEncoder:
        return False
    is_hybrid = has("llama_model_is_hybrid") and model.isHybrid
    return model.isRecurrent or is_hybrid or (model.nSwa > 0 and not ctx._kept[0].swa_full)
