"""Samplers: from logits to the next token."""

from __future__ import annotations

from threading import get_ident
from typing import Any, NoReturn

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.callbacks import reraise
from llama_cffi._core.checks import expected, integer, no_such_token
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.large_stack import TRIGGER_ANY_STACK, TRIGGER_STACK_PER_BYTE, on_large_stack
from llama_cffi._core.process import leave_if_ending
from llama_cffi.errors import NativeError, NativeMemoryError
from llama_cffi.sampling.base import SamplerBase
from llama_cffi.sampling.candidates import candidates_of
from llama_cffi.sampling.chain import SamplerChain
from llama_cffi.sampling.logits_source import LogitsSource
from llama_cffi.sampling.makers import WeighingSamplers
from llama_cffi.sampling.picking import PickingSamplers
from llama_cffi.sampling.token_data_array import TokenDataArray
from llama_cffi.sampling.vocab_makers import ReadingSamplers

_NAN = (
    "a logit of this output is NaN, which has no place in an order: the model is damaged, or an adapter, a control "
    "vector or a callback made it so"
)

_SEARCHED = 1 << 20

_MOST_WANTED = 1 << 30  # more than any vocabulary has

_NO_PICK = "no token is picked in the end: end the chain with Sampler.initDist or initGreedy"


class Sampler(PickingSamplers, WeighingSamplers, ReadingSamplers, SamplerChain):
    """Narrows down, reweighs or picks candidates. A chain runs its members in order; one of them must pick.

    A sampler added to a chain belongs to it: it stays usable as long as the chain, which frees it. A sampler serves one
    call at a time, a chain together with its members. One that reads a vocabulary keeps its model alive; freeing that
    model by hand frees the sampler, and the chain that it is in.

    Maps to `llama_sampler`.
    """

    # Use

    def sample(self, ctx: LogitsSource, idx: int = -1) -> Token:
        """Pick a token from the output of entry `idx` of the last batch (-1: of the last output), and accept it.

        Raises IndexError where that entry gave no output; ValueError where no sampler of the chain picks, where a logit
        is NaN, or where a grammar does not allow what was picked; what a sampler written in Python raised.

        Maps to `llama_sampler_sample`.
        """
        try:
            known = ctx._serial == self._checked_for
        except AttributeError:  # it is no context
            known = False
        if not known:
            return self._sample_carefully(ctx, idx)
        # What `_exclusive` does for both, written out: this is every token's way.
        if not self._busy.acquire(False):
            self._raise_busy()
        try:
            if not ctx._busy.acquire(False):
                ctx._raise_busy()
            try:
                self._owner = ctx._owner = get_ident()
                pointer, context = self._pointer, ctx._pointer
                if pointer is None or self._closing:
                    self._raise_closed()
                if context is None or ctx._closing:
                    ctx._raise_closed()
                token: Token = lib.shim_sample(pointer, context, ctx._limits, idx, self._top_n)
            finally:
                ctx._owner = 0
                ctx._busy.release()
        finally:
            self._owner = 0
            self._busy.release()
        return token if token >= 0 else self._no_token(token, ctx, idx)

    def _no_token(self, reason: int, ctx: LogitsSource, idx: int) -> NoReturn:
        leave_if_ending()
        match reason:
            case lib.SHIM_SAMPLE_NO_OUTPUT:
                raise IndexError(ctx._no_output(idx))
            case lib.SHIM_SAMPLE_NAN:
                raise ValueError(_NAN)
            case lib.SHIM_SAMPLE_NO_PICK:
                raise ValueError(_NO_PICK)
        raise NativeMemoryError(f"no memory for {ctx._nVocab} candidates", operation="llama_sampler_sample")

    def _sample_carefully(self, ctx: LogitsSource, idx: int) -> Token:
        """The first time for this sampler and context; and always where single steps need checks between them."""
        if not isinstance(ctx, LogitsSource):
            raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
        if not self._can_pick():
            raise ValueError(_NO_PICK)
        with self._exclusive(home=False), ctx._exclusive() as context:
            careful = self._check_fit(ctx)
            if self._is_late():
                self._rebuild_with_context(ctx.nCtx, ctx._nVocab)
            if careful:
                if not (ctx._limits.rows and ctx._limits.logits) or lib.llama_get_logits_ith(context, idx) == ffi.NULL:
                    raise IndexError(ctx._no_output(idx))
                return self._pick(self._c, context, idx, ctx._nVocab)
            self._top_n = self._can_narrow()
            if self._chain is None:
                self._checked_for = ctx._serial
            token: Token = lib.shim_sample(self._c, context, ctx._limits, idx, self._top_n)
        return token if token >= 0 else self._no_token(token, ctx, idx)

    def _can_pick(self) -> bool:
        return any(member._traits.picks for member in self._leaves())

    def _can_narrow(self) -> int:
        """How many of the largest logits are all that can be picked; 0: it may be any.

        A penalty that only lowers logits brings at most as many others up as there are tokens that it lowers.
        """
        lowered = 0
        for member in self._leaves():
            match member._traits.recipe:
                case ("llama_sampler_init_greedy",):
                    return lowered + 1
                case ("llama_sampler_init_top_k", int(k)) if k > 0:
                    return min(lowered + k, _MOST_WANTED)
                case ("llama_sampler_init_penalties", int(n), float(repeat), float(freq), float(present)):
                    if n < 0 or repeat < 1 or freq < 0 or present < 0:
                        return 0
                    lowered = min(lowered + n, _MOST_WANTED)
                case _:
                    return 0
        return 0

    def _check_fit(self, ctx: LogitsSource) -> bool:
        """Refuse a context that the sampler was not made for. Whether to sample step by step, with checks between."""
        home = self._root()._context_ref
        if home is not None and home() is not ctx:
            raise ValueError("this chain was given to another context, for which it works from now on: use its clone()")
        careful = ctx._samples  # it may have picked a token already
        for member in self._leaves():
            traits = member._traits
            if traits.n_vocab and traits.n_vocab != ctx._nVocab:
                raise ValueError(
                    f"a sampler here ({traits.recipe[0]}) was made for a vocabulary of {traits.n_vocab} tokens, but "
                    f"this model has {ctx._nVocab}: make it with this model's vocab"
                )
            careful |= traits.grammar or member._custom is not None
        return careful

    def _pick(self, pointer: Any, context: Any, idx: int, n_vocab: int) -> Token:
        """What `llama_sampler_sample` does. In C, a pick that a grammar refuses would end the context."""
        sampled = has("llama_get_sampled_token_ith")
        token: Token = lib.llama_get_sampled_token_ith(context, idx) if sampled else TOKEN_NULL
        if token == TOKEN_NULL:
            candidates = candidates_of(context, idx, n_vocab)
            if candidates._has_nan():
                raise ValueError(_NAN)
            lib.llama_sampler_apply(pointer, candidates._c)
            reraise()
            candidates._sync_from_c()
            if candidates.selected < 0:
                raise ValueError(f"{_NO_PICK}, or set candidates.selected in the apply method of your own")
            token = candidates[candidates.selected].id
            if not 0 <= token < n_vocab:
                raise ValueError(f"the token that was picked, {token}, is not in the vocabulary of {n_vocab} tokens")
        self._accept(pointer, token)
        return token

    def apply(self, cand: TokenDataArray) -> None:
        """Narrow down, reweigh or pick from candidates, in place.

        Raises ValueError for a logit that is NaN, IndexError for a token outside of the vocabulary.

        Maps to `llama_sampler_apply`.
        """
        if not isinstance(cand, TokenDataArray):
            raise TypeError(f"cand is a TokenDataArray, not {type(cand).__name__}: TokenDataArray.fromLogits makes one")
        if self._context_ref is not None:
            raise ValueError("this chain was given to a context, which runs part of it: apply its clone()")
        cand._check_logits()
        for member in self._leaves():
            if member._traits.reads_ids:
                cand._check_ids(member._traits.n_vocab)
        with self._exclusive() as pointer, cand._exclusive() as struct:
            lib.llama_sampler_apply(pointer, struct)
            cand._sync_from_c()
            reraise()

    def accept(self, token: Token) -> None:
        """Tell the sampler which token came next, for those that keep count.

        Raises IndexError for a token outside of the vocabulary, ValueError for one that a grammar does not allow: then
        no sampler has accepted it.

        Maps to `llama_sampler_accept`.
        """
        if not 0 <= integer(token, -(1 << 31), (1 << 31) - 1, "token"):
            raise ValueError(f"{token} is no token")
        home = self._root()._context_ref
        context = home() if home is not None else None
        sizes = [member._traits.n_vocab for member in self._leaves() if member._traits.n_vocab]
        n_vocab = min(sizes + ([context._nVocab] if context is not None else []), default=1 << 31)
        if token >= n_vocab:
            raise no_such_token(token, n_vocab)
        with self._exclusive() as pointer:
            self._accept(pointer, token)
            for member in self._leaves():
                if member._needs_context:
                    member._history.append(token)

    def _accept(self, pointer: Any, token: Token) -> None:
        """Have the C sampler accept a token, unless a grammar in it refuses: then C would throw halfway through."""

        def tell() -> None:
            for member in self._leaves():
                if member._traits.grammar and _refuses(member._c, member._traits.lazy, token):
                    raise ValueError(
                        f"the grammar does not allow token {token} here. Put the grammar at the beginning of the "
                        "chain, give it only tokens that came after the prompt, and stop at the end-of-generation token"
                    )
            lib.llama_sampler_accept(pointer, token)
            reraise()

        searching = [member for member in self._leaves() if member._traits.searches]
        sizes = [member._accepted + _text_size(member, token) for member in searching]
        most = max(sizes, default=0)
        if most > _SEARCHED:
            raise ValueError(
                f"a grammar of this sampler would search {most} bytes of text for what triggers it, and the limit is "
                f"{_SEARCHED}: reset() it, or trigger it by triggerTokens"
            )
        if most <= TRIGGER_ANY_STACK:
            tell()
        else:
            on_large_stack(tell, most * TRIGGER_STACK_PER_BYTE)
        for member, size in zip(searching, sizes, strict=True):
            member._accepted = size

    def reset(self) -> None:
        """Forget what was accepted.

        Maps to `llama_sampler_reset`.
        """
        with self._exclusive() as pointer:

            def reset() -> None:
                lib.llama_sampler_reset(pointer)
                reraise()

            stack = max((member._traits.stack for member in self._leaves()), default=0)
            for member in self._leaves():
                member._history.clear()
                member._accepted = 0
            if stack:
                on_large_stack(reset, stack)
            else:
                reset()

    def copy(self, dst: Sampler) -> None:
        """Give another sampler, made in the same way, the state of this one.

        Raises ValueError for one that was not made in the same way, TypeError for samplers written in Python.

        Maps to `llama_sampler_copy`.
        """
        if not isinstance(dst, Sampler):
            raise expected("a Sampler", dst)
        if any(member._custom is not None for member in self._leaves()):
            raise TypeError("samplers written in Python cannot be copied into others: use clone()")
        if self._shape() != dst._shape():
            raise ValueError("copy is for samplers made in the same way, with equal parameters: use clone()")
        if self._root() is dst._root():
            raise ValueError("copy is for samplers that are not in the same chain: use clone()")
        with self._exclusive() as source, dst._exclusive() as target:
            lib.llama_sampler_copy(source, target)
            for mine, other in zip(self._leaves(), dst._leaves(), strict=True):
                other._history, other._accepted = list(mine._history), mine._accepted
                if other._traits.adaptive:
                    other._forget_pick()

    def _shape(self) -> tuple[object, ...]:
        if self._members is None:
            return self._traits.recipe, self._needs_context
        return "chain", *(member._shape() for member in self._members if isinstance(member, Sampler))

    # What waits for the context's size

    def _is_late(self) -> bool:
        return any(member._needs_context for member in self._leaves())

    def _rebuild_with_context(self, n_ctx: int, n_vocab: int, everything: bool = False) -> None:
        """Replace what waited for the context by what it should have been, at its place in the chain."""
        self._checked_for = -1
        if self._members is None:
            if self._deferred_init is not None and (self._needs_context or (everything and has("llama_sampler_copy"))):
                self._replace(self._deferred_init(n_ctx, n_vocab))
            return
        for _ in self._members:
            lib.llama_sampler_chain_remove(self._c, 0)
        for member in self._members:
            assert isinstance(member, Sampler)
            member._rebuild_with_context(n_ctx, n_vocab, everything)
            lib.llama_sampler_chain_add(self._c, member._c)

    def _replace(self, pointer: Any) -> None:
        old, self._pointer = self._pointer, pointer
        if self._needs_context:
            for token in self._history:
                lib.llama_sampler_accept(pointer, token)
        else:
            lib.llama_sampler_copy(old, pointer)
        self._deferred_init, self._needs_context, self._history = None, False, []
        self._register_address(pointer)
        lib.llama_sampler_free(old)

    # About it

    def getSeed(self) -> int:
        """The seed in use, also where DEFAULT_SEED asked for a random one; DEFAULT_SEED for samplers without chance.

        Of a chain: the seed of the last member that has one. llama.cpp does not tell that of xtc and adaptive-p.

        Maps to `llama_sampler_get_seed`.
        """
        with self._exclusive() as pointer:
            return lib.llama_sampler_get_seed(pointer)


def _text_size(member: SamplerBase, token: Token) -> int:
    """How many bytes of text a token adds for a sampler that was made for a model's vocabulary."""
    model = member._parent
    assert model is not None
    return len(model.vocab._piece(token, special=True))  # type: ignore[attr-defined]


def _refuses(grammar: Any, lazy: bool, token: Token) -> bool:
    """Whether a grammar would throw when it is given a token."""
    if not lazy:
        one = TokenDataArray([(token, 0.0)])
        lib.llama_sampler_apply(grammar, one._c)
        return one[0].logit < 0
    trial = lib.llama_sampler_clone(grammar)  # a trigger may start it anywhere in the text so far
    try:
        lib.llama_sampler_accept(trial, token)
    except NativeError:
        return True
    finally:
        lib.llama_sampler_free(trial)
    return False
