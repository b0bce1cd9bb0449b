"""From the fields of a request to a sampler chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import DEFAULT_SEED
from llama_cffi.generation.default_sampler import defaultSampler
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.server.errors import ApiError
from llama_cffi.server.requests import GenerationBody, OpenAIBody

if TYPE_CHECKING:
    from llama_cffi.vocab.vocab import Vocab

_SEEDS = 1 << 32

# Fields of requests, and the parameters of `defaultSampler` that they are.
_NAMES = {
    "temperature": "temperature",
    "top_k": "topK",
    "top_p": "topP",
    "min_p": "minP",
    "typical_p": "typicalP",
    "repeat_penalty": "repeatPenalty",
    "repeat_last_n": "penaltyLastN",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "xtc_probability": "xtcProbability",
    "xtc_threshold": "xtcThreshold",
    "dry_multiplier": "dryMultiplier",
    "dry_base": "dryBase",
    "dry_allowed_length": "dryAllowedLength",
    "dry_penalty_last_n": "dryPenaltyLastN",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostatTau",
    "mirostat_eta": "mirostatEta",
}


def seed_of(seed: int | None, index: int) -> int:
    """Return the seed of a choice: its own for each, and another one each time without a seed (or with -1)."""
    if seed is None or seed == -1:
        return DEFAULT_SEED
    number = (seed + index) % _SEEDS
    return number if number != DEFAULT_SEED else 0


def sampler_of(body: GenerationBody, vocab: Vocab, seed: int, grammar: str | None = None) -> Sampler | None:
    """Return the sampler chain for a request; None for the default one. Raises ApiError and what the samplers raise."""
    options: dict[str, Any] = {}
    for field, name in _NAMES.items():
        value = getattr(body, field, None)
        if value is not None:
            options[name] = value
    if options.get("topK") == -1:
        options["topK"] = 0
    if bias := _bias(body, vocab):
        options["logitBias"] = bias
    if grammar := body.grammar if grammar is None else grammar:
        options["grammar"] = grammar
    return defaultSampler(seed=seed, vocab=vocab, **options) if options else None


def _bias(body: GenerationBody, vocab: Vocab) -> dict[int, float]:
    found = {}
    given = (body.logit_bias or {}) if isinstance(body, OpenAIBody) else {}
    for name, bias in given.items():
        if not (name.isascii() and name.isdecimal()) or int(name[:12]) >= vocab.nTokens:
            text = f"logit_bias: {name[:40]!r} is not a token: tokens are 0 to {vocab.nTokens - 1}"
            raise ApiError(400, text, param="logit_bias", code="invalid_value")
        found[int(name)] = bias
    return found
