"""The state of a sequence in a form that fits both memory layouts.

llama.cpp writes a magic number and that of the sequence; then, for each cache of a model, the number of streams, and
for each stream the number of cells and their contents. A sequence is in one stream, so the others have 0 cells. It
refuses a state with another number of streams.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    caches: list[memoryview]  # the cells of each cache


def n_streams(context: Context) -> int:
    """Return how many streams of cells a context has."""
    return 1 if context.getMemory()._unified else context.nSeqMax


def read(context: Context, seq: SeqId, n_streams: int) -> SequenceState | None:
    """Return a copy of the contents of a sequence. None if it has none, or if they have an unknown form."""
    try:
        state = memoryview(bytearray(context.stateSeqGetSize(seq)))
        context.stateSeqGetData(state, len(state), seq)
        window = 0  # bytes of the cache for the layers with a window, behind the one for the others
        if context.getModel().nSwa:
            window = context.stateSeqGetSize(seq, lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)
    except LlamaError:
        return None
    header = 8 if state[4:8] == _number(seq) and state[8:12] == _number(n_streams) else 0
    middle = len(state) - max(0, window - header)
    place = seq if n_streams > 1 else 0
    caches = [_cells(part, n_streams, place) for part in (state[header:middle], state[middle:]) if part]
    return SequenceState(bytes(state[:4]) if header else b"", caches) if all(map(len, caches)) else None


def write(context: Context, seq: SeqId, n_streams: int, state: SequenceState) -> None:
    """Restore contents in an empty sequence. Raises StateError if there are too few cells."""
    data, caches = blank(seq, n_streams, state.magic, [len(cells) for cells in state.caches])
    for place, cells in zip(caches, state.caches, strict=True):
        place[:] = cells
    context.stateSeqSetData(data, destSeqId=seq)


def blank(seq: SeqId, n_streams: int, magic: bytes, sizes: Sequence[int]) -> tuple[bytearray, list[memoryview]]:
    """Return a state for a sequence, and the places in it where the cells of each cache belong."""
    place = seq if n_streams > 1 else 0
    before, after = _number(n_streams) + _NO_CELLS * place, _NO_CELLS * (n_streams - 1 - place)
    start = magic + _number(seq) if magic else b""
    data = bytearray(len(start) + sum(sizes) + len(sizes) * (len(before) + len(after)))
    view, at, caches = memoryview(data), len(start), []
    view[:at] = start
    for size in sizes:
        view[at : at + len(before)] = before
        at += len(before)
        caches.append(view[at : at + size])
        at += size + len(after)  # which is 0
    return data, caches


def _cells(cache: memoryview, n_streams: int, place: int) -> memoryview:
    """The part of one stream. Empty if the cache has another form."""
    start, end = 4 + 4 * place, len(cache) - 4 * (n_streams - 1 - place)
    known = cache[:4] == _number(n_streams) and not any(cache[4:start]) and not any(cache[end:])
    return cache[start:end] if known and any(cache[start : start + 4]) else cache[:0]


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
