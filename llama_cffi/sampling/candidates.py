"""Copies of candidates: out of a context, and out of C's array and back for samplers written in Python."""

from __future__ import annotations

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.sampling.token_data import SIZE
from llama_cffi.sampling.token_data_array import TokenDataArray

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def candidates_of(context: Any, idx: int, n_vocab: int) -> TokenDataArray:
    """Return the candidates for an entry of the last batch: those a sampler on the device left, or all logits.

    `context` is the C pointer; the entry was checked.
    """
    if not has("llama_get_sampled_candidates_ith"):  # then contexts have no samplers
        return TokenDataArray.fromLogits(ffi.buffer(lib.llama_get_logits_ith(context, idx), 4 * n_vocab))
    ids = lib.llama_get_sampled_candidates_ith(context, idx)
    probs, logits = lib.llama_get_sampled_probs_ith(context, idx), lib.llama_get_sampled_logits_ith(context, idx)
    if ids == ffi.NULL or (probs == ffi.NULL and logits == ffi.NULL):
        return TokenDataArray.fromLogits(ffi.buffer(lib.llama_get_logits_ith(context, idx), 4 * n_vocab))
    if probs != ffi.NULL:
        count = lib.llama_get_sampled_probs_count_ith(context, idx)
    else:
        count = lib.llama_get_sampled_logits_count_ith(context, idx)
    candidates = TokenDataArray(count)
    candidates._words("i")[0::3] = memoryview(ffi.buffer(ids, 4 * count)).cast("i")
    for offset, values in ((1, logits), (2, probs)):
        if values != ffi.NULL:
            candidates._words("f")[offset::3] = memoryview(ffi.buffer(values, 4 * count)).cast("f")
    return candidates


def copy_out(candidates: Any) -> TokenDataArray:
    """Return a copy of a `llama_token_data_array *` of C, for Python code that may keep views of it."""
    copy = TokenDataArray(candidates.size)
    ffi.memmove(copy._array, candidates.data, SIZE * candidates.size)
    copy._c.selected, copy._c.sorted = candidates.selected, candidates.sorted
    return copy


def copy_back(copy: TokenDataArray, candidates: Any) -> None:
    """Write a changed copy back to the array of C."""
    struct = copy._alive()
    ffi.memmove(candidates.data, copy._array, SIZE * struct.size)
    candidates.size, candidates.sorted, candidates.selected = struct.size, struct.sorted, copy.selected
