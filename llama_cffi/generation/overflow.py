"""The words for `overflow`: what to do when a text outgrows the context window.

| `overflow` | the prompt or conversation does not fit | the window becomes full while text is generated |
|---|---|---|
| "stop", "error" | ContextFullError | the text ends with StopReason.CONTEXT_FULL |
| "shift" (generations) | ContextFullError | discard half of the tokens after `nKeep`, and go on |
| "drop" (chats) | drop the oldest turns; ContextFullError if that is not enough | as "stop" |

A word means the same everywhere. "error" and "stop" are two names of one policy.
"""

from __future__ import annotations

from collections.abc import Sequence

_ELSEWHERE = {
    "shift": "a chat decodes its history again in every turn: use Generation, or drop",
    "drop": "only a conversation has turns to drop: use ChatSession",
}


def check_overflow(overflow: str, allowed: Sequence[str]) -> None:
    """Raise ValueError for a word that is not one of `allowed`."""
    if overflow not in allowed:
        words = ", ".join(f'"{word}"' for word in allowed)
        hint = _ELSEWHERE.get(overflow) if isinstance(overflow, str) else None
        raise ValueError(f"overflow must be one of {words}, got {overflow!r}{f': {hint}' if hint else ''}")
