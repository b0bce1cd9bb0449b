"""From the fields of a request to a sampler chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.server.errors import ApiError
from llama_cffi.server.requests import GenerationBody, OpenAIBody

if TYPE_CHECKING:
    from llama_cffi.vocab.vocab import Vocab

_LAST_N = 64  # tokens that penalties look at, as in llama.cpp
# llama.cpp's defaults, which `defaultSampler` has too.
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P = 0.8, 40, 0.95, 0.05
_SEEDS = 1 << 32


def seed_of(seed: int | None, index: int) -> int:
    """Return the seed of a choice: its own for each, and another one each time without a seed (or with -1)."""
    if seed is None or seed == -1:
        return DEFAULT_SEED
    number = (seed + index) % _SEEDS
    return number if number != DEFAULT_SEED else 0


def sampler_of(body: GenerationBody, vocab: Vocab, seed: int, grammar: str | None = None) -> Sampler | None:
    """Return the chain for a request: logit bias, grammar, penalties, top-k, typical, top-p, min-p, temperature, dist.

    Returns None for the default sampler. Raises ApiError and GrammarError.
    """
    grammar = body.grammar if grammar is None else grammar
    bias = _bias(body, vocab)
    penalties = _penalties(body)
    given = (body.temperature, body.top_k, body.top_p, body.min_p, body.typical_p)
    if not bias and not grammar and penalties is None and all(value is None for value in given):
        return None
    chain: list[Sampler] = []
    if bias:
        chain.append(Sampler.initLogitBias(vocab, bias))
    if grammar:
        chain.append(Sampler.initGrammar(vocab, grammar))
    if penalties is not None:
        chain.append(penalties)
    temperature = _or(body.temperature, _TEMPERATURE)
    if temperature == 0:
        chain.append(Sampler.initGreedy())
        return Sampler.chain(*chain, noPerf=True)
    top_k, top_p = _or(body.top_k, _TOP_K), _or(body.top_p, _TOP_P)
    min_p, typical = _or(body.min_p, _MIN_P), _or(body.typical_p, 1.0)
    if top_k > 0:
        chain.append(Sampler.initTopK(int(top_k)))
    if typical < 1:
        chain.append(Sampler.initTypical(typical, 1))
    if top_p < 1:
        chain.append(Sampler.initTopP(top_p, 1))
    if min_p > 0:
        chain.append(Sampler.initMinP(min_p, 1))
    chain += [Sampler.initTemp(temperature), Sampler.initDist(seed)]
    return Sampler.chain(*chain, noPerf=True)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _penalties(body: GenerationBody) -> Sampler | None:
    frequency = presence = 0.0
    if isinstance(body, OpenAIBody):
        frequency, presence = body.frequency_penalty or 0.0, body.presence_penalty or 0.0
    repeat = _or(body.repeat_penalty, 1.0)
    last = _LAST_N if body.repeat_last_n is None else body.repeat_last_n
    if (repeat == 1 and not frequency and not presence) or last == 0:
        return None
    return Sampler.initPenalties(last, repeat, frequency, presence)


def _bias(body: GenerationBody, vocab: Vocab) -> dict[int, float]:
    found = {}
    given = (body.logit_bias or {}) if isinstance(body, OpenAIBody) else {}
    for name, bias in given.items():
        if not (name.isascii() and name.isdecimal()) or int(name[:12]) >= vocab.nTokens:
            text = f"logit_bias: {name[:40]!r} is not a token: tokens are 0 to {vocab.nTokens - 1}"
            raise ApiError(400, text, param="logit_bias", code="invalid_value")
        found[int(name)] = bias
    return found
