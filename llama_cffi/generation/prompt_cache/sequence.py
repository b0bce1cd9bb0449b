"""A prompt cache on disk for one sequence of a context, as `Generation` and `ChatSession` use it."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llama_cffi.context import sequence_state
from llama_cffi.errors import LlamaError, StateError
from llama_cffi.generation.prompt_cache.cache import PromptCache
from llama_cffi.generation.prompt_cache.identity import Identity
from llama_cffi.generation.token_cache import context_capacity

if TYPE_CHECKING:
    from llama_cffi._core.arguments import StrPath
    from llama_cffi._core.base_types import SeqId, Token
    from llama_cffi.context.context import Context
    from llama_cffi.generation.token_cache import TokenCache


class StoredSequence:
    """Reads the prefix of a prompt into a sequence, and has the prompt written when it is decoded.

    The caller holds the right to decode.
    """

    def __init__(self, cache: PromptCache | StrPath, ctx: Context, tokens: TokenCache, seqId: SeqId) -> None:
        self._cache, self._context, self._tokens, self._seqId = PromptCache._of(cache), ctx, tokens, seqId
        self._identity: Identity | None = None
        self.place = -1  # tokens of the prompt after which the state is to be written

    def restore(self, prompt: list[Token], reused: int) -> int:
        """Read a prefix that is longer than the `reused` tokens of the sequence. Returns its length, 0 for none."""
        ctx, cache = self._context, self._cache
        self._identity, self.place = None, -1
        if ctx._steered or not ctx._limits.causal or ctx.getModel().hasEncoder:
            return 0
        adapters = [(adapter._source, scale) for adapter, scale in ctx._adapters.items() if scale]
        self._identity = Identity(ctx, adapters)
        cache._learn(self._identity)
        length = self._read(self._identity, array("i", prompt), reused)
        self.place = cache._place(self._identity, ctx, array("i", prompt), len(self._tokens))
        return length

    def _read(self, identity: Identity, prompt: array[int], reused: int) -> int:
        ctx, cache, tokens = self._context, self._cache, self._tokens
        if ctx.getMemory()._copies:
            return 0
        entry, _ = cache._find(identity, prompt, reused, context_capacity(ctx))
        data = None if entry is None else cache._read(entry, self._seqId, sequence_state.n_streams(ctx))
        if entry is None or data is None:
            return 0
        try:
            ctx.stateSeqSetData(data, None, self._seqId)
        except StateError:  # other sequences use the cells
            tokens.clear()
            return 0
        if not tokens.adopt(entry.tokens.tolist(), len(entry.tokens)):
            tokens.clear()
            return 0
        length = tokens.adapt_to(prompt.tolist())
        cache._note_use(length)
        return length

    def save(self, prompt: list[Token]) -> None:
        """Have the beginning of a prompt written, if the sequence holds just that now. Call it after a decode."""
        self._context.getMemory()._copies = False
        if self._identity is not None and len(self._tokens) == self.place:
            held, _ = self._tokens.saveable()
            if held != prompt[: self.place]:
                return
            try:
                self._cache._offer(self._identity, self._context, self._seqId, array("i", held))
            except LlamaError:  # the context is busy or closed
                pass
