"""`SamplerI`: what a sampler written in Python must have. Only programs that name it import this module."""

from __future__ import annotations

from typing import Protocol

from llama_cffi.sampling.token_data_array import TokenDataArray


class SamplerI(Protocol):
    """Interface of a sampler written in Python, for `Sampler.init`; only `apply` is required.

    - `apply(candidates)` changes the candidates: their logits, their order, their number, or `candidates.selected` to
      pick one. The `TokenDataArray` is valid until `apply` returns; later use raises ClosedError.
    - `accept(token)` is called with the token that came next.
    - `acceptPrompt(tokens)` is called with the tokens of a prompt, after `reset`; without it, a sampler does not see
      the prompt. It is for penalties. See `penalizePrompt` of `Generation`.
    - `reset()` forgets the accepted tokens.
    - `clone()` returns an object with the same state. `Sampler.clone` raises TypeError without it.
    - `name` is a str; the default is the name of the class.

    Their exceptions reach the caller of `sample`, `apply`, `accept`, `reset` or `clone`. While one of them runs, its
    sampler, the chain around it and the context are in use, so calling these raises BusyError.

    Maps to `llama_sampler_i`.
    """

    def apply(self, candidates: TokenDataArray, /) -> object:
        """Change the candidates in place."""
