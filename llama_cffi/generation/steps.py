"""What a generation consists of: its steps, why it stopped, what it took; and the usual sampler."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cffi._core.base_types import DEFAULT_SEED, Token
from llama_cffi.sampling.sampler import Sampler

if TYPE_CHECKING:
    from llama_cffi.context.context import Context


class StopReason(enum.Enum):
    """Why a generation stopped."""

    END = "end"
    """The model said that it is done: an end-of-generation token."""
    STOP_STRING = "stop string"
    """One of `stop` came; `stopString` says which."""
    STOP_TOKEN = "stop token"
    """One of `stopTokens` came; `stopToken` says which."""
    LENGTH = "length"
    """There are `maxTokens` tokens."""
    CONTEXT_FULL = "context full"
    """The context has no room for more; `overflow="shift"` makes some."""
    CANCELLED = "cancelled"
    """By `cancel`, by closing, or by Ctrl-C."""


@dataclass(frozen=True)
class Alternative:
    """A token that might have come, and the natural logarithm of its probability."""

    token: Token
    text: str
    logProb: float


@dataclass(frozen=True)
class GenerationStep:
    """A token, and the text that became sure with it: "" while it waits for the rest of a character.

    Where text is left when the last token has come, a step with the token None carries it.
    """

    token: Token | None
    text: str
    logProb: float | None = None
    """The natural logarithm of the token's probability, with `logProbs`. The model's own: before any sampler."""
    alternatives: tuple[Alternative, ...] = ()
    """The likeliest tokens, best first: as many as `logProbs` says."""


@dataclass
class Usage:
    """What a generation took. The times do not count what the consumer of the text did."""

    promptTokens: int = 0
    """Tokens of the prompt, the reused ones among them."""
    reusedTokens: int = 0
    """Tokens of the prompt that the context's memory held already."""
    generatedTokens: int = 0
    """Tokens that came, but for the one that ended it."""
    promptSeconds: float = 0.0
    """From the beginning to the first token."""
    generationSeconds: float = 0.0
    """From the first token to the end."""


def defaultSampler(temperature: float = 0.8, seed: int = DEFAULT_SEED) -> Sampler:
    """The chain that a generation uses where none is given: top-k 40, top-p 0.95, min-p 0.05, temperature 0.8, chance.

    A temperature of 0 always picks the likeliest token. DEFAULT_SEED takes another seed each time.
    """
    chain = Sampler.chainInit()
    if temperature <= 0:
        chain.chainAdd(Sampler.initGreedy())
        return chain
    chain.chainAdd(Sampler.initTopK(40))
    chain.chainAdd(Sampler.initTopP(0.95, 1))
    chain.chainAdd(Sampler.initMinP(0.05, 1))
    chain.chainAdd(Sampler.initTemp(temperature))
    chain.chainAdd(Sampler.initDist(seed))
    return chain


def odds_of(ctx: Context, token: Token, count: int, index: int = -1) -> tuple[float, tuple[Alternative, ...]]:
    """The log-probability of a token in an output (-1: the last one), and the `count` likeliest ones."""
    import numpy as np

    logits = np.asarray(ctx.getLogitsIth(index))
    top = float(logits.max())
    total = top + math.log(np.exp(logits - top).sum(dtype=np.float64))
    best: list[int] = []
    if count:
        some = np.argpartition(logits, -count)[-count:]
        best = some[np.argsort(-logits[some], kind="stable")].tolist()
    vocab = ctx.getModel().vocab
    alternatives = (Alternative(i, vocab.tokenToPiece(i, special=True), float(logits[i]) - total) for i in best)
    return float(logits[token]) - total, tuple(alternatives)
