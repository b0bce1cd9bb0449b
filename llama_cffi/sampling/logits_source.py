"""The part of a context that samplers use: they read logits from it, and sampling does not import contexts."""

from __future__ import annotations

from llama_cffi._core.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class LogitsSource(Handle):
    """Base class of `Context`, with what samplers use of it."""

    _nVocab: int
    _serial: int  # unique number of the context; NO_SERIAL once samplers run with its model
    _samples: bool  # True once samplers run with its model
    _limits: Any  # a `struct shim_limits *`: what the context accepts, and how many outputs there are

    @property
    def nCtx(self) -> int:
        """Size of the context window in tokens, for all sequences together."""
        raise NotImplementedError

    def _no_output(self, idx: int) -> str:
        """Return the message for entry `idx` of the last batch, which has no output."""
        raise NotImplementedError


NO_SERIAL = 0  # a context whose own samplers may have picked the token: samplers are checked at each call
