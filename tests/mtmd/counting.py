"""Counts how often a projector encodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llama_cffi import Mtmd


@contextmanager
def encodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield a list that gets the number of tokens of each image or sound that is encoded in the block."""
    seen: list[int] = []
    encode = Mtmd.Context._encode

    def counted(projector: Mtmd.Context, pointer: Any, chunk: Any) -> None:
        encode(projector, pointer, chunk)
        seen.append(projector._encoded)

    with monkeypatch.context() as patch:
        patch.setattr(Mtmd.Context, "_encode", counted)
        yield seen
