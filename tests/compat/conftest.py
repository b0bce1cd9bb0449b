"""A `Llama` of the tiny model, and one of the chat model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cffi.compat import Llama

THREADS = {"n_threads": 1, "n_threads_batch": 1, "verbose": False}


@pytest.fixture(scope="module")
def llama(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), n_ctx=256, seed=1, **THREADS) as made:
        yield made


@pytest.fixture(scope="module")
def scored(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), n_ctx=256, n_batch=16, seed=1, logits_all=True, **THREADS) as made:
        yield made


# A template that cannot offer tools.
PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def smol_llama(smol_path: Path) -> Iterator[Llama]:
    with Llama(str(smol_path), n_ctx=512, seed=1, **THREADS) as made:
        yield made


@pytest.fixture(scope="module")
def chatty(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), n_ctx=512, seed=1, chat_format=PLAIN, **THREADS) as made:
        yield made


@pytest.fixture(scope="module")
def calling(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), n_ctx=512, seed=1, chat_format="chatml-function-calling", **THREADS) as made:
        yield made
