"""Samplers that pick a token: the constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import lib
from llama_cffi.sampling import checks as check
from llama_cffi.sampling.base import SamplerBase, Traits
from llama_cffi.sampling.custom import CustomSampler, SamplerI
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from typing_extensions import Self


class PickingSamplers(SamplerBase):
    """Constructors of `Sampler`."""

    @classmethod
    def init(cls, iface: SamplerI, ctx: object = None) -> Self:
        """A sampler written in Python: `iface` is an object with a method `apply(candidates)`; see `SamplerI`.

        It may be used alone or in a chain, and picks a token where its `apply` sets `candidates.selected`. `ctx` may be
        any object: it is there as `iface.ctx`, for the clones too. Both live as long as the sampler.

        Maps to `llama_sampler_init`.
        """
        custom = CustomSampler(iface, ctx)
        sampler = cls._make(custom.make(), Traits(("llama_sampler_init", type(iface)), picks=True))
        sampler._custom = custom
        sampler._watch()
        return sampler

    @classmethod
    def initGreedy(cls) -> Self:
        """Picks the most likely token.

        Maps to `llama_sampler_init_greedy`.
        """
        return cls._make(lib.llama_sampler_init_greedy(), Traits(("llama_sampler_init_greedy",), picks=True))

    @classmethod
    def initDist(cls, seed: int = DEFAULT_SEED) -> Self:
        """Picks a token by chance, each by its probability. The same seed gives the same picks.

        `seed` is a 32-bit number; DEFAULT_SEED takes a random one.

        Maps to `llama_sampler_init_dist`.
        """
        return cls._plain("llama_sampler_init_dist", lib.llama_sampler_init_dist, check.seed_number(seed), picks=True)

    @classmethod
    def initMirostat(
        cls, nVocab: Vocab | int, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1, m: int = 100
    ) -> Self:
        """Picks a token so that the surprise, in bits, stays near `tau`; adapts how many candidates it looks at.

        `nVocab` is the vocabulary or its size, `eta` how fast it adapts (0 to 1), `m` how many candidates the
        estimate is made from (2 or more). Mirostat replaces top-k, top-p and the like. The candidates must not have
        been masked with -inf before.

        Maps to `llama_sampler_init_mirostat`.
        """
        size = check.vocab_size(nVocab)
        arguments = (
            size,
            check.seed_number(seed),
            check.positive(tau, "tau"),
            check.within(eta, 0, 1, "eta"),
            integer(m, 2, 1 << 30, "m"),
        )
        return cls._plain(
            "llama_sampler_init_mirostat", lib.llama_sampler_init_mirostat, *arguments, picks=True, n_vocab=size
        )

    @classmethod
    def initMirostatV2(cls, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1) -> Self:
        """Picks a token so that the surprise, in bits, stays near `tau`; drops what would be more surprising than that.

        `eta` is how fast it adapts (0 to 1).

        Maps to `llama_sampler_init_mirostat_v2`.
        """
        arguments = (check.seed_number(seed), check.positive(tau, "tau"), check.within(eta, 0, 1, "eta"))
        return cls._plain("llama_sampler_init_mirostat_v2", lib.llama_sampler_init_mirostat_v2, *arguments, picks=True)

    @classmethod
    def initAdaptiveP(cls, target: float, decay: float = 0.9, seed: int = DEFAULT_SEED) -> Self:
        """Picks a token with a probability near `target`, averaged over the tokens picked so far.

        `target` goes from 0 to 1; a negative one picks by the probabilities as they are. `decay` (0 to 0.99) says how
        long the average reaches back: 1 / (1 - decay) tokens. It learns from `accept`, and belongs at the chain's end.

        Maps to `llama_sampler_init_adaptive_p`.
        """
        if check.finite(target, "target") > 1:
            raise ValueError(f"target is a probability from 0 to 1, or negative to switch it off, not {target}")
        arguments = (float(target), check.within(decay, 0, 0.99, "decay"), check.seed_number(seed))
        return cls._plain(
            "llama_sampler_init_adaptive_p", lib.llama_sampler_init_adaptive_p, *arguments, picks=True, adaptive=True
        )
