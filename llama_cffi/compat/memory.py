"""What a `Llama` has computed: the tokens in its KV cache, their logits, and saved states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import Token
from llama_cffi.compat.unsupported import unsupported
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.embedding.packing import numpy_for
from llama_cffi.generation.prefix import common_length
from llama_cffi.generation.token_cache import TokenCache

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ScoredCache(TokenCache):
    """A `TokenCache` that keeps the logits of every token, as `logits_all=True` asks for."""

    __slots__ = ("scores",)

    def __init__(self, ctx: Context) -> None:
        np = numpy_for("logits_all")
        n_vocab = ctx.getModel().vocab.nTokens
        self.scores = np.zeros((ctx.nCtx, n_vocab), np.single)  # takes memory for the rows that are written
        super().__init__(ctx)

    def decode(self, tokens: Sequence[Token], output: bool = True) -> None:
        for start in range(0, len(tokens), self._nBatch):
            piece = tokens[start : start + self._nBatch]
            first = len(self)
            super().decode(piece)
            self.scores[first : first + len(piece)] = self._context.getLogits()

    def push(self, token: Token, owner: object = None) -> None:
        first = len(self)
        super().push(token, owner)
        self.scores[first] = self._context.getLogitsIth(-1)

    def _batch(self, tokens: Sequence[Token], pos: int, output: bool = True) -> Batch:
        batch = Batch.init(len(tokens))
        batch.extend(tokens, pos, (0,), "all")
        return batch


class LlamaState:
    """A saved state: `Llama.save_state` makes it, `Llama.load_state` restores it."""

    def __init__(
        self,
        input_ids: npt.NDArray[np.intc],
        scores: Any,
        n_tokens: int,
        llama_state: bytes,
        llama_state_size: int,
        seed: int,
    ) -> None:
        self.input_ids = input_ids
        self.scores = scores
        self.n_tokens = n_tokens
        self.llama_state = llama_state
        self.llama_state_size = llama_state_size
        self.seed = seed


class BaseLlamaCache(ABC):
    """Saved states by their tokens, for `Llama.set_cache`."""

    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes

    @property
    @abstractmethod
    def cache_size(self) -> int: ...

    @abstractmethod
    def __getitem__(self, key: Sequence[int]) -> LlamaState: ...

    @abstractmethod
    def __contains__(self, key: Sequence[int]) -> bool: ...

    @abstractmethod
    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None: ...


class LlamaRAMCache(BaseLlamaCache):
    """States in memory, at most `capacity_bytes`; the one that was used least recently is evicted.

    Without it, a prompt reuses the prefix that it shares with the text before it.
    """

    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        super().__init__(capacity_bytes)
        self.cache_state: OrderedDict[tuple[int, ...], LlamaState] = OrderedDict()

    @property
    def cache_size(self) -> int:
        """The size of the states in bytes."""
        return sum(state.llama_state_size for state in self.cache_state.values())

    def _best(self, key: Sequence[int]) -> tuple[int, ...] | None:
        """Return the tokens of the state that shares the longest prefix with `key`."""
        wanted = list(key)
        found = max(self.cache_state, key=lambda known: common_length(list(known), wanted), default=None)
        return found if found is not None and common_length(list(found), wanted) else None

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Return the state with the longest common prefix. Raises KeyError if none has one."""
        found = self._best(key)
        if found is None:
            raise KeyError("no state shares a prefix with these tokens")
        self.cache_state.move_to_end(found)
        return self.cache_state[found]

    def __contains__(self, key: Sequence[int]) -> bool:
        return self._best(key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        self.cache_state.pop(tuple(key), None)
        self.cache_state[tuple(key)] = value
        while self.cache_size > self.capacity_bytes and self.cache_state:
            self.cache_state.popitem(last=False)


class LlamaDiskCache:
    """Not supported."""

    def __init__(self, cache_dir: str = ".cache/llama_cache", capacity_bytes: int = 2 << 30) -> None:
        raise unsupported("LlamaDiskCache", "use Context.stateSaveFile or ChatSession.save, or LlamaRAMCache")


LlamaCache = LlamaRAMCache
