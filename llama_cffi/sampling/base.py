"""The common part of all samplers: the C object, its owner, and exclusive use of it during a call."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from functools import partial

from llama_cffi._core import process
from llama_cffi._core.base_types import Token
from llama_cffi._core.callbacks import reraise
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import Owned, WeakRefs, exclusive_for, own
from llama_cffi.errors import NativeError
from llama_cffi.sampling.logits_source import LogitsSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from typing_extensions import Self

    from llama_cffi.sampling.custom import CustomSampler


_SHOWN = 16  # members or numbers in a `repr`
_NUMBERS = (int, float)


class Traits:
    """What the facade must know about a kind of sampler."""

    __slots__ = (
        "adaptive",
        "grammar",
        "is_chain",
        "last_n",
        "lazy",
        "n_vocab",
        "picks",
        "reads_ids",
        "recipe",
        "searches",
    )

    def __init__(
        self,
        recipe: tuple[object, ...],
        *,
        is_chain: bool = False,
        picks: bool = False,
        n_vocab: int = 0,
        reads_ids: bool = False,
        grammar: bool = False,
        lazy: bool = False,
        searches: bool = False,
        adaptive: bool = False,
        last_n: int = 0,
    ) -> None:
        self.recipe = recipe  # the constructor and its arguments: equal recipes have the same structure in C
        self.is_chain = is_chain
        self.picks = picks  # selects a token
        self.n_vocab = n_vocab  # size of the vocabulary it was made for; 0: any
        self.reads_ids = reads_ids  # looks candidates up in the vocabulary
        self.grammar = grammar  # rejects tokens
        self.lazy = lazy  # a grammar that starts only once it is triggered
        self.searches = searches  # looks for its trigger pattern in all the text accepted so far
        self.adaptive = adaptive  # remembers its pick until that is accepted, which a clone must not
        self.last_n = last_n  # a penalty for this many latest tokens, those of the prompt too; -1: the context size


class Deferred:
    """How to make the C sampler again once the size of the context is known."""

    def __init__(self, make: Callable[[int, int], Owned], required: bool, history: Iterable[Token] = ()) -> None:
        self.make = make  # (context size, vocabulary size) -> a new C sampler
        self.required = (
            required  # sampling needs the new one; else the present one will do outside of a context's own chain
        )
        self.history = list(history)  # tokens accepted until then, if it is required

    def copy(self) -> Deferred:
        return Deferred(self.make, self.required, self.history)


class SamplerBase(Handle):
    """Ownership, exclusive use and copies of a sampler; see `Sampler`.

    `_checked_for` and `_top_n` are read for every token, of samplers outside of chains too; so they are attributes of
    each sampler rather than of an object for the state of a chain.
    """

    _KIND = "sampler"
    _MADE_BY = (
        "defaultSampler(temperature, seed) makes the usual chain; Sampler.initTemp(0.5), Sampler.initTopK(40), "
        "Sampler.initDist(seed) and so on make its members, and Sampler.chain(...) combines them"
    )

    _traits: Traits
    _custom: CustomSampler | None  # the Python side of a sampler written in Python
    _members: list[SamplerBase]  # of a chain, in order; empty for other samplers
    _chain: SamplerBase | None  # the chain that owns this sampler
    # Weak reference to the context that a chain was given to; it stays when the context is gone.
    _context_ref: Callable[[], LogitsSource | None] | None
    _deferred: Deferred | None  # set until the C sampler was made for a context's size
    _job: object = None  # the request of an engine that uses it
    _text_bytes: int  # size of the accepted text, for a sampler that searches it
    _checked_for: int | None  # serial number of the context it was checked for; None after a change of the chain
    _top_n: int  # only this many of the largest logits can be picked; 0: any. Valid for the context checked for

    @classmethod
    def _make(
        cls, owned: Owned, traits: Traits, parent: Handle | None = None, custom: CustomSampler | None = None
    ) -> Self:
        if owned.pointer is None:
            raise NativeError(f"{traits.recipe[0]} returned NULL", operation=str(traits.recipe[0]))
        sampler = cls.__new__(cls)
        sampler._traits = traits
        sampler._members = []
        sampler._chain = sampler._context_ref = sampler._deferred = sampler._checked_for = None
        sampler._text_bytes = 0
        sampler._custom = custom
        if custom is not None:
            owned.keep(custom)
            _python_samplers.add(sampler)
        sampler._open(owned, parent)  # last: from here on, freeing the parent closes the sampler
        return sampler

    def _text_size(self, token: Token) -> int:
        """Return the size of a token's text, for a sampler that was made for a model's vocabulary."""
        model = self._parent
        assert model is not None
        return len(model.vocab._piece(token, special=True))  # type: ignore[attr-defined]

    @classmethod
    def _make_from(
        cls,
        operation: str,
        function: Callable[..., Any],
        *arguments: float,
        picks: bool = False,
        n_vocab: int = 0,
        adaptive: bool = False,
    ) -> Self:
        """A sampler of a C constructor that takes nothing but numbers."""
        traits = Traits((operation, *arguments), picks=picks, n_vocab=n_vocab, adaptive=adaptive)
        return cls._make(own_sampler(function, *arguments), traits)

    @property
    def name(self) -> str:
        """The kind of sampler: `greedy`, `top-k`, `chain` and so on; with a leading `?` if it does nothing.

        In a chain given to a context, `+` and `-` say whether a member runs with the model or after it.

        Maps to `llama_sampler_name`.
        """
        with self._exclusive() as pointer:
            return bytes(ffi.string(lib.llama_sampler_name(pointer))).decode("utf-8", "replace")

    def _describe(self) -> str:
        """The kind of sampler with its numbers; the members of a chain, or the first 16."""
        if self._traits.is_chain:
            members = list(self._members)
            shown = [member._describe() for member in members[:_SHOWN]]
            more = [f"and {len(members) - _SHOWN} more"] if len(members) > _SHOWN else []
            return f"chain[{', '.join(shown + more)}]"
        if self._custom is not None:
            return type(self._custom.iface).__name__
        kind, *arguments = self._traits.recipe
        numbers = [
            f"{one:.6g}" if isinstance(one, float) else str(one) for one in arguments if isinstance(one, _NUMBERS)
        ]
        name = str(kind).removeprefix("llama_sampler_init_").replace("_", "-")
        return f"{name}({', '.join(numbers)})" if 0 < len(numbers) <= _SHOWN else name

    # Chains and members

    def _leaves(self) -> list[SamplerBase]:
        """This sampler; for a chain, its members, including those of nested chains."""
        if not self._traits.is_chain:
            return [self]
        return [leaf for member in self._members for leaf in member._leaves()]

    def _root(self) -> SamplerBase:
        """The outermost chain that this sampler is in; the sampler itself if it is not in a chain."""
        sampler: SamplerBase = self
        while sampler._chain is not None:
            sampler = sampler._chain
        return sampler

    def _context(self) -> LogitsSource | None:
        """The context that the outermost chain was given to; None if it was not given to one, or that is gone."""
        reference = self._root()._context_ref
        return reference() if reference is not None else None

    def _level(self) -> int:
        """The number of chains from this one to the outermost, both included."""
        return 1 if self._chain is None else 1 + self._chain._level()

    def _height(self) -> int:
        """The depth of nested chains in this sampler; 0 if it is not a chain."""
        if not self._traits.is_chain:
            return 0
        return 1 + max((member._height() for member in self._members), default=0)

    @property
    def _needs_context(self) -> bool:
        """True if sampling must first make the C sampler for the context's size."""
        return self._deferred is not None and self._deferred.required

    def _exclusive(self, with_context: bool = True) -> AbstractContextManager[Any]:
        """Return a context manager: exclusive use of the sampler and the chain it is in; yields the C pointer.

        Calls of a context use the chains given to it, so `with_context` acquires that context as well.
        """
        if self._pointer is None:
            self._raise_closed()  # with the sampler's reason, not the chain's
        root = self._root()
        context = self._context() if with_context else None
        if context is None:
            return exclusive_for(partial(self._pointer_in, root, None, with_context), root)
        return exclusive_for(partial(self._pointer_in, root, context, with_context), root, context)

    def _pointer_in(self, root: SamplerBase, context: LogitsSource | None, with_context: bool) -> Any:
        """Return the C pointer, once `root` and `context` are acquired, if it is still they that the sampler is in."""
        if self._root() is not root or (with_context and self._context() is not context):
            self._raise_busy()  # another thread has just added it to a chain, or removed it
        return self._c

    # End

    def free(self) -> None:
        """Free the sampler; a chain frees its members. Freeing twice is harmless.

        Maps to `llama_sampler_free`.
        """
        SamplerBase._require(self)
        self.close()

    def close(self) -> None:
        """Free the sampler; a chain frees its members. Freeing twice is harmless."""
        if self._pointer is not None:
            if self._chain is not None:
                raise ValueError("this sampler belongs to a chain, which frees it: chainRemove it first")
            context = self._context()
            if context is not None and not context.closed:
                raise ValueError("a context samples with this chain: free the context first")
        super().close()

    def _check_no_deadlock(self) -> None:
        root = self._root()
        if root is not self:
            root._check_no_deadlock()
        else:
            super()._check_no_deadlock()

    def _close_with_parent(self, why: str) -> None:
        """The model is freed, and its vocabulary with it: close the whole chain, which would read it."""
        root = self._root()
        context = root._context()
        if context is not None:
            context.close()
        if not root.closed:
            root.close()
            root._closed_reason = why
        self._closed_reason = why

    def _mark_freed(self, why: str) -> None:
        """Note that the chain that owns this sampler frees the C object."""
        if self._pointer is not None:
            self._closed_reason = why
            self._pointer = None
        for member in self._members:
            member._mark_freed(why)

    def _finish(self, why: str) -> None:
        if self._chain is None:
            for member in self._members:
                member._mark_freed("its chain was freed")
            super()._finish(why)

    # Copies

    def clone(self) -> Self:
        """A copy with the same state, which the caller owns; the copy of a chain has copies of its members.

        Raises TypeError for a sampler written in Python that has no `clone`. The copy of an adaptive-p sampler forgets
        a pick that was not accepted yet.

        Maps to `llama_sampler_clone`.
        """
        with self._exclusive() as pointer:
            for sampler in self._leaves():
                if sampler._custom is not None:
                    sampler._custom.require_cloneable()
            copy = own_sampler(lib.llama_sampler_clone, pointer)
            reraise()  # of a sampler in Python; else each member has its clone
            return self._wrap_clone(copy)

    def _wrap_clone(self, owned: Owned) -> Self:
        custom = self._custom and self._custom.of_clone(owned.pointer)
        copy = type(self)._make(owned, self._traits, self._parent, custom)
        copy._deferred = self._deferred and self._deferred.copy()
        copy._text_bytes = self._text_bytes
        if self._traits.adaptive:
            copy._forget_pick()
        for index, member in enumerate(self._members):
            twin = member._wrap_clone(owned.part(lib.llama_sampler_chain_get(owned.pointer, index)))
            twin._chain = copy
            copy._members.append(twin)
        return copy

    def _forget_pick(self) -> None:
        lib.llama_sampler_accept(self._pointer, 0x7FFFFFFF)  # not a token, so not the pending one


def own_sampler(make: Callable[..., Any], *arguments: Any) -> Owned:
    """Make a C sampler with a function of C, and own it from the beginning."""
    return own(lib.llama_sampler_free, make, *arguments)


# Samplers that call Python, which must stop before the interpreter ends.
_python_samplers = WeakRefs()


@atexit.register
def _close_python_samplers() -> None:
    process.ending = True
    for sampler in list(_python_samplers):
        for handle in (sampler._context(), sampler._root()):  # the context first: it keeps the chain alive
            if handle is not None and not handle._busy.locked():  # if locked, a daemon thread is using it
                handle._finish("the interpreter is ending")
