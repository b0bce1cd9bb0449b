"""Scores of given texts: their log-probabilities, and the best of several continuations of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isnan, nan

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected
from llama_cffi.context.context import Context
from llama_cffi.engine.engine import Engine
from llama_cffi.generation.score import Score, ScoredTokens, score_in_context
from llama_cffi.generation.steps import GenerationStep
from llama_cffi.model.model import Model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
    from typing import Literal
else:
    from llama_cffi._core.stand_ins import dataclass

_NORMALIZATIONS = ("none", "token", "byte")


@dataclass()
class Choice:
    """The best of several continuations, and the scores of all."""

    index: int
    """The number of the best one, from 0 on. Of equal ones, the first."""
    values: list[float]
    """What was compared, for each continuation: its log-probability, or that of a token or byte in the mean."""
    scores: list[Score]
    """The score of each continuation."""

    def __init__(self, index: int, values: list[float], scores: list[Score]) -> None:
        self.index = index
        self.values = values
        self.scores = scores


def score(source: Context | Engine, text: str | Sequence[Token], context: str | Sequence[Token] = "") -> Score:
    """Compute the log-probability of each token of a given text.

    `source` computes: a Context, in its sequence 0, where a prefix of the KV cache is reused; or an Engine, beside its
    requests. `context` comes before the text and is not scored. Both are str and are tokenized together, or both are
    tokens: use `tokenize(vocab, text, parseSpecial=True)` for control tokens. The BOS token comes before them as
    for any text of the model. Without a context, the first token is scored after the BOS token, or after the EOS
    token of a model that has no BOS token, also for models that do not add one. For many texts use `Engine.score`.

    Raises ValueError for a text without tokens, and for a model with an encoder or without a decoder; ContextFullError
    for one longer than the context window (see `perplexity` for long texts); TypeError; and what `decode` raises.
    """
    found = ScoredTokens.check(model_of(source).vocab, text, context)
    [steps] = computed(source, [(found.tokens, found.first)])  # to its end: Ctrl-C is lost where a generator is closed
    return found.score(steps)


def choose(
    source: Context | Engine,
    prompt: str | Sequence[Token],
    continuations: Iterable[str | Sequence[Token]],
    *,
    normalize: Literal["none", "token", "byte"] = "none",
) -> Choice:
    """Find the continuation of a prompt that the model finds the most probable.

    `normalize` says what is compared: "none" the log-probability of a whole continuation, as `acc` of lm-eval does;
    "byte" divides it by the number of bytes, as `acc_norm` does; "token" by the number of tokens. Without it,
    short continuations are favoured. Start continuations with the space that separates them from the prompt, if any.
    If a token spans the end of the prompt and a continuation, all continuations are scored from there on, so that the
    scores can be compared.

    Raises what `score` raises, and ValueError without continuations.
    """
    if normalize not in _NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {', '.join(map(repr, _NORMALIZATIONS))}, got {normalize!r}")
    vocab = model_of(source).vocab
    if isinstance(continuations, (str, bytes)) or not isinstance(continuations, Iterable):
        raise expected("a list of texts", continuations, name="continuations")
    texts = [ScoredTokens.check(vocab, text, prompt, f"continuations[{i}]") for i, text in enumerate(continuations)]
    if not texts:
        raise ValueError("continuations is empty: pass at least one text")
    if any([text.start_added for text in texts]):
        for text in texts:
            if not text.start_added:
                text.add_start(vocab)
    first = min(text.first for text in texts)
    for text in texts:
        text.first = first
    work = computed(source, [(text.tokens, first) for text in texts])
    scores = [text.score(steps) for text, steps in zip(texts, work, strict=True)]
    values = [_value(found, normalize) for found in scores]
    return Choice(max(range(len(values)), key=lambda i: (not isnan(values[i]), values[i], -i)), values, scores)


def _value(found: Score, normalize: str) -> float:
    if normalize == "none":
        return found.sum
    if normalize == "token":
        return found.mean
    return found.sum / found.nBytes if found.nBytes else nan  # of tokens without a text


def model_of(source: Context | Engine) -> Model:
    """The model of a context or an engine. Raises TypeError for anything else."""
    if isinstance(source, Engine):
        return source.model
    if isinstance(source, Context):
        return source.getModel()
    raise expected(
        "a Context or an Engine", source, "Context.initFromModel(model) or Engine(model) makes one", "source"
    )


def computed(source: Context | Engine, work: Iterable[tuple[list[Token], int]]) -> Iterator[list[GenerationStep]]:
    """Yield the steps of each list of tokens, from a number on, in order."""
    if isinstance(source, Engine):
        return source._score(work)
    return (score_in_context(source, tokens, first) for tokens, first in work)
