"""The sampler chain that is used if you pass none, and chains made of the usual numbers."""

from __future__ import annotations

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi._core.checks import expected, integer
from llama_cffi.sampling import checks as check
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llama_cffi.vocab.vocab import Vocab


def defaultSampler(
    temperature: float = 0.8,
    seed: int = DEFAULT_SEED,
    *,
    topK: int = 40,
    topP: float = 0.95,
    minP: float = 0.05,
    typicalP: float = 1.0,
    xtcProbability: float = 0.0,
    xtcThreshold: float = 0.1,
    penaltyLastN: int = 64,
    repeatPenalty: float = 1.0,
    frequencyPenalty: float = 0.0,
    presencePenalty: float = 0.0,
    dryMultiplier: float = 0.0,
    dryBase: float = 1.75,
    dryAllowedLength: int = 2,
    dryPenaltyLastN: int = -1,
    drySequenceBreakers: Iterable[str] | None = None,
    mirostat: int = 0,
    mirostatTau: float = 5.0,
    mirostatEta: float = 0.1,
    logitBias: Mapping[int, float] | Iterable[tuple[int, float]] | None = None,
    grammar: str | None = None,
    vocab: Vocab | None = None,
) -> Sampler:
    """Make the default sampler chain: top-k 40, top-p 0.95, min-p 0.05, temperature 0.8, then random sampling (dist).

    A temperature of 0 or less is greedy: always the most probable token. A `topK` of 0 or less keeps all. `topP`,
    `minP` and `typicalP` are between 0 and 1. DEFAULT_SEED takes a different seed each time.

    The other numbers add samplers, in the order of llama.cpp's own programs: `logitBias`, `grammar` (GBNF), penalties,
    DRY, top-k, locally typical, top-p, min-p, XTC, temperature, dist. Their defaults turn them off. `mirostat` 1 or 2
    replaces all after DRY but the temperature. Each is described at its constructor: `Sampler.initPenalties` and so on.

    `logitBias`, `grammar`, DRY and `mirostat` 1 need `vocab`. Raises what the constructors raise.
    """
    heat = check.finite(temperature, "temperature")
    integer(topK, -(1 << 31), (1 << 31) - 1, "topK")
    for name, share, off in (("topP", topP, "1 keeps all"), ("minP", minP, "0 keeps all"), ("typicalP", typicalP, "")):
        check.within(share, 0, 1, name, off)
    check.within(xtcProbability, 0, 1, "xtcProbability", "0 turns it off")
    check.within(xtcThreshold, 0, 1, "xtcThreshold")
    check.positive(repeatPenalty, "repeatPenalty", "1.0 turns it off")
    for name, penalty in (("frequencyPenalty", frequencyPenalty), ("presencePenalty", presencePenalty)):
        check.finite(penalty, name)
    chain = []
    if logitBias is not None:
        chain.append(Sampler.initLogitBias(_need(vocab, "logitBias"), logitBias))
    if grammar is not None:
        chain.append(Sampler.initGrammar(_need(vocab, "grammar"), grammar))
    if (repeatPenalty, frequencyPenalty, presencePenalty) != (1.0, 0.0, 0.0):
        chain.append(Sampler.initPenalties(penaltyLastN, repeatPenalty, frequencyPenalty, presencePenalty))
    if dryMultiplier != 0:
        dry = dryMultiplier, dryBase, dryAllowedLength, dryPenaltyLastN
        breakers = () if drySequenceBreakers is None else (drySequenceBreakers,)
        chain.append(Sampler.initDry(_need(vocab, "dryMultiplier"), *dry, *breakers))
    # Entropies and averages are NaN with candidates of probability 0: this drops them, and next to nothing else.
    masked = [] if logitBias is None and grammar is None else [Sampler.initMinP(1e-30, 1)]
    version = integer(mirostat, 0, 2, "mirostat")
    if heat <= 0:
        chain.append(Sampler.initGreedy())
    elif version:
        chain.append(Sampler.initTemp(temperature))
        if version == 1:
            chain += masked
            chain.append(Sampler.initMirostat(_need(vocab, "mirostat"), seed, mirostatTau, mirostatEta))
        else:
            chain.append(Sampler.initMirostatV2(seed, mirostatTau, mirostatEta))
    else:
        chain.append(Sampler.initTopK(topK))
        if typicalP != 1:
            chain += masked
            chain.append(Sampler.initTypical(typicalP, 1))
        chain += [Sampler.initTopP(topP, 1), Sampler.initMinP(minP, 1)]
        if xtcProbability != 0:
            chain.append(Sampler.initXtc(xtcProbability, xtcThreshold, 1, seed))
        chain += [Sampler.initTemp(temperature), Sampler.initDist(seed)]
    return Sampler.chain(*chain, noPerf=True)


def _need(vocab: Vocab | None, name: str) -> Vocab:
    """Return a vocabulary; raise TypeError if there is none."""
    if vocab is None:
        raise expected("a Vocab", vocab, f"{name} needs it: pass model.vocab", "vocab")
    return vocab
