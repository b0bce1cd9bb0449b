"""Samplers: from logits to the next token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.structs import SamplerChainParamsFields
from llama_cffi._handle import Handle
from llama_cffi.errors import NativeError
from llama_cffi.tokens import DEFAULT_SEED, Token

if TYPE_CHECKING:
    from llama_cffi.context import Context

_LAST_N_LIMIT = 1 << 20  # llama.cpp allocates a ring of this many tokens


class SamplerChainParams(SamplerChainParamsFields):
    """How to set up a chain of samplers. Maps to `llama_sampler_chain_params`."""

    __slots__ = ()

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_sampler_chain_default_params()


class Sampler(Handle):
    """Narrows down, reweighs or picks candidates. A chain runs its members in order; one of them must pick.

    A sampler added to a chain belongs to it: it stays usable as long as the chain, which frees it.
    Maps to `llama_sampler`.
    """

    _KIND = "sampler"
    ChainParams = SamplerChainParams

    _picks: bool  # whether it selects a token by itself
    _members: list[Sampler] | None  # of a chain, in order; None otherwise
    _chain: Sampler | None  # the chain that owns it
    # Makes the C sampler anew once the context is known, and the tokens accepted until then.
    _late: Callable[[Context], Any] | None
    _history: list[Token]

    @classmethod
    def _make(cls, pointer: Any, operation: str, *, picks: bool = False, parent: Handle | None = None) -> Sampler:
        if pointer == ffi.NULL:
            raise NativeError(f"{operation} made no sampler", operation=operation)
        sampler = cls.__new__(cls)
        sampler._open(pointer, parent)
        sampler._picks = picks
        sampler._members = None
        sampler._chain = None
        sampler._late = None
        sampler._history = []
        return sampler

    # Making

    @classmethod
    def chainInit(cls, params: SamplerChainParams | None = None) -> Sampler:
        """An empty chain, to be filled with `chainAdd`.

        Maps to `llama_sampler_chain_init`.
        """
        chosen = SamplerChainParams() if params is None else params
        if not isinstance(chosen, SamplerChainParams):
            raise TypeError(f"params is a Sampler.ChainParams, not {type(params).__name__}")
        chain = cls._make(lib.llama_sampler_chain_init(chosen._c[0]), "llama_sampler_chain_init")
        chain._members = []
        return chain

    @classmethod
    def initGreedy(cls) -> Sampler:
        """Picks the most likely token.

        Maps to `llama_sampler_init_greedy`.
        """
        return cls._make(lib.llama_sampler_init_greedy(), "llama_sampler_init_greedy", picks=True)

    @classmethod
    def initDist(cls, seed: int = DEFAULT_SEED) -> Sampler:
        """Picks a token by chance, each by its probability. The same seed gives the same picks.

        `seed` is a 32-bit number; DEFAULT_SEED takes a random one.

        Maps to `llama_sampler_init_dist`.
        """
        if not 0 <= seed <= 0xFFFFFFFF:
            raise ValueError(f"seed goes from 0 to 4294967295, and {seed} does not fit")
        return cls._make(lib.llama_sampler_init_dist(seed), "llama_sampler_init_dist", picks=True)

    @classmethod
    def initTemp(cls, t: float) -> Sampler:
        """Divides the logits by `t`: below 1 the choice narrows, above it widens; 0 or less keeps only the likeliest.

        Maps to `llama_sampler_init_temp`.
        """
        return cls._make(lib.llama_sampler_init_temp(_finite(t, "t")), "llama_sampler_init_temp")

    @classmethod
    def initTopK(cls, k: int) -> Sampler:
        """Keeps the `k` most likely tokens; 0 or less keeps all.

        Maps to `llama_sampler_init_top_k`.
        """
        return cls._make(lib.llama_sampler_init_top_k(k), "llama_sampler_init_top_k")

    @classmethod
    def initTopP(cls, p: float, minKeep: int = 1) -> Sampler:
        """Keeps the most likely tokens whose probabilities add up to `p`, and at least `minKeep` of them.

        Maps to `llama_sampler_init_top_p`.
        """
        _at_least(minKeep, 0, "minKeep")
        return cls._make(lib.llama_sampler_init_top_p(_finite(p, "p"), minKeep), "llama_sampler_init_top_p")

    @classmethod
    def initPenalties(
        cls, penaltyLastN: int, penaltyRepeat: float = 1.0, penaltyFreq: float = 0.0, penaltyPresent: float = 0.0
    ) -> Sampler:
        """Makes tokens less likely that were accepted lately.

        `penaltyLastN` is how many tokens back count: 0 switches it off, -1 means the context size, which becomes
        known with the first `sample`. `penaltyRepeat` divides (1.0 is off), `penaltyFreq` subtracts for each
        occurrence and `penaltyPresent` for the first (0.0 is off).

        Maps to `llama_sampler_init_penalties`.
        """
        if not -1 <= penaltyLastN <= _LAST_N_LIMIT:
            raise ValueError(f"penaltyLastN goes from -1 to {_LAST_N_LIMIT}, and {penaltyLastN} does not fit")
        if not _finite(penaltyRepeat, "penaltyRepeat") > 0:
            raise ValueError(f"penaltyRepeat is more than 0 (1.0 is off), not {penaltyRepeat}")
        _finite(penaltyFreq, "penaltyFreq")
        _finite(penaltyPresent, "penaltyPresent")

        def make(last_n: int, n_vocab: int) -> Any:
            return lib.llama_sampler_init_penalties(n_vocab, last_n, penaltyRepeat, penaltyFreq, penaltyPresent)

        sampler = cls._make(make(max(penaltyLastN, 0), 0), "llama_sampler_init_penalties")
        if penaltyLastN == -1:
            sampler._late = lambda ctx: make(ctx.nCtx, ctx.getModel().vocab.nTokens)
        return sampler

    def clone(self) -> Sampler:
        """A copy with the same state, owned by nobody else.

        Maps to `llama_sampler_clone`.
        """
        copy = type(self)._make(lib.llama_sampler_clone(self._c), "llama_sampler_clone", picks=self._picks)
        copy._parent, copy._late, copy._history = self._parent, self._late, list(self._history)
        if self._members is not None:
            copy._members = []
            for index, member in enumerate(self._members):
                twin = type(self)._make(lib.llama_sampler_chain_get(copy._c, index), "llama_sampler_chain_get")
                twin._picks, twin._late, twin._history = member._picks, member._late, list(member._history)
                copy._adopt(twin)
        return copy

    # Chains

    def chainAdd(self, s: Sampler) -> None:
        """Append a sampler to this chain, which owns it from now on.

        Maps to `llama_sampler_chain_add`.
        """
        self._require_chain("chainAdd")
        if not isinstance(s, Sampler):
            raise TypeError(f"a Sampler is wanted, not {type(s).__name__}")
        if s._chain is not None:
            raise ValueError("this sampler belongs to a chain already: add s.clone(), or chainRemove it there first")
        if s is self or self._is_inside(s):
            raise ValueError("a chain cannot be put inside itself")
        pointer = s._c
        with _Busy(self), _Busy(s):
            lib.llama_sampler_chain_add(self._c, pointer)
        self._adopt(s)

    def _is_inside(self, other: Sampler) -> bool:
        chain = self._chain
        while chain is not None and chain is not other:
            chain = chain._chain
        return chain is not None

    def _adopt(self, member: Sampler) -> None:
        assert self._members is not None
        self._members.append(member)
        member._chain = self

    def chainGet(self, idx: int) -> Sampler:
        """The member at an index from 0. It stays the chain's.

        Maps to `llama_sampler_chain_get`.
        """
        return self._require_chain("chainGet")[self._index(idx)]

    def chainRemove(self, idx: int) -> Sampler:
        """Take the member at an index from 0 out of the chain; from now on it is the caller's.

        Maps to `llama_sampler_chain_remove`.
        """
        members = self._require_chain("chainRemove")
        idx = self._index(idx)
        with _Busy(self):
            lib.llama_sampler_chain_remove(self._c, idx)
        member = members.pop(idx)
        member._chain = None
        return member

    @property
    def chainCount(self) -> int:
        """How many members the chain has.

        Maps to `llama_sampler_chain_n`.
        """
        self._require_chain("chainCount")
        return lib.llama_sampler_chain_n(self._c)

    def _require_chain(self, what: str) -> list[Sampler]:
        if self._pointer is None:
            self._refuse()
        if self._members is None:
            raise TypeError(
                f"{what} is for chains, and this is a {self.name!r} sampler: make one with Sampler.chainInit"
            )
        return self._members

    def _index(self, idx: int) -> int:
        n = len(self._members or ())
        if not 0 <= idx < n:
            raise IndexError(f"the chain has {n} members, and {idx} is not the index of one")
        return idx

    # Use

    def sample(self, ctx: Context, idx: int = -1) -> Token:
        """Pick a token from the output of entry `idx` of the last batch (-1: of the last output), and accept it.

        Raises IndexError where that entry gave no output, ValueError where no sampler of the chain picks.

        Maps to `llama_sampler_sample`.
        """
        if not self._can_pick():
            raise ValueError("no sampler here picks a token: end the chain with Sampler.initDist or initGreedy")
        if not self._busy.acquire(blocking=False):
            self._is_busy()
        try:
            if not ctx._busy.acquire(blocking=False):
                ctx._is_busy()
            try:
                context = ctx._c  # read under the lock: another thread may just have freed it
                if lib.llama_get_logits_ith(context, idx) == ffi.NULL:
                    raise IndexError(ctx._no_output(idx))
                if self._is_late():
                    self._settle(ctx)
                return lib.llama_sampler_sample(self._c, context, idx)
            finally:
                ctx._busy.release()
        finally:
            self._busy.release()

    def _can_pick(self) -> bool:
        if self._members is None:
            return self._picks
        return any(member._can_pick() for member in self._members)

    def _is_late(self) -> bool:
        if self._members is None:
            return self._late is not None
        return any(member._is_late() for member in self._members)

    def _settle(self, ctx: Context) -> None:
        """Replace what waited for the context by what it should have been, at its place in the chain."""
        if self._members is None:
            assert self._late is not None
            self._replace(self._late(ctx))
            return
        members = self._members
        first = next(i for i, member in enumerate(members) if member._is_late())
        for _ in members[first:]:
            lib.llama_sampler_chain_remove(self._c, first)
        for member in members[first:]:
            if member._is_late():
                member._settle(ctx)
            lib.llama_sampler_chain_add(self._c, member._c)

    def _replace(self, pointer: Any) -> None:
        for token in self._history:
            lib.llama_sampler_accept(pointer, token)
        old, self._pointer = self._pointer, pointer
        self._late, self._history = None, []
        self._answer_for(pointer)
        lib.llama_sampler_free(old)

    def accept(self, token: Token) -> None:
        """Tell the sampler which token came next, for those that keep count.

        Maps to `llama_sampler_accept`.
        """
        if token < 0:
            raise ValueError(f"{token} is no token")
        with _Busy(self):
            lib.llama_sampler_accept(self._c, token)
            self._note(token)

    def _note(self, token: Token) -> None:
        if self._late is not None:
            self._history.append(token)
        for member in self._members or ():
            member._note(token)

    def reset(self) -> None:
        """Forget what was accepted.

        Maps to `llama_sampler_reset`.
        """
        with _Busy(self):
            lib.llama_sampler_reset(self._c)
            self._forget()

    def _forget(self) -> None:
        self._history = []
        for member in self._members or ():
            member._forget()

    @property
    def name(self) -> str:
        """What kind of sampler it is: `greedy`, `top-k`, `chain` and so on.

        Maps to `llama_sampler_name`.
        """
        return bytes(ffi.string(lib.llama_sampler_name(self._c))).decode("utf-8", "replace")

    # End

    def free(self) -> None:
        """Free the sampler; a chain frees its members. Freeing twice is harmless.

        Maps to `llama_sampler_free`.
        """
        self.close()

    def close(self) -> None:
        if self._pointer is not None and self._chain is not None:
            raise ValueError("this sampler belongs to a chain, which frees it: chainRemove it first")
        super().close()
        for member in self._members or ():
            member._lose("its chain was freed")

    def _lose(self, why: str) -> None:
        """The C object is gone with the chain that owned it."""
        self._poison(why)
        for member in self._members or ():
            member._lose(why)

    def _finish(self, why: str) -> None:
        if self._chain is None:
            super()._finish(why)

    def _destroy(self, pointer: Any) -> None:
        lib.llama_sampler_free(pointer)


class _Busy:
    """Holds a handle for one call."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        if not self._handle._busy.acquire(blocking=False):
            self._handle._is_busy()

    def __exit__(self, *error: object) -> None:
        self._handle._busy.release()


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value}")
    return value


def _at_least(value: int, low: int, name: str) -> None:
    if value < low:
        raise ValueError(f"{name} is at least {low}, not {value}")
