"""Decodes the images and sounds of requests, one at a time between the batches of an engine."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llama_cffi.generation.prefix import PlacedMedium

if TYPE_CHECKING:
    from llama_cffi.context.context import Context
    from llama_cffi.engine.cell_pool import CellPool
    from llama_cffi.engine.job import Job
    from llama_cffi.engine.stream_pool import StreamPool


def decode_next(context: Context, cells: CellPool | StreamPool, job: Job, most: int) -> None:
    """Encode and decode the image or sound that a job has next, in batches of at most `most` tokens.

    If that fails, the sequence is as before, or empty.
    """
    sequence, media, memory = job.sequence, job.media, context.getMemory()
    assert sequence is not None and media is not None
    start = len(sequence.tokens)
    medium, position = media[job.tokens[start]], sequence.position(start)
    try:
        medium.decode(context, position, sequence.id, most)
    except BaseException:
        if not context.closed and not (start and memory.seqRemove(sequence.id, position)):
            cells.empty(sequence)
        raise
    cells.copying = False
    last = memory.seqPosMax(sequence.id)
    cells.grow(sequence, array("i", medium.cells))
    sequence.media = [*sequence.media, PlacedMedium(start, medium.n_tokens, medium.n_pos, last, medium.key)]
