"""Samplers that drop candidates or change their logits by arithmetic: the constructors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.sampling import checks as check
from llama_cffi.sampling.base import SamplerBase, Traits
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from typing_extensions import Self


class WeighingSamplers(SamplerBase):
    """Constructors of `Sampler`."""

    @classmethod
    def initTopK(cls, k: int) -> Self:
        """Keeps the `k` most likely tokens; 0 or less keeps all.

        Maps to `llama_sampler_init_top_k`.
        """
        number = integer(k, -(1 << 31), (1 << 31) - 1, "k")
        return cls._plain("llama_sampler_init_top_k", lib.llama_sampler_init_top_k, number)

    @classmethod
    def initTopP(cls, p: float, minKeep: int = 1) -> Self:
        """Keeps the most likely tokens whose probabilities add up to `p`, and at least `minKeep`; 1 or more keeps all.

        Maps to `llama_sampler_init_top_p`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._plain("llama_sampler_init_top_p", lib.llama_sampler_init_top_p, *arguments)

    @classmethod
    def initMinP(cls, p: float, minKeep: int = 1) -> Self:
        """Keeps the tokens that are at least `p` times as likely as the likeliest, and at least `minKeep` tokens.

        0 or less keeps all.

        Maps to `llama_sampler_init_min_p`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._plain("llama_sampler_init_min_p", lib.llama_sampler_init_min_p, *arguments)

    @classmethod
    def initTypical(cls, p: float, minKeep: int = 1) -> Self:
        """Keeps the tokens whose surprise is nearest to the expected one, until their probabilities exceed `p`.

        At least `minKeep` are kept; a `p` of 1 or more keeps all. The candidates must not have been masked with -inf.

        Maps to `llama_sampler_init_typical`.
        """
        arguments = (check.finite(p, "p"), check.min_keep(minKeep))
        return cls._plain("llama_sampler_init_typical", lib.llama_sampler_init_typical, *arguments)

    @classmethod
    def initXtc(cls, p: float, t: float = 0.1, minKeep: int = 1, seed: int = DEFAULT_SEED) -> Self:
        """With probability `p`, drops all of the tokens of probability `t` or more but the least likely of them.

        At least `minKeep` tokens are kept. A `p` of 0 or a `t` above 0.5 switches it off.

        Maps to `llama_sampler_init_xtc`.
        """
        arguments = (
            check.within(p, 0, 1, "p"),
            check.within(t, 0, 1, "t"),
            check.min_keep(minKeep),
            check.seed_number(seed),
        )
        return cls._plain("llama_sampler_init_xtc", lib.llama_sampler_init_xtc, *arguments)

    @classmethod
    def initTopNSigma(cls, n: float) -> Self:
        """Masks with -inf the tokens whose logit is more than `n` standard deviations below the largest.

        0 or less keeps all.

        Maps to `llama_sampler_init_top_n_sigma`.
        """
        return cls._plain("llama_sampler_init_top_n_sigma", lib.llama_sampler_init_top_n_sigma, check.finite(n, "n"))

    @classmethod
    def initTemp(cls, t: float) -> Self:
        """Divides the logits by `t`: below 1 the choice narrows, above it widens; 0 or less keeps only the likeliest.

        Maps to `llama_sampler_init_temp`.
        """
        return cls._plain("llama_sampler_init_temp", lib.llama_sampler_init_temp, check.finite(t, "t"))

    @classmethod
    def initTempExt(cls, t: float, delta: float = 0.0, exponent: float = 1.0) -> Self:
        """Divides the logits by a temperature from `t - delta` to `t + delta`, the higher the less sure the model is.

        The entropy of the candidates, as a part of the largest possible one, is raised to `exponent` and says where in
        that range. A `delta` of 0 is `initTemp`.

        Maps to `llama_sampler_init_temp_ext`.
        """
        arguments = (check.finite(t, "t"), check.finite(delta, "delta"), check.finite(exponent, "exponent"))
        if arguments[2] < 0:
            raise ValueError(f"exponent is 0 or more (1.0 is linear), not {exponent}")
        return cls._plain("llama_sampler_init_temp_ext", lib.llama_sampler_init_temp_ext, *arguments)

    @classmethod
    def initPenalties(
        cls, penaltyLastN: int, penaltyRepeat: float = 1.0, penaltyFreq: float = 0.0, penaltyPresent: float = 0.0
    ) -> Self:
        """Makes tokens less likely that were accepted lately.

        `penaltyLastN` is how many tokens back count: 0 switches it off, -1 means the context size, which becomes
        known with the first `sample`. `penaltyRepeat` divides (1.0 is off), `penaltyFreq` subtracts for each
        occurrence and `penaltyPresent` for the first (0.0 is off).

        Maps to `llama_sampler_init_penalties`.
        """
        n = check.last_n(penaltyLastN, "penaltyLastN")
        rest = (
            check.positive(penaltyRepeat, "penaltyRepeat", "1.0 is off"),
            check.finite(penaltyFreq, "penaltyFreq"),
            check.finite(penaltyPresent, "penaltyPresent"),
        )

        def make(n_ctx: int, n_vocab: int) -> Any:
            return lib.llama_sampler_init_penalties(n_vocab, n_ctx if n == -1 else n, *rest)

        sampler = cls._make(make(0, 0), Traits(("llama_sampler_init_penalties", n, *rest)))
        sampler._deferred_init, sampler._needs_context = make, n == -1
        return sampler

    @classmethod
    def initLogitBias(cls, nVocab: Vocab | int, logitBias: Mapping[int, float] | Iterable[tuple[int, float]]) -> Self:
        """Adds to the logits of some tokens: `{token: bias}`, or pairs; -inf rules a token out.

        `nVocab` is the vocabulary or its size. Raises IndexError for a token that it does not have.

        Maps to `llama_sampler_init_logit_bias`.
        """
        size = check.vocab_size(nVocab)
        rows = check.biases(logitBias, size)
        array = ffi.new("struct llama_logit_bias[]", rows or 1)
        traits = Traits(("llama_sampler_init_logit_bias", size, *rows), n_vocab=size)
        return cls._make(lib.llama_sampler_init_logit_bias(size, len(rows), array), traits)
