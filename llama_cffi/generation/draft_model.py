"""Speculation with a second, smaller model, which writes a few tokens ahead."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import boolean, expected, integer
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError
from llama_cffi.generation.request_options import INT32_MAX
from llama_cffi.generation.speculation import Guesser, Speculation
from llama_cffi.generation.token_cache import TokenCache, context_capacity
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

    from llama_cffi.vocab.vocab import Vocab

_RATE = 0.7  # guesses that are right, before any is seen


class DraftModel(Speculation):
    """Guesses with a smaller model of the same vocabulary: what it would write itself, without any sampling.

    It keeps a context of its own, which several texts use one after another: what two prompts have in common is read
    once. One generation at a time uses it. Closing it frees the context, not the model.
    """

    __slots__ = ("_adapts", "_context", "_fits", "_model", "_most", "_params")

    _context: Context | None

    def __init__(
        self, model: Model, most: int = 8, *, params: Context.Params | None = None, adapt: bool = True
    ) -> None:
        """At most `most` tokens are guessed at a time.

        `params` are those of the draft's context; its window is that of the text's context by default. `adapt` False
        always guesses `most` tokens; otherwise their number follows what guesses cost and how often they are right.
        """
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one", "model")
        if params is not None and not isinstance(params, Context.Params):
            raise expected("Context.Params", params, "Context.Params() makes one", "params")
        self._model, self._params, self._context = model, params, None
        self._fits: Model | None = None  # a model that has the same vocabulary
        self._most = integer(most, 1, 128, "most")
        self._adapts = boolean(adapt, "adapt")

    def close(self) -> None:
        """Free the draft's context. The next text makes another one."""
        context, self._context = self._context, None
        if context is not None:
            context.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DraftModel({self._model!r}, most={self._most})"

    def _require_engine(self) -> None:
        raise ValueError(
            "a DraftModel serves one text at a time, and an Engine writes many: use a PromptLookup, or a Generation"
        )

    def _start(self, ctx: Context) -> Guesser:
        from llama_cffi.generation.generation import _require_context

        model, target = self._model, ctx.getModel()
        if self._fits is not target:
            _require_same_vocab(model.vocab, target.vocab)
            self._fits = target
        if self._context is None:
            size = context_capacity(ctx) or ctx.nCtx
            self._context = Context.initFromModel(model, self._params or Context.Params(nCtx=size))
        _require_context(self._context)
        return DraftGuesser(self._context, target.vocab.nTokens)


class DraftGuesser(Guesser):
    """Writes on with a model of its own."""

    kinds = (_RATE,)

    __slots__ = ("_cache", "_capacity", "_context", "_n_vocab", "_sampler", "_text")

    def __init__(self, ctx: Context, n_vocab: int) -> None:
        self._context, self._cache, self._n_vocab = ctx, TokenCache(ctx), n_vocab
        capacity = context_capacity(ctx)
        self._capacity = INT32_MAX if capacity is None else capacity
        self._sampler = Sampler.initGreedy()
        self._text: list[Token] = []

    def add(self, tokens: Sequence[Token]) -> None:
        self._text += tokens

    def find(self) -> int:
        return 0 if len(self._text) <= self._capacity else -1

    def guess(self, count: int) -> list[Token]:
        cache, ctx = self._cache, self._context
        count = min(count, self._capacity - len(self._text) + 1)  # the last one is not decoded
        if not cache.decode_lock.acquire(False):
            raise BusyError("another thread uses this DraftModel: make one for each generation")
        try:
            reused = cache.adapt_to(self._text)
            cache.claim(self)
            cache.decode(self._text[reused:])
            guesses = [self._sampler.sample(ctx)]
            while len(guesses) < count:
                cache.push(guesses[-1], self)
                guesses.append(self._sampler.sample(ctx))
        finally:
            cache.decode_lock.release()
        known = [token < self._n_vocab for token in guesses]
        return guesses if all(known) else guesses[: known.index(False)]

    def close(self) -> None:
        self._sampler.close()


def _require_same_vocab(draft: Vocab, target: Vocab) -> None:
    """Raise ValueError unless the tokens that both vocabularies have are the same ones."""
    if draft.type != target.type:
        raise ValueError(
            f"the draft model's vocabulary is of type {draft.type.name}, that of the model {target.type.name}: take a "
            "draft of the same family"
        )
    count = min(draft.nTokens, target.nTokens)
    for token in range(count):
        if draft.getText(token) != target.getText(token):
            raise ValueError(
                f"token {token} is {draft.getText(token)!r} in the draft model and {target.getText(token)!r} in the "
                "model: take a draft of the same family"
            )
