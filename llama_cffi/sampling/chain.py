"""Chains of samplers: what they hold, and how long they have worked."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import lib
from llama_cffi._generated.structs import PerfSamplerDataFields, SamplerChainParamsFields
from llama_cffi.sampling.base import SamplerBase, Traits

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self, Unpack


# Chains inside chains: C and Python follow them recursively.
_DEPTH = 32

if TYPE_CHECKING:
    from llama_cffi._generated.structs import SamplerChainParamsKeywords

    class _Keywords(SamplerChainParamsKeywords, total=False):
        """All of them are plain."""


class SamplerChainParams(SamplerChainParamsFields):
    """How to set up a chain of samplers. Maps to `llama_sampler_chain_params`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[SamplerChainParamsKeywords]) -> None: ...

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_sampler_chain_default_params()


class PerfSamplerData(PerfSamplerDataFields):
    """How long a chain has worked: `tSampleMs` milliseconds for `nSample` tokens. Maps to `llama_perf_sampler_data`."""

    __slots__ = ()


class SamplerChain(SamplerBase):
    """What a `Sampler` does as a chain."""

    ChainParams: TypeAlias = SamplerChainParams

    @classmethod
    def chainDefaultParams(cls) -> SamplerChainParams:
        """llama.cpp's default parameters of a chain.

        Maps to `llama_sampler_chain_default_params`.
        """
        return cls.ChainParams()

    @classmethod
    def chainInit(cls, params: SamplerChainParams | None = None) -> Self:
        """An empty chain, to be filled with `chainAdd`.

        Maps to `llama_sampler_chain_init`.
        """
        chosen = SamplerChainParams() if params is None else params
        if not isinstance(chosen, SamplerChainParams):
            raise TypeError(f"params is a Sampler.ChainParams, not {type(params).__name__}")
        chain = cls._make(lib.llama_sampler_chain_init(chosen._c[0]), Traits(("llama_sampler_chain_init",)))
        chain._members = []
        return chain

    def chainAdd(self, s: SamplerChain) -> None:
        """Append a sampler to this chain, which owns it from now on.

        Maps to `llama_sampler_chain_add`.
        """
        members = self._require_chain("chainAdd")
        if not isinstance(s, SamplerChain):
            raise expected("a Sampler", s)
        if s._chain is not None:
            raise ValueError("this sampler belongs to a chain already: add s.clone(), or chainRemove it there first")
        if s is self._root():
            raise ValueError("a chain cannot be put inside itself")
        if s._context_ref is not None:
            raise ValueError("this chain was given to a context, which needs it as it is: add s.clone()")
        self._require_free("chainAdd")
        if self._level() + s._height() > _DEPTH:
            raise ValueError(f"chains would be {_DEPTH + 1} deep inside each other, and the limit is {_DEPTH}")
        with self._exclusive() as chain, s._exclusive() as pointer:
            lib.llama_sampler_chain_add(chain, pointer)
            members.append(s)
            s._chain = self
            s._checked_for = self._root()._checked_for = None

    def chainGet(self, idx: int) -> Self:
        """The member at an index from 0. It stays the chain's.

        Maps to `llama_sampler_chain_get`.
        """
        return self._require_chain("chainGet")[self._index(idx)]

    def chainRemove(self, idx: int) -> Self:
        """Take the member at an index from 0 out of the chain; from now on it is the caller's.

        Maps to `llama_sampler_chain_remove`.
        """
        members = self._require_chain("chainRemove")
        self._require_free("chainRemove")
        with self._exclusive() as pointer:
            idx = self._index(idx)
            lib.llama_sampler_chain_remove(pointer, idx)
            member = members.pop(idx)
            member._chain = None
            self._root()._checked_for = None
        return member

    @property
    def chainCount(self) -> int:
        """How many members the chain has.

        Maps to `llama_sampler_chain_n`.
        """
        return len(self._require_chain("chainCount"))

    def _require_chain(self, what: str) -> list[Self]:
        if self._pointer is None:
            self._raise_closed()
        if self._members is None:
            raise TypeError(
                f"{what} is for chains, and this is a {self.name!r} sampler: make one with Sampler.chainInit"
            )
        return cast("list[Self]", self._members)  # nothing else was ever added

    def _require_free(self, what: str) -> None:
        if self._root()._context_ref is not None:
            raise ValueError(f"{what}: this chain was given to a context, which needs it as it is: use its clone()")

    def _index(self, idx: int) -> int:
        n = len(self._members or ())
        if not 0 <= idx < n:
            raise IndexError(f"the chain has {n} members, and {idx} is not the index of one")
        return idx

    @property
    def perfSampler(self) -> PerfSamplerData:
        """How long a chain has worked so far (zero with `ChainParams.noPerf`), and for how many tokens.

        Raises TypeError for a sampler that is no chain.

        Maps to `llama_perf_sampler`.
        """
        self._require_chain("perfSampler")
        data = PerfSamplerData()
        with self._exclusive() as pointer:
            data._c[0] = lib.llama_perf_sampler(pointer)
        return data

    def perfSamplerPrint(self) -> None:
        """Write the same to llama.cpp's log. Raises TypeError for a sampler that is no chain.

        Maps to `llama_perf_sampler_print`.
        """
        self._require_chain("perfSamplerPrint")
        with self._exclusive() as pointer:
            lib.llama_perf_sampler_print(pointer)

    def perfSamplerReset(self) -> None:
        """Start counting anew. Raises TypeError for a sampler that is no chain.

        Maps to `llama_perf_sampler_reset`.
        """
        self._require_chain("perfSamplerReset")
        with self._exclusive() as pointer:
            lib.llama_perf_sampler_reset(pointer)
