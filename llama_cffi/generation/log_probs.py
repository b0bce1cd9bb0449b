"""Log-probabilities of tokens, from the logits of the last decode."""

from __future__ import annotations

from llama_cffi._core.ffi import ffi, lib
from llama_cffi.generation.steps import Alternative, GenerationStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama_cffi._core.base_types import Token
    from llama_cffi.context.context import Context
    from llama_cffi.vocab.vocab import Vocab

_ROW_BYTES = 32 << 20  # logits of a prompt that are in memory at once


def log_probs(ctx: Context, token: Token, count: int, index: int = -1) -> tuple[float, tuple[Alternative, ...]]:
    """Return the log-probability of a token in an output (-1: the last one), and the `count` most probable tokens."""
    best, values = ffi.new("int32_t[]", count), ffi.new("double[]", count)
    with ctx._exclusive() as pointer:
        logits = lib.shim_logits(pointer, ctx._limits, index)
        if not logits:
            raise IndexError(ctx._no_output(index))
        log_prob = lib.shim_log_probs(logits, ctx._nVocab, token, count, best, values)
    return log_prob, _alternatives(ctx.getModel().vocab, best, values)


def prompt_log_probs(ctx: Context, tokens: Sequence[Token], count: int, first: int) -> list[GenerationStep]:
    """Return the log-probability of each of these tokens and its alternatives.

    The first token is scored by the output of entry `first` of the last batch, the next one by that of the next entry,
    and so on.
    """
    n = len(tokens)
    scores, best, values = ffi.new("double[]", n), ffi.new("int32_t[]", n * count), ffi.new("double[]", n * count)
    with ctx._exclusive() as pointer:
        missing = lib.shim_score_rows(
            pointer, ctx._limits, first, n, ffi.new("int32_t[]", list(tokens)), scores, count, best, values
        )
    if missing == lib.SHIM_SAMPLE_NO_MEMORY:
        raise MemoryError("there is no memory to score the tokens of the prompt")
    if missing >= 0:
        raise IndexError(ctx._no_output(missing))
    vocab, steps = ctx.getModel().vocab, []
    for i, token in enumerate(tokens):
        part = slice(i * count, (i + 1) * count)
        alternatives = _alternatives(vocab, best[part], values[part])
        steps.append(GenerationStep(token, vocab.tokenToPiece(token, special=True), scores[i], alternatives))
    return steps


def scored_rows(n_vocab: int) -> int:
    """The number of prompt tokens that are scored at once: their logits take at most 32 MiB, but it is at least 1."""
    return max(1, _ROW_BYTES // (4 * n_vocab))


def _alternatives(vocab: Vocab, best: Iterable[Token], values: Iterable[float]) -> tuple[Alternative, ...]:
    pairs = zip(best, values, strict=True)
    return tuple(Alternative(token, vocab.tokenToPiece(token, special=True), value) for token, value in pairs)
