"""Decoding and sampling token by token, and saved states: the lower methods of `Llama`."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import Token
from llama_cffi._core.ownership import hold
from llama_cffi.compat.base import LlamaBase
from llama_cffi.compat.memory import BaseLlamaCache, LlamaState, ScoredCache
from llama_cffi.compat.sampling import make_sampler
from llama_cffi.compat.unsupported import unsupported
from llama_cffi.embedding.packing import numpy_for
from llama_cffi.errors import BusyError, LlamaError, StateError
from llama_cffi.generation.generation import _require_context
from llama_cffi.generation.prefix import common_length
from llama_cffi.generation.token_cache import TokenCache, context_capacity

if TYPE_CHECKING:
    from typing import NoReturn

    from llama_cffi.generation.speculation import SpeculativeDecoder
    from llama_cffi.sampling.sampler import Sampler


class DecodingMethods(LlamaBase):
    """What a `Llama` does with tokens."""

    _cache: TokenCache | None = None
    _guesses: SpeculativeDecoder | None = None  # of the text that is written

    @property
    def _kept(self) -> TokenCache:
        """What the KV cache holds."""
        if self._cache is None:
            _require_context(self.context)
            if self._model.hasEncoder:
                raise unsupported("models with an encoder", "Generation runs them")
            self._cache = ScoredCache(self.context) if self._logits_all else TokenCache(self.context)
        return self._cache

    # State

    @property
    def n_tokens(self) -> int:
        """The number of tokens in the KV cache."""
        return 0 if self._cache is None else len(self._cache) if self._guesses is None else self._guesses.n_kept

    @property
    def input_ids(self) -> Any:
        """The tokens in the KV cache, as an array of int32."""
        return self._ids()

    @property
    def eval_tokens(self) -> deque[Token]:
        """The tokens in the KV cache."""
        return deque(self._kept.tokens, maxlen=self.n_ctx())

    @property
    def scores(self) -> Any:
        """The logits of all tokens: float32, shape (n_ctx, n_vocab). Needs `logits_all=True`."""
        return self._all_scores()

    @property
    def eval_logits(self) -> deque[list[float]]:
        """The logits of the tokens in the KV cache; without `logits_all=True`, of the last one."""
        if self._logits_all:
            return deque(self._all_scores()[: self.n_tokens].tolist(), maxlen=self.n_ctx())
        return deque([list(self.context.getLogitsIth(-1))] if self.n_tokens else [], maxlen=1)

    def _all_scores(self) -> Any:
        if not isinstance(self._kept, ScoredCache):
            raise ValueError("scores needs the logits of every token: pass logits_all=True to Llama()")
        return self._kept.scores

    def _ids(self) -> Any:
        np = numpy_for("logits_processor, stopping_criteria and save_state")
        tokens, guesses = self._kept.contents.tokens, self._guesses
        return np.asarray(tokens if guesses is None else tokens[: guesses.n_kept], np.intc)

    def reset(self) -> None:
        """Remove all tokens from the KV cache."""
        self._kept.clear()

    def set_cache(self, cache: BaseLlamaCache | None) -> None:
        """Keep the states of texts in a `LlamaRAMCache`. Without, a prompt reuses the prefix of the text before it."""
        self.cache = cache

    def save_state(self) -> LlamaState:
        """Copy the state: the KV cache, its tokens, and with `logits_all` their logits."""
        state, ids = self.context.stateGetData(), self._ids()
        scores = self._all_scores()[: len(ids)].copy() if self._logits_all else None
        return LlamaState(ids, scores, len(ids), state, len(state), self._seed)

    def load_state(self, state: LlamaState) -> None:
        """Restore a state of a `Llama` with the same model and parameters. Raises StateError for another one."""
        tokens = self._restore(state)
        # A state has no logits: the last token is decoded again, or `sample` would read those of an earlier text.
        if tokens:
            with self._decoding():
                self._kept.decode(tokens[self._kept.adapt_to(tokens) :])

    def _restore(self, state: LlamaState) -> list[Token]:
        """Restore all of a state but the logits of its last token. Returns its tokens."""
        tokens = [int(token) for token in state.input_ids[: state.n_tokens]]
        self.context.stateSetData(state.llama_state)
        if not self._kept.adopt(tokens, len(tokens)):
            self._kept.clear()
            raise StateError(f"the state does not hold the {len(tokens)} tokens that it names: save it again")
        if self._logits_all and state.scores is not None:
            self._all_scores()[: len(tokens)] = state.scores
        self._seed = state.seed
        return tokens

    # Decoding and sampling

    def eval(self, tokens: Sequence[Token]) -> None:
        """Decode tokens after those in the KV cache."""
        with self._decoding():
            self._kept.decode(list(tokens))

    def sample(
        self,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_eta: float = 0.1,
        mirostat_tau: float = 5.0,
        penalize_nl: bool = True,
        logits_processor: Any = None,
        grammar: Any = None,
        idx: int | None = None,
    ) -> Token:
        """Pick a token from the logits of the last decode, or from those of token `idx` in the last batch."""
        options = {name: value for name, value in locals().items() if name not in ("self", "idx")}
        with self._sampler(options) as sampler, self._decoding():
            return sampler.sample(self.context, -1 if idx is None else idx - self.n_tokens)

    def generate(
        self,
        tokens: Sequence[Token],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        penalize_nl: bool = True,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        grammar: Any = None,
    ) -> Generator[Token, Sequence[Token] | None, None]:
        """Yield tokens after a prompt, without end. `send` takes tokens that follow the one it returned.

        With `reset` False, `tokens` follow those in the KV cache. A text that fills the context window raises
        ContextFullError.
        """
        options = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "tokens", "reset", "stopping_criteria")
        }
        with self._sampler(options) as sampler:
            yield from self._tokens(list(tokens), sampler, stopping_criteria, reset)

    def _sampler(self, options: dict[str, Any]) -> Sampler:
        return make_sampler(self._model.vocab, self._seed, self.last_n_tokens_size, self._ids, options)

    def _decoding(self) -> Any:
        """Hold the context from a decode until its outputs are read."""
        lock = self._kept.decode_lock
        return hold(partial(lock.acquire, False), lock.release, _raise_busy)  # a lambda could be interrupted inside

    def _tokens(
        self, tokens: list[Token], sampler: Sampler, criteria: Any = None, reset: bool = True
    ) -> Generator[Token, Sequence[Token] | None, None]:
        """Decode a prompt, and yield a token after it again and again, until one of the criteria is met."""
        kept, owner, capacity = self._kept, object(), context_capacity(self.context) or self.n_ctx()
        sampler.reset()
        self._guesses = guesses = self._speculate(kept)

        def pick(index: int) -> Any:
            return self._pick(sampler, criteria, index)

        try:
            with self._decoding():
                self._load_cached(tokens)
                kept.claim(owner)
                rest = tokens[kept.adapt_to(tokens) :] if reset else tokens
                kept.decode(rest)
                if guesses is not None:
                    guesses.begin(kept.contents.tokens)
                token = pick(-1)
            while token is not None:
                more = yield token
                with self._decoding():
                    if more and guesses is not None:  # the guesses do not know them
                        guesses.finish(owner)
                        self._guesses = guesses = None
                    if guesses is not None:
                        token = guesses.next(token, owner, lambda: max(capacity - len(kept) - 1, 0), pick)
                    else:
                        kept.push(token, owner)
                        if more:
                            kept.decode(list(more))
                        token = pick(-1)
        finally:
            if guesses is not None:
                self._end_guesses(guesses, owner)

    def _speculate(self, kept: TokenCache) -> SpeculativeDecoder | None:
        """Begin to guess, if `draft_model` says so. With `logits_all`, each token is decoded alone."""
        if self.draft_model is None or self._logits_all:
            return None
        from llama_cffi.generation.speculation import SpeculativeDecoder

        return SpeculativeDecoder(self.draft_model._speculation, self.context, kept)

    def _end_guesses(self, guesses: SpeculativeDecoder, owner: object) -> None:
        if self._guesses is guesses:
            self._guesses = None
        try:
            with self._decoding():
                guesses.finish(owner)
        except LlamaError:  # the context is busy or closed; the next prompt removes the guesses
            pass

    def _pick(self, sampler: Sampler, criteria: Any, index: int) -> Token | None:
        """Sample a token from an output; None if the criteria end the text before it."""
        if criteria is not None:
            logits = numpy_for("stopping_criteria").array(self.context.getLogitsIth(index))
            ids = self._ids()
            if criteria(ids, logits):
                return None
        return sampler.sample(self.context, index)

    def _load_cached(self, tokens: list[Token]) -> None:
        """Load the state from the cache that shares more of the prompt than the KV cache does."""
        if self.cache is None or tokens not in self.cache:
            return
        state, seed = self.cache[tokens], self._seed
        known = [int(token) for token in state.input_ids]
        if common_length(known, tokens) > common_length(self._kept.contents.tokens, tokens):
            self._restore(state)
            self._seed = seed

    def _remember(self) -> None:
        """Put the state into the cache of `set_cache`, at the end of a text."""
        if self.cache is not None:
            self.cache[self._kept.tokens] = self.save_state()

    # Helpers

    @staticmethod
    def logits_to_logprobs(logits: Any, axis: int = -1) -> Any:
        """Return the log-probabilities of logits, as an array."""
        np = numpy_for("logits_to_logprobs")
        values = np.asarray(logits, np.single)
        shifted = values - values.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))

    @staticmethod
    def longest_token_prefix(a: Sequence[Token], b: Sequence[Token]) -> int:
        """Return how many tokens two lists share at their beginning."""
        return common_length(list(a), list(b))


def _raise_busy() -> NoReturn:
    raise BusyError("another thread computes with this Llama: make one for each thread, or use an Engine")
