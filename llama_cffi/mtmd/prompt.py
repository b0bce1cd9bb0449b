"""Prompts with images and sounds for `Generation`, `ChatSession` and `Engine`: tokenized, and encoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llama_cffi._core.base_types import Pos, SeqId
from llama_cffi._core.checks import expected
from llama_cffi._generated import enums
from llama_cffi.context.context import Context
from llama_cffi.generation.prefix import MediaTokens, Medium, MediumKey
from llama_cffi.model.model import Model
from llama_cffi.mtmd.bitmap import Bitmap
from llama_cffi.mtmd.chunks import Chunk, Chunks
from llama_cffi.mtmd.evaluation import decode_media, require_batch
from llama_cffi.mtmd.inputs import as_bitmaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read_prompt(projector: Any, prompt: Any, media: Any, limits: Any, model: Model) -> Any:
    """Return the tokens of a prompt: of a str with a marker for each of `media`, or of chunks that have theirs.

    `limits` are those of a context of the model. Tokens are returned as they are, if there are no media.
    """
    require_model(projector, model)
    bitmaps = as_bitmaps(projector, media)
    if isinstance(prompt, Chunks):
        if bitmaps:
            raise ValueError("media must be empty for chunks, which have theirs: Mtmd.Context.tokenize(text, media)")
        tokens = media_tokens(projector, prompt)
    elif isinstance(prompt, str):
        tokens = tokenize_media(projector, prompt, bitmaps, special=False)
    elif bitmaps:
        hint = "Mtmd.Context.tokenize(text, media, parseSpecial=True) makes chunks with control tokens"
        raise expected("a str or an Mtmd.Chunks", prompt, hint, "prompt")
    else:
        return prompt
    require_fit(tokens, limits)
    return tokens if tokens.media else list(tokens)


def require_model(projector: Any, model: Model) -> None:
    """Raise ValueError if a projector belongs to another model, ClosedError if it is closed."""
    projector._c  # noqa: B018  raises
    if projector._model is not model:
        raise ValueError("mtmd belongs to another model: make it for the Model of the context")


def tokenize_media(projector: Any, text: str, bitmaps: Sequence[Bitmap], special: bool) -> MediaTokens:
    """Tokenize a text with a marker for each bitmap. With `special`, control tokens are recognized in it."""
    chunks = projector._tokenize(text, bitmaps, True, special, wait=True)
    return media_tokens(projector, chunks, Counter([bitmap.id for bitmap in bitmaps]))


def media_tokens(projector: Any, chunks: Chunks, uses: Counter[str | None] | None = None) -> MediaTokens:
    """Return chunks as tokens. `uses` says how often each bitmap is in the prompt, by id."""
    made, items = MediaTokens(), list(chunks)
    media = [chunk for chunk in items if chunk.kind != enums.MtmdChunkKind.TEXT]
    parts, seen = Counter([chunk.id for chunk in media]), Counter[str | None]()
    for chunk in items:
        if chunk.kind == enums.MtmdChunkKind.TEXT:
            made += chunk.tokens or []
            continue
        id = chunk.id
        # Large images become several chunks with the same id: their number tells these apart.
        part = seen[id] % max(parts[id] // uses[id], 1) if uses is not None and uses[id] else seen[id]
        seen[id] += 1
        key = (projector._identity, id, part, chunk.nTokens, chunk.nPos) if id else None
        projector._require_chunk(chunk)
        made.add(ChunkMedium(projector, chunk, key))
    if not made:
        raise ValueError("the prompt is empty, and this model has no BOS token to start from: pass at least a word")
    if made[-1] < 0:
        raise ValueError("the prompt ends with an image or a sound, and a model answers to text: add some after it")
    return made


def require_fit(tokens: MediaTokens, limits: Any) -> None:
    """Raise ValueError for media whose tokens all see each other, and that do not fit a batch of the context."""
    for medium in tokens.media.values():
        assert isinstance(medium, ChunkMedium)
        if medium.projector.decodeUseNonCausal(medium.chunk):
            require_batch(medium.n_tokens, min(limits.n_batch, limits.n_ubatch))


class ChunkMedium(Medium):
    """A chunk of a prompt. It keeps the chunk, and the projector that made it."""

    __slots__ = ("chunk", "projector")

    def __init__(self, projector: Any, chunk: Chunk, key: MediumKey | None) -> None:
        super().__init__(key, chunk.nTokens, chunk.nPos)
        self.projector, self.chunk = projector, chunk

    def decode(self, ctx: Context, pos: Pos, seq: SeqId, most: int | None = None) -> None:
        projector, chunk = self.projector, self.chunk
        causal = not projector.decodeUseNonCausal(chunk)
        decode_media(projector, ctx, chunk, None, pos, seq, most, causal, self.key, wait=True)
