"""A tiny chat model, loaded as one object. Its weights are not quantized: batches of other sizes compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llama_cffi import LLM, load
from tests import tiny_models
from tests.generate.conftest import CHATML, WITH_TOOLS


@pytest.fixture(scope="session")
def path(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that carries chat templates: ChatML, and one for tools."""
    builder = tiny_models._Builder(replace(tiny_models.LLAMA, quant="F32"), "llama")
    builder.writer.add_chat_template(
        [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": WITH_TOOLS}]
    )
    n_vocab = builder.copy_tokenizer(vectors / "ggml-vocab-llama-spm.gguf")
    return tiny_models._llama_like(builder, n_vocab).save(tmp_path_factory.mktemp("llm") / "model.gguf")


@pytest.fixture
def llm(path: Path) -> Iterator[LLM]:
    with load(path, nCtx=512, nThreads=2) as made:
        yield made
