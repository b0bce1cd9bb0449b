"""Texts under a constraint without a model: its tokens are the bytes, and each is picked by chance."""

from __future__ import annotations

import random
from typing import Any

from llama_cffi import Constraint
from llama_cffi.constrain import guidance

_END = 256
_CLOSING = b'"}],:'


def matcher(constraint: Constraint[Any]) -> Any:
    """A new matcher of llguidance, whose tokens are the bytes and an end."""
    assert isinstance(constraint._grammar, guidance.Grammar)
    return constraint._grammar.compile(guidance._trial())


def accepts(constraint: Constraint[Any], text: str) -> bool:
    """Whether a constraint allows a text, and that it ends there."""
    data = [*text.encode()]
    found = matcher(constraint)
    return found.try_consume_tokens(data) == len(data) and bool(found.is_accepting())


def write(constraint: Constraint[Any], seed: int, limit: int = 2000) -> str | None:
    """A text by chance; None if it has no end within `limit` bytes."""
    found, chance, text = matcher(constraint), random.Random(seed), bytearray()
    for _ in range(limit):
        mask = found.compute_bitmask()
        assert not found.is_error(), (bytes(text), found.get_error())
        allowed = [token for token in range(_END + 1) if mask[token >> 3] >> (token & 7) & 1]
        assert allowed, bytes(text)
        if allowed[-1] == _END and (len(allowed) == 1 or chance.random() < 0.5):
            return text.decode()
        data = [token for token in allowed if token != _END]
        closing = [token for token in data if token in _CLOSING]
        text.append(chance.choice(closing if closing and chance.random() < 0.3 else data))
        assert found.consume_token(text[-1])
    return None
