"""Samplers: how the next token is picked from the logits."""

from __future__ import annotations

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.callbacks import reraise
from llama_cffi._core.checks import expected, integer, no_such_token, require_integers
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import Owned, atomic, exclusive
from llama_cffi.errors import GrammarError, NativeError
from llama_cffi.sampling.base import Deferred, own_sampler
from llama_cffi.sampling.chain import SamplerChain
from llama_cffi.sampling.logits_source import LogitsSource
from llama_cffi.sampling.makers import SamplerMakers
from llama_cffi.sampling.vocab_makers import VocabSamplerMakers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from llama_cffi.sampling.token_data_array import TokenDataArray

_SEARCH_LIMIT = 1 << 20  # bytes of text that are searched for a trigger pattern

_INFINITE = float("inf")
_TOP_N_LIMIT = 1 << 30  # larger than any vocabulary


class Sampler(SamplerMakers, VocabSamplerMakers, SamplerChain):
    """Drops candidates for the next token, changes their logits, or picks one of them.

    The class methods `init*` make samplers, and `chain` combines them. A chain runs its members in order, and one of
    them must pick. A sampler in a chain belongs to the chain, which frees it; it stays usable until then. A sampler
    serves one call at a time, and so does a chain with all its members. A sampler that reads a vocabulary keeps the
    model alive; freeing the model frees the sampler, and the chain that it is in.

    Maps to `llama_sampler`.
    """

    # Use

    def sample(self, ctx: LogitsSource, idx: int = -1) -> Token:
        """Pick a token from the logits of entry `idx` of the last batch (-1: of the last output), and accept it.

        Raises IndexError if that entry has no output, and ValueError if no sampler of the chain picks, a logit is NaN,
        or a grammar does not allow the pick. Exceptions of a sampler written in Python reach the caller.

        Maps to `llama_sampler_sample`.
        """
        try:
            known = ctx._serial == self._checked_for
        except AttributeError:  # not a context
            known = False
        if not known:
            return self._sample_carefully(ctx, idx)
        with exclusive(self, ctx) as pointer:
            try:
                token: Token = lib.shim_sample(pointer, ctx._pointer, ctx._limits, idx, self._top_n)
            except (TypeError, ValueError):  # also of a sampler in Python
                require_integers(idx=idx)
                raise
        return token if token >= 0 else _no_token(token, ctx, idx)

    def _sample_carefully(self, ctx: LogitsSource, idx: int) -> Token:
        """`sample` for a context that the sampler was not checked for, or whose single steps need checks."""
        if not isinstance(ctx, LogitsSource):
            raise expected("a Context", ctx, "Context.initFromModel(model) makes one")
        idx = integer(idx, -(1 << 31), (1 << 31) - 1, "idx")
        if not self._can_pick():
            from llama_cffi.sampling.no_token import NO_PICK

            raise ValueError(NO_PICK)
        with self._exclusive(with_context=False), ctx._exclusive() as context:
            careful = self._check_fit(ctx)
            if any([member._needs_context for member in self._leaves()]):
                self._rebuild_with_context(ctx.nCtx, ctx._nVocab)
            if careful:
                if not (ctx._limits.rows and ctx._limits.logits) or lib.llama_get_logits_ith(context, idx) == ffi.NULL:
                    raise IndexError(ctx._no_output(idx))
                return self._pick(self._c, context, idx, ctx._nVocab)
            self._top_n = self._find_top_n()
            if self._chain is None:
                self._checked_for = ctx._serial
            token: Token = lib.shim_sample(self._c, context, ctx._limits, idx, self._top_n)
        return token if token >= 0 else _no_token(token, ctx, idx)

    def _can_pick(self) -> bool:
        return any([member._traits.picks for member in self._leaves()])

    def _find_top_n(self) -> int:
        """Return n if only the n largest logits can be picked; 0 if any can.

        A penalty that only lowers logits lets at most as many others move up as there are tokens that it lowers.
        """
        lowered = 0
        for member in self._leaves():
            match member._traits.recipe:
                case ("llama_sampler_init_greedy",):
                    return lowered + 1
                case ("llama_sampler_init_top_k", int(k)) if k > 0:
                    return min(lowered + k, _TOP_N_LIMIT)
                case ("llama_sampler_init_penalties", int(n), float(repeat), float(freq), float(present)):
                    if n < 0 or repeat < 1 or freq < 0 or present < 0:
                        return 0
                    lowered = min(lowered + n, _TOP_N_LIMIT)
                case _:
                    return 0
        return 0

    def _check_fit(self, ctx: LogitsSource) -> bool:
        """Raise ValueError for a context that this sampler does not fit. Return True if single steps need checks."""
        reference = self._root()._context_ref
        if reference is not None and reference() is not ctx:
            raise ValueError("this chain was given to another context and serves only that one: use its clone()")
        careful = ctx._samples  # the context may have picked the token already
        for member in self._leaves():
            traits = member._traits
            if traits.n_vocab and traits.n_vocab != ctx._nVocab:
                raise ValueError(
                    f"a sampler ({traits.recipe[0]}) was made for a vocabulary of {traits.n_vocab} tokens, but this "
                    f"model has {ctx._nVocab}: make it with this model's vocab"
                )
            careful |= traits.grammar or member._custom is not None
        return careful

    def _pick(self, pointer: Any, context: Any, idx: int, n_vocab: int) -> Token:
        """Do what `llama_sampler_sample` does, in steps: in C, a pick that a grammar rejects would end the context."""
        sampled = has("llama_get_sampled_token_ith")
        token: Token = lib.llama_get_sampled_token_ith(context, idx) if sampled else TOKEN_NULL
        if token == TOKEN_NULL:
            from llama_cffi.sampling.candidates import candidates_of

            candidates = candidates_of(context, idx, n_vocab)
            if candidates._has_nan():
                from llama_cffi.sampling.no_token import NAN

                raise ValueError(NAN)
            lib.llama_sampler_apply(pointer, candidates._c)
            reraise()
            candidates._sync_from_c()
            if candidates.selected < 0:
                from llama_cffi.sampling.no_token import NO_PICK

                raise ValueError(f"{NO_PICK}, or set candidates.selected in the apply method of your sampler")
            token = candidates[candidates.selected].id
            if not 0 <= token < n_vocab:
                raise ValueError(f"the picked {no_such_token(token, n_vocab)}")
            if not _has_probability(candidates):
                self._check_grammars(token)  # the likeliest reason
                from llama_cffi.sampling.no_token import NONE_LEFT

                raise ValueError(NONE_LEFT)
        self._accept(pointer, token)
        return token

    def apply(self, cand: TokenDataArray) -> None:
        """Run the sampler on candidates, in place: drop some, change their logits, or pick one.

        Raises ValueError for a logit that is NaN and if no candidate is left to pick, IndexError for a token outside
        of the vocabulary.

        Maps to `llama_sampler_apply`.
        """
        from llama_cffi.sampling.token_data_array import TokenDataArray

        if not isinstance(cand, TokenDataArray):
            raise expected("a TokenDataArray", cand, "TokenDataArray.fromLogits(logits) makes one", "cand")
        if self._context_ref is not None:
            raise ValueError("this chain was given to a context, which runs parts of it: apply its clone()")
        cand._check_logits()
        for member in self._leaves():
            if member._traits.reads_ids:
                cand._check_ids(member._traits.n_vocab)
        with self._exclusive() as pointer, cand._exclusive() as struct:
            lib.llama_sampler_apply(pointer, struct)
            cand._sync_from_c()
            reraise()
        if cand.selected >= 0 and self._can_pick() and not _has_probability(cand):
            from llama_cffi.sampling.no_token import NONE_LEFT

            raise ValueError(NONE_LEFT)

    def accept(self, token: Token) -> None:
        """Tell the sampler which token came next: penalties, grammars and the like depend on it. `sample` does so.

        Raises IndexError for a token outside of the vocabulary, and ValueError for one that a grammar does not allow;
        no sampler of the chain has accepted it then.

        Maps to `llama_sampler_accept`.
        """
        token = integer(token, -(1 << 31), (1 << 31) - 1, "token")
        if token < 0:
            raise ValueError(f"token must not be negative, got {token}")
        context = self._context()
        sizes = [member._traits.n_vocab for member in self._leaves() if member._traits.n_vocab]
        n_vocab = min(sizes + ([context._nVocab] if context is not None else []), default=1 << 31)
        if token >= n_vocab:
            raise no_such_token(token, n_vocab)
        with self._exclusive() as pointer:
            self._accept(pointer, token)
            for member in self._leaves():
                if member._deferred is not None and member._deferred.required:
                    member._deferred.history.append(token)

    def _check_grammars(self, token: Token) -> None:
        for member in self._leaves():
            if member._traits.grammar and _rejects(member._c, member._traits.lazy, token):
                raise ValueError(
                    f"the grammar does not allow token {token} here: put the grammar at the start of the chain, "
                    "accept only tokens that come after the prompt, and stop at the end-of-generation token"
                )

    def _accept(self, pointer: Any, token: Token) -> None:
        """Let the C sampler accept a token, if all of its grammars allow it: otherwise C would throw halfway."""

        def accept() -> None:
            self._check_grammars(token)
            lib.llama_sampler_accept(pointer, token)
            reraise()

        searching = [member for member in self._leaves() if member._traits.searches]
        sizes = [member._text_bytes + member._text_size(token) for member in searching]
        largest = max(sizes, default=0)
        if largest > _SEARCH_LIMIT:
            raise ValueError(
                f"a lazy grammar can search at most {_SEARCH_LIMIT} bytes of text for its trigger, got {largest}: "
                "reset() it, or use triggerTokens"
            )
        if largest:
            _search(accept, largest)
        else:
            accept()
        for member, size in zip(searching, sizes, strict=True):
            member._text_bytes = size

    def _accept_prompt(self, tokens: Sequence[Token]) -> None:
        """Let penalties and DRY see the prompt. Grammars and constraints follow only the text after it."""
        members = [member for member in self._leaves() if member._traits.last_n or member._custom is not None]
        if members:
            from llama_cffi.sampling.prompt import accept_prompt

            accept_prompt(self, members, tokens)

    def reset(self) -> None:
        """Return to the state of a new sampler: forget the accepted tokens.

        Maps to `llama_sampler_reset`.
        """
        with self._exclusive() as pointer:
            for member in self._leaves():
                member._text_bytes = 0
                if member._deferred is not None:
                    member._deferred.history.clear()
            lib.llama_sampler_reset(pointer)
            reraise()

    def copy(self, dst: Sampler) -> None:
        """Copy the state of this sampler to another one, made by the same constructor with equal arguments.

        Raises ValueError for one that was made otherwise, TypeError for samplers written in Python.

        Maps to `llama_sampler_copy`.
        """
        if not isinstance(dst, Sampler):
            raise expected("a Sampler", dst)
        if any([member._custom is not None for member in self._leaves()]):
            raise TypeError("the state of a sampler written in Python cannot be copied: use clone()")
        if self._shape() != dst._shape():
            raise ValueError("dst must be made by the same constructors with equal arguments: use clone()")
        if self._root() is dst._root():
            raise ValueError("dst must not be in the same chain: use clone()")
        with self._exclusive() as source, dst._exclusive() as target:
            lib.llama_sampler_copy(source, target)
            for mine, other in zip(self._leaves(), dst._leaves(), strict=True):
                other._text_bytes = mine._text_bytes
                if mine._deferred is not None and other._deferred is not None:
                    other._deferred.history = list(mine._deferred.history)
                if other._traits.adaptive:
                    other._forget_pick()

    def _shape(self) -> tuple[object, ...]:
        if not self._traits.is_chain:
            return self._traits.recipe, self._needs_context
        return "chain", *(member._shape() for member in self._members if isinstance(member, Sampler))

    # Samplers that depend on the context's size

    def _rebuild_with_context(self, n_ctx: int, n_vocab: int, everything: bool = False) -> None:
        """Replace C samplers that depend on the context by new ones, at their places in the chain.

        `everything` includes those that work without, but not with the model on a device.
        """
        calls: list[tuple[Any, ...]] = []
        self._root()._checked_for = None
        self._plan_rebuild(n_ctx, n_vocab, everything, calls)
        atomic(tuple(calls))  # all at once: between these calls, C and Python own other samplers

    def _plan_rebuild(self, n_ctx: int, n_vocab: int, everything: bool, calls: list[tuple[Any, ...]]) -> Any:
        """Make the new C samplers, and collect the calls that put them in place. Return the C pointer from then on."""
        deferred, pointer = self._deferred, self._c
        self._checked_for = None
        if not self._traits.is_chain:
            if deferred is None or not (deferred.required or (everything and has("llama_sampler_copy"))):
                return pointer
            new = deferred.make(n_ctx, n_vocab)
            calls += self._replacing(new, deferred)
            return new.pointer
        members = [member for member in self._members if isinstance(member, Sampler)]
        assert len(members) == len(self._members)
        taken: list[tuple[Any, ...]] = [(lib.llama_sampler_chain_remove, pointer, 0) for _ in members]
        calls += taken
        for member in members:
            planned = member._plan_rebuild(n_ctx, n_vocab, everything, calls)
            calls.append((lib.llama_sampler_chain_add, pointer, planned))
        return pointer

    def _replacing(self, new: Owned, deferred: Deferred) -> tuple[tuple[Any, ...], ...]:
        """Prepare a new C sampler in the state of the present one, and return the calls that put it in its place."""
        old = self._owned
        assert old is not None
        if new.pointer is None:
            raise NativeError(f"{self._traits.recipe[0]} returned NULL", operation=str(self._traits.recipe[0]))
        if deferred.required:
            lib.shim_accept(new.pointer, ffi.new("int32_t[]", deferred.history), len(deferred.history))
        else:
            lib.llama_sampler_copy(self._c, new.pointer)
        if self._parent is not None:
            new.keep(self._parent._owned)
        if self._custom is not None:
            new.keep(self._custom)
        self._register_address(new.pointer)
        chain = None if self._chain is None else self._chain._owned
        return (
            (old.lend, None),
            (new.lend, chain),
            (setattr, self, "_owned", new),
            (setattr, self, "_pointer", new.pointer),
            (setattr, self, "_deferred", None),
            (old.finish,),
        )

    def getSeed(self) -> int:
        """Return the seed in use, even if DEFAULT_SEED asked for a random one; DEFAULT_SEED if there is no randomness.

        For a chain, this is the seed of the last member that has one. llama.cpp does not report those of XTC and
        adaptive-p.

        Maps to `llama_sampler_get_seed`.
        """
        with self._exclusive() as pointer:
            return lib.llama_sampler_get_seed(pointer)


def _has_probability(candidates: TokenDataArray) -> bool:
    """Return True if the picked candidate has a probability. Where none has one, llama.cpp picks the last."""
    picked = candidates[candidates.selected]
    return picked.p == picked.p and picked.logit > -_INFINITE


def _search(accept: Callable[[], None], size: int) -> None:
    """Call `accept`, which searches `size` bytes of text for a trigger, with a stack that is large enough."""
    from llama_cffi._core.large_stack import TRIGGER_ANY_STACK, TRIGGER_STACK_PER_BYTE, on_large_stack

    if size <= TRIGGER_ANY_STACK:
        accept()
    else:
        on_large_stack(accept, size * TRIGGER_STACK_PER_BYTE)


def _rejects(grammar: Any, lazy: bool, token: Token) -> bool:
    """Return True if a grammar would throw an exception for a token."""
    if not lazy:
        from llama_cffi.sampling.token_data_array import TokenDataArray

        one = TokenDataArray([(token, 0.0)])
        lib.llama_sampler_apply(grammar, one._c)
        return one[0].logit < 0
    trial = own_sampler(lib.llama_sampler_clone, grammar)  # a trigger may start the grammar anywhere in the text so far
    try:
        lib.llama_sampler_accept(trial.pointer, token)
    except GrammarError:
        raise
    except NativeError:
        return True
    return False


def _no_token(reason: int, ctx: LogitsSource, idx: int) -> NoReturn:
    """Raise the error for a `shim_no_token`."""
    from llama_cffi.sampling.no_token import no_token

    no_token(reason, ctx, idx)
