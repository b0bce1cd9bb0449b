"""Sampler chains: their members, and how much time they have used."""

from __future__ import annotations

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import lib
from llama_cffi._core.ownership import atomic, exclusive
from llama_cffi._generated.structs import PerfSamplerDataFields, SamplerChainParamsFields
from llama_cffi.sampling.base import SamplerBase, Traits, own_sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias, cast

    from typing_extensions import Self, Unpack
else:
    from llama_cffi._core.stand_ins import cast


# C and Python follow nested chains recursively.
_DEPTH_LIMIT = 32

_TRAITS = Traits(("llama_sampler_chain_init",), is_chain=True)

if TYPE_CHECKING:
    from llama_cffi._generated.structs import SamplerChainParamsKeywords


class SamplerChainParams(SamplerChainParamsFields):
    """Parameters of a sampler chain. Maps to `llama_sampler_chain_params`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[SamplerChainParamsKeywords]) -> None: ...

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_sampler_chain_default_params()


class PerfSamplerData(PerfSamplerDataFields):
    """Time used by a chain: `tSampleMs` milliseconds for `nSample` tokens. Maps to `llama_perf_sampler_data`."""

    __slots__ = ()


class SamplerChain(SamplerBase):
    """The methods of `Sampler` for chains."""

    ChainParams: TypeAlias = SamplerChainParams

    @classmethod
    def chainDefaultParams(cls) -> SamplerChainParams:
        """Return llama.cpp's default parameters of a chain.

        Maps to `llama_sampler_chain_default_params`.
        """
        return cls.ChainParams()

    @classmethod
    def chainInit(cls, params: SamplerChainParams | None = None) -> Self:
        """Make an empty chain, to be filled with `chainAdd`; `chain` makes a filled one.

        Maps to `llama_sampler_chain_init`.
        """
        chosen = SamplerChainParams() if params is None else params
        if not isinstance(chosen, SamplerChainParams):
            raise expected("a Sampler.ChainParams", params, "Sampler.ChainParams(noPerf=True) makes one", "params")
        return cls._make(own_sampler(lib.llama_sampler_chain_init, chosen._c[0]), _TRAITS)

    @classmethod
    def chain(cls, *members: Self, noPerf: bool = False) -> Self:
        """Make a chain of samplers: `Sampler.chain(Sampler.initTopK(40), Sampler.initTemp(0.8), Sampler.initDist())`.

        The members run in the given order, and the last one usually picks the token. The chain owns them from then on
        and frees them. Without members, the chain is empty. With `noPerf`, which is the default of `chainInit`, no time
        is measured for `perfSampler`.

        Raises TypeError for a member that is not a Sampler, ValueError for one that is given twice, belongs to another
        chain or was given to a context, ClosedError for one that was freed, and BusyError for one that another thread
        uses. All members then stay the caller's, and the new chain is freed.

        Maps to `llama_sampler_chain_init` and `llama_sampler_chain_add`.
        """
        chain = cls.chainInit(SamplerChainParams(noPerf=noPerf))
        for index, member in enumerate(members):
            chain._check_member(member)
            if any([member is other for other in members[:index]]):
                raise ValueError(f"member {index} is given twice, but a chain owns each member once: pass its clone()")
        with exclusive(chain, *members) as pointer:
            for member in members:
                member._require_unowned()  # another thread may have added it elsewhere since the check
            atomic(
                tuple(call for member in members for call in chain._appending(pointer, member)),
                undo=tuple(call for member in members for call in chain._removing(pointer, member, 0)),
            )
        return chain

    def chainAdd(self, s: Self) -> None:
        """Append a sampler to this chain, which owns it from then on.

        Raises TypeError if this is not a chain or `s` is not a Sampler, and ValueError if `s` belongs to a chain or was
        given to a context.

        Maps to `llama_sampler_chain_add`.
        """
        self._require_chain("chainAdd")
        self._check_member(s)
        self._require_unattached("chainAdd")
        with self._exclusive() as chain, exclusive(s):
            s._require_unowned()  # another thread may have added it elsewhere since the check
            atomic(self._appending(chain, s))
            self._root()._checked_for = None

    def _check_member(self, s: SamplerBase) -> None:
        if not isinstance(s, SamplerChain):
            raise expected("a Sampler", s)
        s._require_unowned()
        if s is self._root():
            raise ValueError("a chain cannot be added to itself")
        if s._context_ref is not None:
            raise ValueError("this chain was given to a context and cannot change: add s.clone()")
        depth = self._level() + s._height()
        if depth > _DEPTH_LIMIT:
            raise ValueError(
                f"chains can be nested {_DEPTH_LIMIT} deep, got {depth}: add the members of the inner chain"
            )

    def _require_unowned(self) -> None:
        if self._chain is not None:
            raise ValueError("this sampler belongs to a chain already: add s.clone(), or chainRemove it there first")

    def _appending(self, chain: Any, s: SamplerChain) -> tuple[tuple[Any, ...], ...]:
        """Return the calls that append a sampler, here and in C; see `atomic`. Both are acquired.

        Only the last one can fail.
        """
        assert s._owned is not None
        return (
            (setattr, s, "_checked_for", None),
            (setattr, self, "_checked_for", None),
            (lib.llama_sampler_chain_add, chain, s._c),
            (s._owned.lend, self._owned),
            (self._members.append, s),
            (setattr, s, "_chain", self),
        )

    def chainGet(self, idx: int) -> Self:
        """Return the member at an index, counted from 0. It still belongs to the chain.

        Raises TypeError if this is not a chain, IndexError for an index outside of it.

        Maps to `llama_sampler_chain_get`.
        """
        return self._require_chain("chainGet")[self._index(idx)]

    def chainRemove(self, idx: int) -> Self:
        """Remove the member at an index, counted from 0, and return it. The caller owns it from then on.

        Raises TypeError if this is not a chain, IndexError for an index outside of it.

        Maps to `llama_sampler_chain_remove`.
        """
        self._require_chain("chainRemove")
        self._require_unattached("chainRemove")
        with self._exclusive() as pointer:
            return cast("Self", self._take(pointer, self._index(idx)))

    def _take(self, chain: Any, idx: int) -> SamplerBase:
        """Remove a member, in C and here; the chain is held."""
        member = self._members[idx]
        self._root()._checked_for = None
        atomic(self._removing(chain, member, idx))
        return member

    def _removing(self, chain: Any, member: SamplerBase, idx: int) -> tuple[tuple[Any, ...], ...]:
        """Return the calls that remove a member, in C and here; see `atomic`."""
        assert member._owned is not None
        return (
            (lib.llama_sampler_chain_remove, chain, idx),
            (member._owned.lend, None),
            (setattr, member, "_chain", None),
            (self._members.__delitem__, slice(idx, idx + 1)),
        )

    @property
    def chainCount(self) -> int:
        """The number of members. Raises TypeError if this is not a chain.

        Maps to `llama_sampler_chain_n`.
        """
        return len(self._require_chain("chainCount"))

    def _require_chain(self, what: str) -> list[Self]:
        if self._pointer is None:
            self._raise_closed()
        if not self._traits.is_chain:
            raise TypeError(f"{what}: expected a chain, got a {self.name!r} sampler: Sampler.chain(...) makes one")
        return cast("list[Self]", self._members)  # chainAdd takes nothing else

    def _require_unattached(self, what: str) -> None:
        if self._root()._context_ref is not None:
            raise ValueError(f"{what}: this chain was given to a context and cannot change: use its clone()")

    def _index(self, idx: int) -> int:
        n = len(self._members)
        if not 0 <= idx < n:
            raise IndexError(f"idx {idx} is out of range: the chain has {n} members")
        return idx

    @property
    def perfSampler(self) -> PerfSamplerData:
        """The time that a chain has used so far (0 if it was made with noPerf), and for how many tokens.

        Raises TypeError if this is not a chain.

        Maps to `llama_perf_sampler`.
        """
        self._require_chain("perfSampler")
        data = PerfSamplerData()
        with self._exclusive() as pointer:
            data._c[0] = lib.llama_perf_sampler(pointer)
        return data

    def perfSamplerPrint(self) -> None:
        """Write the time of `perfSampler` to llama.cpp's log. Raises TypeError if this is not a chain.

        Maps to `llama_perf_sampler_print`.
        """
        self._require_chain("perfSamplerPrint")
        with self._exclusive() as pointer:
            lib.llama_perf_sampler_print(pointer)

    def perfSamplerReset(self) -> None:
        """Reset the time and count of `perfSampler` to 0. Raises TypeError if this is not a chain.

        Maps to `llama_perf_sampler_reset`.
        """
        self._require_chain("perfSamplerReset")
        with self._exclusive() as pointer:
            lib.llama_perf_sampler_reset(pointer)
