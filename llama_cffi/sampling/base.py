"""What every sampler is made of: its C object, who owns it, and which call it serves."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi._core import process
from llama_cffi._core.base_types import Token
from llama_cffi._core.callbacks import reraise
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi.errors import NativeError
from llama_cffi.sampling.custom import CustomSampler, check_cloneable, python_side
from llama_cffi.sampling.logits_source import LogitsSource

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Traits:
    """What the facade has to know about a kind of sampler."""

    recipe: tuple[object, ...]  # the constructor and its arguments: equal ones have the same structure in C
    picks: bool = False  # selects a token by itself
    n_vocab: int = 0  # how many tokens it was made for; 0: any
    reads_ids: bool = False  # looks candidates up in the vocabulary
    grammar: bool = False  # refuses tokens
    lazy: bool = False  # ... only once it was triggered
    searches: bool = False  # ... by a pattern, looked for in all that was accepted
    stack: int = 0  # bytes that it takes to reset: it reads its grammar anew
    adaptive: bool = False  # remembers its pick until that is accepted, which a clone must not


class SamplerBase(Handle):
    """The life of a sampler; see `Sampler`."""

    _KIND = "sampler"

    _traits: Traits
    _custom: CustomSampler | None  # of a sampler written in Python
    _members: list[SamplerBase] | None  # of a chain, in order; None otherwise
    _chain: SamplerBase | None  # the chain that owns it
    # The context that a chain was given to, as a weak reference, which stays when the context is gone.
    _context_ref: Callable[[], LogitsSource | None] | None
    # Makes the C sampler anew once the context's size and the vocabulary's are known.
    _deferred_init: Callable[[int, int], Any] | None
    _needs_context: bool  # whether sampling must wait for that
    _history: list[Token]  # tokens accepted until then
    _accepted: int  # bytes of text, of a sampler that searches it
    _checked_for: int | None  # the serial number of the context that it was checked for; None after a chain's change
    _top_n: int  # how many of the largest logits are all that can be picked; 0: it may be any. Known where it fits

    @classmethod
    def _make(cls, pointer: Any, traits: Traits, parent: Handle | None = None) -> Self:
        if pointer == ffi.NULL:
            raise NativeError(f"{traits.recipe[0]} made no sampler", operation=str(traits.recipe[0]))
        sampler = cls.__new__(cls)
        sampler._traits = traits
        sampler._custom = sampler._members = sampler._chain = sampler._context_ref = sampler._deferred_init = None
        sampler._needs_context = False
        sampler._history = []
        sampler._checked_for, sampler._accepted = None, 0
        sampler._open(pointer, parent)  # last: whoever frees the parent meanwhile closes the sampler
        return sampler

    @classmethod
    def _plain(
        cls,
        operation: str,
        function: Callable[..., Any],
        *arguments: float,
        picks: bool = False,
        n_vocab: int = 0,
        adaptive: bool = False,
    ) -> Self:
        traits = Traits((operation, *arguments), picks=picks, n_vocab=n_vocab, adaptive=adaptive)
        return cls._make(function(*arguments), traits)

    @property
    def name(self) -> str:
        """What kind of sampler it is: `greedy`, `top-k`, `chain` and so on; `?` before it says that it does nothing.

        Of a chain given to a context, `+` and `-` say whether a member runs with the model or after it.

        Maps to `llama_sampler_name`.
        """
        with self._exclusive() as pointer:
            return bytes(ffi.string(lib.llama_sampler_name(pointer))).decode("utf-8", "replace")

    # Who is asked

    def _leaves(self) -> Iterator[SamplerBase]:
        """This sampler, or what a chain holds, chains inside it included."""
        if self._members is None:
            yield self
        for member in self._members or ():
            yield from member._leaves()

    def _root(self) -> SamplerBase:
        sampler: SamplerBase = self
        while sampler._chain is not None:
            sampler = sampler._chain
        return sampler

    def _level(self) -> int:
        """How many chains this one is inside of, with itself."""
        return 1 if self._chain is None else 1 + self._chain._level()

    def _height(self) -> int:
        """How many chains are inside each other here; 0 for a sampler that is none."""
        if self._members is None:
            return 0
        return 1 + max((member._height() for member in self._members), default=0)

    @contextmanager
    def _exclusive(self, home: bool = True) -> Iterator[Any]:
        """Have the sampler to oneself for one call, with the chain that it is in. Gives the C pointer.

        A chain that was given to a context is in use by that context's calls too: `home` says to hold it as well.
        """
        if self._pointer is None:
            self._raise_closed()  # with its own reason, not the chain's
        root = self._root()
        root._acquire()
        try:
            context = root._context_ref() if home and root._context_ref is not None else None
            if context is not None:
                context._acquire()
            try:
                yield self._c
            finally:
                if context is not None:
                    context._release()
        finally:
            root._release()

    # The end

    def free(self) -> None:
        """Free the sampler; a chain frees its members. Freeing twice is harmless.

        Maps to `llama_sampler_free`.
        """
        SamplerBase._require(self)
        self.close()

    def close(self) -> None:
        """Free the sampler; a chain frees its members. Freeing twice is harmless."""
        if self._pointer is not None and self._chain is not None:
            raise ValueError("this sampler belongs to a chain, which frees it: chainRemove it first")
        home = self._context_ref() if self._context_ref is not None else None
        if self._pointer is not None and home is not None and not home.closed:
            raise ValueError("a context samples with this chain: free the context first")
        super().close()

    def _check_no_deadlock(self) -> None:
        root = self._root()
        if root is not self:
            root._check_no_deadlock()
        else:
            super()._check_no_deadlock()

    def _close_with_parent(self, why: str) -> None:
        """The model is freed, and its vocabulary with it: that ends the whole chain, which would read it."""
        root = self._root()
        home = root._context_ref() if root._context_ref is not None else None
        if home is not None:
            home.close()
        if not root.closed:
            root.close()
            root._closed_reason = why
        self._closed_reason = why

    def _lose(self, why: str) -> None:
        """The C object is gone with the chain that owned it."""
        if self._pointer is not None:
            self._pointer = None
            self._closed_reason = why
            parent, self._parent = self._parent, None
            if parent is not None:
                parent._remove_dependent()
        for member in self._members or ():
            member._lose(why)

    def _finish(self, why: str) -> None:
        if self._chain is None:
            super()._finish(why)

    def _destroy(self, pointer: Any) -> None:
        lib.llama_sampler_free(pointer)
        for member in self._members or ():
            member._lose("its chain was freed")

    # Copies

    def clone(self) -> Self:
        """A copy with the same state, owned by nobody else.

        Raises TypeError for a sampler written in Python without `clone`. The copy of an adaptive-p sampler has
        forgotten a pick that was not accepted yet.

        Maps to `llama_sampler_clone`.
        """
        with self._exclusive() as pointer:
            for sampler in self._leaves():
                if sampler._custom is not None:
                    check_cloneable(sampler._custom.iface)
            copy = lib.llama_sampler_clone(pointer)
            try:
                reraise()
            except BaseException:
                lib.llama_sampler_free(copy)
                raise
            return self._wrap_clone(copy)

    def _wrap_clone(self, pointer: Any) -> Self:
        copy = type(self)._make(pointer, self._traits, self._parent)
        copy._custom = python_side(pointer)
        copy._watch()
        copy._deferred_init, copy._needs_context, copy._history = (
            self._deferred_init,
            self._needs_context,
            list(self._history),
        )
        copy._accepted = self._accepted
        if self._traits.adaptive:
            copy._forget_pick()
        if self._members is not None:
            copy._members = []
            for index, member in enumerate(self._members):
                twin = member._wrap_clone(lib.llama_sampler_chain_get(pointer, index))
                copy._members.append(twin)
                twin._chain = copy
        return copy

    def _forget_pick(self) -> None:
        lib.llama_sampler_accept(self._pointer, 0x7FFFFFFF)  # no token, and not the pending one

    def _watch(self) -> None:
        if self._custom is not None:
            _python_samplers.add(self)


# Samplers that call Python, which must not happen any more once the interpreter ends.
_python_samplers: weakref.WeakSet[SamplerBase] = weakref.WeakSet()


@atexit.register
def _close_python_samplers() -> None:
    process.ending = True
    for sampler in list(_python_samplers):
        root = sampler._root()
        context = root._context_ref() if root._context_ref is not None else None
        for handle in (context, root):  # the context first: it holds the chain
            if handle is not None and not handle._busy.locked():  # otherwise a daemon thread is in it
                handle._finish("the interpreter is ending")
