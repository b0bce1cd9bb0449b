"""The state of a sequence in a form that fits both memory layouts.

llama.cpp writes a magic number and that of the sequence; then, for each cache of a model, the number of streams, and
for each stream the number of cells and their contents. A sequence is in one stream, so the others have 0 cells. It
refuses a state with another number of streams.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from llama_cffi._core.ffi import lib
from llama_cffi.errors import LlamaError

if TYPE_CHECKING:
    from llama_cffi._core.base_types import SeqId
    from llama_cffi.context.context import Context

_NO_CELLS = bytes(4)


class SequenceState(NamedTuple):
    """The contents of a sequence."""

    magic: bytes  # what a state begins with, before the number of the sequence; older llama.cpp write neither
    caches: list[bytes]  # the cells of each cache


def read(context: Context, seq: SeqId, n_streams: int) -> SequenceState | None:
    """Return the contents of a sequence. None if it has none, or if they have an unknown form."""
    try:
        state = context.stateSeqGetData(seqId=seq)
        window = b""  # one cache for the layers with a window, behind the one for the others
        if context.getModel().nSwa:
            window = context.stateSeqGetData(seqId=seq, flags=lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)
    except LlamaError:
        return None
    header = 8 if state[4:8] == _number(seq) and state[8:12] == _number(n_streams) else 0
    parts = [state[header : len(state) - len(window[header:])], window[header:]]
    place = seq if n_streams > 1 else 0
    caches = [_cells(part, n_streams, place) for part in parts if part]
    return SequenceState(state[:4] if header else b"", caches) if all(caches) else None


def write(context: Context, seq: SeqId, n_streams: int, state: SequenceState) -> None:
    """Restore contents in an empty sequence. Raises StateError if there are too few cells."""
    place = seq if n_streams > 1 else 0
    parts = [state.magic + _number(seq) if state.magic else b""]
    for cells in state.caches:
        parts += [_number(n_streams), _NO_CELLS * place, cells, _NO_CELLS * (n_streams - 1 - place)]
    context.stateSeqSetData(b"".join(parts), destSeqId=seq)


def _cells(cache: bytes, n_streams: int, place: int) -> bytes:
    """The part of one stream. Empty if the cache has another form."""
    start, end = 4 + 4 * place, len(cache) - 4 * (n_streams - 1 - place)
    known = cache[:4] == _number(n_streams) and not any(cache[4:start]) and not any(cache[end:])
    return cache[start:end] if known and any(cache[start : start + 4]) else b""


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
