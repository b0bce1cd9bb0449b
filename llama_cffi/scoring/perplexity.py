"""Perplexity of long texts: in chunks, as llama.cpp's llama-perplexity, or with a sliding window."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from math import isfinite, nan, sqrt

from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi.context.context import Context
from llama_cffi.engine.engine import Engine
from llama_cffi.generation.request_options import INT32_MAX
from llama_cffi.generation.score import exp_or_inf, read_tokens
from llama_cffi.generation.token_cache import context_capacity
from llama_cffi.scoring.score import computed, model_of
from llama_cffi.vocab.tokenize import tokenize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from llama_cffi._core.stand_ins import dataclass

_LEAST = 3  # tokens of a chunk: the second half of fewer has nothing to count


@dataclass()
class Perplexity:
    """How well a model predicts a text: the lower, the better."""

    value: float
    """The perplexity: exp(-logProb / nTokens)."""
    error: float
    """The standard error of `value`, as if tokens were independent. 0 for a single token, or for an infinite value."""
    logProb: float
    """The sum of the log-probabilities of the counted tokens."""
    nTokens: int
    """The number of counted tokens."""
    nWindows: int
    """The number of chunks, or positions of the window."""

    def __init__(self, value: float, error: float, logProb: float, nTokens: int, nWindows: int) -> None:
        self.value = value
        self.error = error
        self.logProb = logProb
        self.nTokens = nTokens
        self.nWindows = nWindows


def perplexity(
    source: Context | Engine,
    text: str | Sequence[Token],
    *,
    nCtx: int = 512,
    stride: int | None = None,
    progress: Callable[[int, int, Perplexity], object] | None = None,
) -> Perplexity:
    """Compute the perplexity of a text of any length, or of its tokens.

    `stride` None uses the rule of llama.cpp's llama-perplexity, so that the numbers can be compared: the text, with the
    BOS token if the model adds it, is cut into chunks of `nCtx` tokens, a rest is left out, and the tokens after the
    first half of each chunk are counted. BOS replaces the first token of each chunk.

    With `stride`, a window of `nCtx` tokens moves by `stride` tokens, and those that are new in it are counted: every
    token of the text once. This is the sliding window of Hugging Face's documentation. It takes nCtx / stride times as
    long, but each token has at least `nCtx - stride` tokens before it.

    `source` computes: a Context, in its sequence 0; or an Engine, several windows at once. `progress` is called after
    each window with the number of windows done, their total, and the result so far; an exception in it is raised here.
    Logits are read batch by batch: memory grows with the text only by its tokens.

    Raises ValueError for a text that is too short, for an `nCtx` beyond the context window, and for a model with an
    encoder or without a decoder; TypeError; and what `decode` raises.
    """
    model = model_of(source)
    if progress is not None and not callable(progress):
        raise expected("a function", progress, name="progress")
    capacity = source._capacity if isinstance(source, Engine) else context_capacity(source)
    most = min(capacity or INT32_MAX, INT32_MAX)
    size = integer(nCtx, _LEAST, most, "nCtx", "raise nCtx of the context, or use a smaller window")
    vocab = model.vocab
    begin = vocab.bos if vocab.getAddBos() else TOKEN_NULL
    if isinstance(text, str):
        tokens = array("i", tokenize(vocab, text, addSpecial=False))
        if begin != TOKEN_NULL:
            tokens.insert(0, begin)
    else:
        tokens = array("i", read_tokens(vocab, text, "text"))
    if stride is None:
        if len(tokens) < size:
            raise ValueError(
                f"text must have at least {size} tokens, one chunk of nCtx, got {len(tokens)}: pass a smaller nCtx, or "
                "a stride, which counts every token"
            )
        windows, total = _chunks(tokens, size, begin), len(tokens) // size
    else:
        step = integer(stride, 1, size, "stride", "the window is nCtx tokens long")
        if len(tokens) < 2:
            raise ValueError(
                f"text must have at least 2 tokens, got {len(tokens)}: the first one has nothing before it"
            )
        windows, total = _sliding(tokens, size, step), 1 + max(0, -(-(len(tokens) - size) // step))
    sums = _Sums()
    for done, steps in enumerate(computed(source, windows), 1):
        for each in steps:
            sums.add(each.logProb or 0.0)
        if progress is not None:
            progress(done, total, sums.result(done))
    return sums.result(total)


def _chunks(tokens: array[int], size: int, begin: Token) -> Iterator[tuple[list[Token], int]]:
    """The chunks of the text, and the first token of each to count."""
    for start in range(0, len(tokens) - size + 1, size):
        chunk = tokens[start : start + size].tolist()
        if begin != TOKEN_NULL:
            chunk[0] = begin
        yield chunk, size // 2 + 1


def _sliding(tokens: array[int], size: int, stride: int) -> Iterator[tuple[list[Token], int]]:
    """The positions of the window, and the first token that is new in each."""
    known = 1  # the first token has nothing before it
    for start in range(0, len(tokens), stride):
        window = tokens[start : start + size].tolist()
        yield window, max(1, known - start)
        known = start + len(window)
        if known == len(tokens):
            return


class _Sums:
    """The sums of log-probabilities and of their squares."""

    def __init__(self) -> None:
        self.n = 0
        self.first = self.second = 0.0

    def add(self, log_prob: float) -> None:
        self.n += 1
        self.first += log_prob
        self.second += log_prob * log_prob

    def result(self, windows: int) -> Perplexity:
        if not self.n:
            return Perplexity(nan, 0.0, 0.0, 0, windows)
        mean = self.first / self.n
        value = exp_or_inf(-mean)
        spread = self.second / self.n - mean * mean
        error = value * sqrt(spread / (self.n - 1)) if self.n > 1 and isfinite(value) and spread > 0 else 0.0
        return Perplexity(value, error, self.first, self.n, windows)
