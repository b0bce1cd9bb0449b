"""Decodes chunks in a context: texts in batches, media by llama.cpp's helper, with the checks of `Context.decode`."""

from __future__ import annotations

from llama_cffi._core.arguments import read_buffer
from llama_cffi._core.base_types import Pos, SeqId
from llama_cffi._core.callbacks import reraise
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import reading
from llama_cffi._core.ownership import exclusive, exclusive_waiting
from llama_cffi.context.batch import Batch
from llama_cffi.context.batch_errors import unknown_position
from llama_cffi.context.context import Context
from llama_cffi.generation.prefix import MediumKey
from llama_cffi.mtmd.base import MtmdBase
from llama_cffi.mtmd.chunks import Chunk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_LAST_POSITION = 1 << 30


def decode_text(
    mtmd: MtmdBase, ctx: Context, chunk: Chunk, nPast: Pos, seqId: SeqId, nBatch: int | None, logits: bool
) -> Pos:
    """Decode the tokens of a text in batches. Returns the position after them."""
    most = _checked(mtmd, ctx, nPast, seqId, nBatch)
    tokens = chunk.tokens or []
    for start in range(0, len(tokens), most):
        part = tokens[start : start + most]
        last = start + most >= len(tokens)
        batch = Batch.init(len(part))
        batch.extend(part, nPast + start, (seqId,), output="last" if last and logits else "none")
        ctx.decode(batch)
    return nPast + len(tokens)


def decode_media(
    mtmd: MtmdBase,
    ctx: Context,
    chunk: Chunk,
    embd: Any,
    nPast: Pos,
    seqId: SeqId,
    nBatch: int | None,
    causal: bool,
    key: MediumKey | None = None,
    wait: bool = False,
) -> Pos:
    """Decode an image or a sound, with its embeddings, or encode it first. Returns the position after it.

    Without `causal`, all tokens of the chunk see each other. With `key`, the projector keeps the embeddings under it.
    With `wait`, calls of other threads on the projector are waited for.
    """
    most = _checked(mtmd, ctx, nPast, seqId, nBatch)
    limits, n = ctx._limits, chunk.nTokens
    if not limits.decodes:
        raise ValueError("this context has no KV cache to decode into: use a model that generates text")
    if not causal:
        require_batch(n, min(most, limits.n_ubatch))
    last = nPast + chunk.nPos - 1
    if limits.n_pos and last >= limits.n_pos:
        raise unknown_position(last, limits)
    array = None
    if embd is not None:
        array, size = read_buffer(embd, "float", None, "encodedEmbd", "its length")
        if size != n * mtmd._nEmbd:
            raise ValueError(
                f"encodedEmbd must have {n} x {mtmd._nEmbd} floats for this chunk, got {size}: pass what getOutputEmbd "
                "returned for it"
            )
    end = ffi.new("int32_t *", nPast)
    with (exclusive_waiting if wait else exclusive)(mtmd, chunk) as pointer:
        if array is None:
            array = _encoded(mtmd, pointer, chunk, key, n)
        with exclusive(ctx) as context:
            size = min(n, most)
            outputs = size if limits.embeds else 0
            reason = lib.shim_check_size(limits, size, outputs, False, ctx._views.invalidate())
            if not reason and (threads := lib.shim_require_threads(context, size)):
                limits.value, reason = threads, lib.SHIM_BATCH_THREADS
            if not reason:
                limits.rows, limits.reserved = 0, max(limits.reserved, outputs)
                with reading():
                    limits.value = lib.mtmd_helper_decode_image_chunk(
                        pointer, context, chunk._c, array, nPast, seqId, most, end, ffi.NULL, ffi.NULL
                    )
                if limits.value:
                    limits.index, reason = size, lib.SHIM_BATCH_FAILED
    reraise()
    if reason:
        ctx._fail(reason, "mtmd_helper_decode_image_chunk", 1)
    return int(end[0])


def require_batch(n: int, most: int) -> None:
    """Raise ValueError if an image whose tokens all see each other does not fit a batch."""
    if n > most:
        raise ValueError(
            f"nBatch and Context.Params.nUbatch must be at least {n}, the tokens of this chunk, got {most}: all its "
            "tokens see each other"
        )


def _encoded(mtmd: MtmdBase, pointer: Any, chunk: Chunk, key: MediumKey | None, n: int) -> Any:
    """Return the embeddings of a chunk as a C array: those that are kept under the key, or encoded now."""
    kept = mtmd._embeddings.find(key)
    if kept is None:
        mtmd._encode(pointer, chunk._c)
        array = lib.mtmd_get_output_embd(pointer)
        if key is not None:
            mtmd._embeddings.keep(key, bytes(ffi.buffer(array, 4 * n * mtmd._nEmbd)))
        return array
    return ffi.from_buffer("float[]", kept)


def _checked(mtmd: MtmdBase, ctx: Context, nPast: Pos, seqId: SeqId, nBatch: int | None) -> int:
    """Check what all evaluations take. Returns the largest number of tokens in a batch."""
    if not isinstance(ctx, Context):
        raise expected("a Context", ctx, "Context.initFromModel(model) makes one", "ctx")
    if ctx._model is not mtmd._model:
        raise ValueError("the context belongs to another model than the projector: make both for the same Model")
    integer(nPast, 0, _LAST_POSITION, "nPast")
    ctx._check_seq(seqId)
    most = ctx.nBatch
    return most if nBatch is None else integer(nBatch, 1, most, "nBatch", "the context's nBatch")
