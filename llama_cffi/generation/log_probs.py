"""Log-probabilities of tokens, from the logits of the last decode."""

from __future__ import annotations

from llama_cffi._core.ffi import ffi, lib
from llama_cffi.generation.steps import Alternative

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi._core.base_types import Token
    from llama_cffi.context.context import Context


def log_probs(ctx: Context, token: Token, count: int, index: int = -1) -> tuple[float, tuple[Alternative, ...]]:
    """Return the log-probability of a token in an output (-1: the last one), and the `count` most probable tokens."""
    best, values = ffi.new("int32_t[]", count), ffi.new("double[]", count)
    with ctx._exclusive() as pointer:
        logits = lib.shim_logits(pointer, ctx._limits, index)
        if not logits:
            raise IndexError(ctx._no_output(index))
        log_prob = lib.shim_log_probs(logits, ctx._nVocab, token, count, best, values)
    vocab = ctx.getModel().vocab
    pairs = zip(best, values, strict=True)
    return log_prob, tuple(Alternative(i, vocab.tokenToPiece(i, special=True), value) for i, value in pairs)
