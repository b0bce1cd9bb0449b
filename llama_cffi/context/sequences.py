"""The numbers of sequences and positions that a context accepts."""

from __future__ import annotations

from llama_cffi._core.base_types import SeqId
from llama_cffi._core.checks import integer

# Positions are below this. No model was trained for more, and higher ones would overflow in the batches after.
POSITION_LIMIT = 1 << 30


def check_sequence(seq: SeqId, n_seq_max: int, name: str = "seqId", allow_all: bool = False) -> None:
    """Raise ValueError for a sequence that a context of `n_seq_max` sequences does not have; -1 may stand for all."""
    hint = "raise Context.Params.nSeqMax for more sequences"
    if allow_all:
        integer(seq, -1, n_seq_max - 1, name, f"-1 means all; {hint}")
    else:
        integer(seq, 0, n_seq_max - 1, name, hint)
