"""The basic types and constants of the specification: Token, Pos, SeqId, DEFAULT_SEED, TOKEN_NULL."""

from __future__ import annotations

from collections.abc import Callable

from llama_cffi._core.ffi import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, TypeAlias

Token: TypeAlias = int
"""The number of a token in its vocabulary. Maps to `llama_token`."""

Pos: TypeAlias = int
"""The position of a token in its sequence, from 0. Maps to `llama_pos`."""

SeqId: TypeAlias = int
"""The number of a sequence in its context, from 0. Maps to `llama_seq_id`."""

ProgressCallback: TypeAlias = "Callable[[float], bool | None] | Callable[[float, Any], bool | None]"
"""Called with the loaded part of a model, from 0 to 1, and the user data unless it is None. Returns False to stop.
Maps to `llama_progress_callback`.
"""

DEFAULT_SEED: Final = lib.LLAMA_DEFAULT_SEED
"""The seed that stands for a random one. Maps to `LLAMA_DEFAULT_SEED`."""

TOKEN_NULL: Final = lib.LLAMA_TOKEN_NULL
"""Stands for no token. Maps to `LLAMA_TOKEN_NULL`."""
