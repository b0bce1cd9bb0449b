"""Constructors of samplers that read no vocabulary: greedy, dist, mirostat, top-k, top-p, min-p, temperature, ..."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.sampling import checks as check
from llama_cffi.sampling.base import Deferred, SamplerBase, Traits, own_sampler
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

    from llama_cffi._core.ownership import Owned
    from llama_cffi.sampling.interface import SamplerI


class SamplerMakers(SamplerBase):
    """Constructors of `Sampler`."""

    # Samplers that pick a token

    @classmethod
    def init(cls, iface: SamplerI, ctx: object = None) -> Self:
        """Make a sampler written in Python from an object with a method `apply(candidates)`; see `SamplerI`.

        Use it alone or in a chain. It picks a token if its `apply` sets `candidates.selected`. `ctx` may be any object;
        it is stored as `iface.ctx`, for clones as well. Both live as long as the sampler.

        Raises TypeError if `iface` lacks `apply`, or has `accept`, `reset` or `clone` that cannot be called.

        Maps to `llama_sampler_init`.
        """
        from llama_cffi.sampling.custom import CustomSampler

        custom = CustomSampler(iface, ctx)
        return cls._make(custom.make(), Traits(("llama_sampler_init", type(iface)), picks=True), custom=custom)

    @classmethod
    def initGreedy(cls) -> Self:
        """Greedy sampling: picks the most likely token.

        Maps to `llama_sampler_init_greedy`.
        """
        return cls._make_from("llama_sampler_init_greedy", lib.llama_sampler_init_greedy, picks=True)

    @classmethod
    def initDist(cls, seed: int = DEFAULT_SEED) -> Self:
        """Random sampling (dist): picks a token at random, according to the probabilities.

        `seed` is an unsigned 32-bit number; the same seed makes the same picks, and DEFAULT_SEED means a random seed.

        Maps to `llama_sampler_init_dist`.
        """
        number = check.seed_number(seed)
        return cls._make_from("llama_sampler_init_dist", lib.llama_sampler_init_dist, number, picks=True)

    @classmethod
    def initMirostat(
        cls, nVocab: Vocab | int, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1, m: int = 100
    ) -> Self:
        """Mirostat 1.0: picks a token such that the average surprise, in bits, stays near `tau`.

        `nVocab` is the vocabulary or its size. `eta` is the learning rate (0 to 1), and `m` the number of candidates
        used for the estimate (at least 2). Use it instead of top-k, top-p and the like, and on candidates that no
        sampler before has masked with -inf.

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
        return cls._make_from(
            "llama_sampler_init_mirostat", lib.llama_sampler_init_mirostat, *arguments, picks=True, n_vocab=size
        )

    @classmethod
    def initMirostatV2(cls, seed: int = DEFAULT_SEED, tau: float = 5.0, eta: float = 0.1) -> Self:
        """Mirostat 2.0: drops tokens that are too surprising, and picks such that the average, in bits, is near `tau`.

        `eta` is the learning rate (0 to 1).

        Maps to `llama_sampler_init_mirostat_v2`.
        """
        arguments = (check.seed_number(seed), check.positive(tau, "tau"), check.within(eta, 0, 1, "eta"))
        return cls._make_from(
            "llama_sampler_init_mirostat_v2", lib.llama_sampler_init_mirostat_v2, *arguments, picks=True
        )

    @classmethod
    def initAdaptiveP(cls, target: float, decay: float = 0.9, seed: int = DEFAULT_SEED) -> Self:
        """Adaptive-p: picks tokens whose probability is near `target` on average.

        `target` is between 0 and 1; a negative one turns it off: the pick is then random, as with `initDist`. `decay`
        (0 to 0.99) says how far back the average reaches: about 1 / (1 - decay) tokens. It learns from `accept`; put it
        at the end of the chain.

        Maps to `llama_sampler_init_adaptive_p`.
        """
        if check.finite(target, "target") > 1:
            raise ValueError(f"target must be at most 1, got {target}: it is a probability, or negative to turn it off")
        arguments = (float(target), check.within(decay, 0, 0.99, "decay"), check.seed_number(seed))
        return cls._make_from(
            "llama_sampler_init_adaptive_p", lib.llama_sampler_init_adaptive_p, *arguments, picks=True, adaptive=True
        )

    # Samplers that drop candidates

    @classmethod
    def initTopK(cls, k: int) -> Self:
        """Top-k: keeps the `k` most likely tokens; 0 or less keeps all.

        Maps to `llama_sampler_init_top_k`.
        """
        number = integer(k, -(1 << 31), (1 << 31) - 1, "k")
        return cls._make_from("llama_sampler_init_top_k", lib.llama_sampler_init_top_k, number)

    @classmethod
    def initTopP(cls, p: float, minKeep: int = 1) -> Self:
        """Top-p (nucleus): keeps the most likely tokens whose probabilities add up to `p`, at least `minKeep` of them.

        1 or more keeps all.

        Maps to `llama_sampler_init_top_p`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._make_from("llama_sampler_init_top_p", lib.llama_sampler_init_top_p, *arguments)

    @classmethod
    def initMinP(cls, p: float, minKeep: int = 1) -> Self:
        """Min-p: keeps tokens at least `p` times as probable as the most likely one, and at least `minKeep` tokens.

        0 or less keeps all.

        Maps to `llama_sampler_init_min_p`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._make_from("llama_sampler_init_min_p", lib.llama_sampler_init_min_p, *arguments)

    @classmethod
    def initTypical(cls, p: float, minKeep: int = 1) -> Self:
        """Locally typical sampling: keeps the tokens whose surprise is nearest to the entropy.

        They are kept until their probabilities exceed `p`, at least `minKeep` of them; 1 or more keeps all. No sampler
        before it may have masked candidates with -inf.

        Maps to `llama_sampler_init_typical`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._make_from("llama_sampler_init_typical", lib.llama_sampler_init_typical, *arguments)

    @classmethod
    def initXtc(cls, p: float, t: float = 0.1, minKeep: int = 1, seed: int = DEFAULT_SEED) -> Self:
        """XTC (exclude top choices): drops likely tokens to make the text less predictable.

        With probability `p`, it drops all tokens of probability `t` or more except the least likely of them, and keeps
        at least `minKeep` tokens. A `p` of 0 or a `t` above 0.5 turns it off.

        Maps to `llama_sampler_init_xtc`.
        """
        arguments = (
            check.within(p, 0, 1, "p"),
            check.within(t, 0, 1, "t"),
            check.min_keep(minKeep),
            check.seed_number(seed),
        )
        return cls._make_from("llama_sampler_init_xtc", lib.llama_sampler_init_xtc, *arguments)

    @classmethod
    def initTopNSigma(cls, n: float) -> Self:
        """Top-n-sigma: masks with -inf the logits more than `n` standard deviations below the largest.

        0 or less keeps all.

        Maps to `llama_sampler_init_top_n_sigma`.
        """
        return cls._make_from(
            "llama_sampler_init_top_n_sigma", lib.llama_sampler_init_top_n_sigma, check.finite(n, "n")
        )

    # Samplers that change logits

    @classmethod
    def initTemp(cls, t: float) -> Self:
        """Temperature: divides the logits by `t`. Below 1 the pick is less random, above 1 more random.

        0 or less keeps only the most likely token.

        Maps to `llama_sampler_init_temp`.
        """
        return cls._make_from("llama_sampler_init_temp", lib.llama_sampler_init_temp, check.finite(t, "t"))

    @classmethod
    def initTempExt(cls, t: float, delta: float = 0.0, exponent: float = 1.0) -> Self:
        """Dynamic temperature: divides the logits by `t - delta` to `t + delta`, the higher the less sure the model is.

        The place in that range is the entropy of the candidates, divided by the largest possible one and raised to
        `exponent`. A `delta` of 0 makes it `initTemp`.

        Maps to `llama_sampler_init_temp_ext`.
        """
        arguments = (check.finite(t, "t"), check.finite(delta, "delta"), check.finite(exponent, "exponent"))
        if arguments[2] < 0:
            raise ValueError(f"exponent must be at least 0, got {exponent}: 1.0 is linear")
        return cls._make_from("llama_sampler_init_temp_ext", lib.llama_sampler_init_temp_ext, *arguments)

    @classmethod
    def initPenalties(
        cls, penaltyLastN: int, penaltyRepeat: float = 1.0, penaltyFreq: float = 0.0, penaltyPresent: float = 0.0
    ) -> Self:
        """Repetition, frequency and presence penalties: lower the logits of tokens that were accepted recently.

        `penaltyLastN` is the number of latest tokens that count: 0 turns the penalties off, and -1 means the context
        size, which is known from the first `sample` on. `penaltyRepeat` divides the logit (1.0 turns it off),
        `penaltyFreq` is subtracted for each occurrence and `penaltyPresent` once (0.0 turns them off).

        Maps to `llama_sampler_init_penalties`.
        """
        n = check.last_n(penaltyLastN, "penaltyLastN")
        rest = (
            check.positive(penaltyRepeat, "penaltyRepeat", "1.0 turns it off"),
            check.finite(penaltyFreq, "penaltyFreq"),
            check.finite(penaltyPresent, "penaltyPresent"),
        )

        def make(n_ctx: int, n_vocab: int) -> Owned:
            return own_sampler(lib.llama_sampler_init_penalties, n_vocab, n_ctx if n == -1 else n, *rest)

        sampler = cls._make(make(0, 0), Traits(("llama_sampler_init_penalties", n, *rest), last_n=n))
        sampler._deferred = Deferred(make, required=n == -1)
        return sampler

    @classmethod
    def initLogitBias(cls, nVocab: Vocab | int, logitBias: Mapping[int, float] | Iterable[tuple[int, float]]) -> Self:
        """Logit bias: adds numbers to the logits of some tokens.

        `logitBias` is `{token: bias}` or pairs; a bias of -inf rules a token out. `nVocab` is the vocabulary or its
        size. Raises IndexError for a token outside of it.

        Maps to `llama_sampler_init_logit_bias`.
        """
        size = check.vocab_size(nVocab)
        rows = check.biases(logitBias, size)
        array = ffi.new("struct llama_logit_bias[]", rows or 1)
        traits = Traits(("llama_sampler_init_logit_bias", size, *rows), n_vocab=size)
        return cls._make(own_sampler(lib.llama_sampler_init_logit_bias, size, len(rows), array), traits)
