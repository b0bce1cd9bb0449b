"""What a sampler reads logits from: the part of a context that sampling knows."""

from __future__ import annotations

from typing import Any

from llama_cffi._core.handle import Handle


class LogitsSource(Handle):
    """A `Context`, as samplers see it."""

    _nVocab: int
    _serial: int  # no other context has it; NO_SERIAL once the context has samplers of its own
    _samples: bool  # has samplers of its own
    _limits: Any  # a shim_limits: what the context accepts, and how many outputs there are

    @property
    def nCtx(self) -> int:
        """The size of the context in tokens, all sequences together."""
        raise NotImplementedError

    def _no_output(self, idx: int) -> str:
        """Why entry `idx` of the last batch has no output."""
        raise NotImplementedError


NO_SERIAL = 0  # of a context whose samplers may have picked a token: no sampler is checked for it once and for all
