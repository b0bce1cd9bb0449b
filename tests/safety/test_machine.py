"""Limits of the machine, as llama.cpp gets to know them."""

from __future__ import annotations

import os

import pytest

from llama_cffi import Ggml
from llama_cffi.embedding import packing


def test_default_numbers_of_threads_follow_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert packing.default_threads() == 2
    with pytest.raises(ValueError, match=r"cpumask .*\[3, 5\], got CPU 4"):
        Ggml.Threadpool(1, cpumask=[4])
