"""`llama_cpp.llama_speculative`: guesses for `draft_model` of a `Llama`."""

from __future__ import annotations

from llama_cffi.generation.prompt_lookup import PromptLookup


class LlamaDraftModel:
    """What `draft_model` may be: `LlamaPromptLookupDecoding`."""


class LlamaPromptLookupDecoding(LlamaDraftModel):
    """Guesses that the text repeats its prompt: a `PromptLookup`.

    A shorter match than `max_ngram_size` counts there; here all matches of 2 tokens do, and longer ones count more.
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        self.max_ngram_size, self.num_pred_tokens = max_ngram_size, num_pred_tokens
        self._speculation = PromptLookup(min(max_ngram_size, 2), num_pred_tokens)
