"""The basic types and constants of the specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from llama_cffi._core.ffi import lib

if TYPE_CHECKING:
    from typing import TypeAlias

Token: TypeAlias = int
"""A token's number in its vocabulary. Maps to `llama_token`."""

Pos: TypeAlias = int
"""A token's place in its sequence, from 0. Maps to `llama_pos`."""

SeqId: TypeAlias = int
"""A sequence's number in its context, from 0. Maps to `llama_seq_id`."""

ProgressCallback: TypeAlias = "Callable[[float], bool | None] | Callable[[float, Any], bool | None]"
"""Told how much of a model is loaded, from 0 to 1, and its user data where there is some; returns False to stop.
Maps to `llama_progress_callback`.
"""

DEFAULT_SEED: Final = lib.LLAMA_DEFAULT_SEED
"""Asks a sampler for a random seed. Maps to `LLAMA_DEFAULT_SEED`."""

TOKEN_NULL: Final = lib.LLAMA_TOKEN_NULL
"""No token. Maps to `LLAMA_TOKEN_NULL`."""
