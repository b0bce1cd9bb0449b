"""`embed` and `create_embedding`: their dicts, and vectors that equal those of `Embedder`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Embedder, Model, PoolingType, UnavailableError
from llama_cffi.compat import Llama
from tests import tiny_models
from tests.compat import facts
from tests.compat.conftest import THREADS

TEXTS = ["Once upon a time", "in a land far away", "a"]


@pytest.fixture(scope="module")
def pooled(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), n_ctx=64, embedding=True, pooling_type=1, **THREADS) as made:  # MEAN
        yield made


@pytest.fixture(scope="module")
def by_token(tiny_path: Path) -> Iterator[Llama]:
    with Llama(str(tiny_path), n_ctx=64, embedding=True, **THREADS) as made:
        yield made


def test_the_dict(pooled: Llama) -> None:
    found = pooled.create_embedding(TEXTS, model="mine")
    facts.same_shape(found, facts.EMBEDDING)
    assert found["object"] == "list" and found["model"] == "mine"
    assert [(row["object"], row["index"], len(row["embedding"])) for row in found["data"]] == [
        ("embedding", i, pooled.n_embd()) for i in range(3)
    ]
    count = sum(len(pooled.tokenize(text.encode())) for text in TEXTS)
    assert found["usage"] == {"prompt_tokens": count, "total_tokens": count}
    single = pooled.create_embedding(TEXTS[0])
    assert single["model"] == pooled.model_path and np.allclose(
        single["data"][0]["embedding"], found["data"][0]["embedding"], atol=1e-5
    )


def test_vectors_are_not_normalized_unless_asked(pooled: Llama, tiny: Model) -> None:
    with Embedder(tiny, PoolingType.MEAN, nCtx=64, nThreads=1, normalize=False) as embedder:
        expected = embedder.embed(TEXTS)
    found = pooled.embed(TEXTS)
    assert isinstance(found, list) and isinstance(found[0][0], float)
    assert np.allclose(found, expected, atol=1e-4)
    lengths = np.linalg.norm(pooled.embed(TEXTS, normalize=True), axis=1)
    assert np.allclose(lengths, 1) and not np.allclose(np.linalg.norm(found, axis=1), 1)
    assert np.allclose(pooled.embed(TEXTS[0]), found[0], atol=1e-4)


def test_without_pooling_each_token_has_a_vector(by_token: Llama, pooled: Llama) -> None:
    assert by_token.pooling_type() == 0 and pooled.pooling_type() == 1
    rows, count = by_token.embed(TEXTS[0], return_count=True)
    assert len(rows) == count == len(by_token.tokenize(TEXTS[0].encode()))
    assert np.allclose(np.mean(rows, axis=0), pooled.embed(TEXTS[0]), atol=1e-4)
    assert np.allclose(np.linalg.norm(by_token.embed(TEXTS[0], normalize=True), axis=1), 1)
    facts.same_shape(by_token.create_embedding(TEXTS), facts.EMBEDDING)


@pytest.mark.parametrize("which", ["pooled", "by_token"])
def test_long_texts(which: str, request: pytest.FixtureRequest) -> None:
    llama: Llama = request.getfixturevalue(which)
    _, count = llama.embed("word " * 300, return_count=True)
    assert count == llama.n_ctx() < 300
    with pytest.raises(ValueError, match=f"{llama.n_ctx()}.*truncate=True"):
        llama.embed("word " * 300, truncate=False)


def test_the_pooling_of_the_file(tmp_path: Path) -> None:
    path = tiny_models.write_bert(tmp_path / "bert.gguf")
    with Llama(str(path), n_ctx=64, embedding=True, **THREADS) as llama, Model.load(path) as model:
        with Embedder(model, nCtx=64, nThreads=1, normalize=False) as embedder:
            assert llama.pooling_type() == int(embedder.poolingType)
            assert np.allclose(llama.embed("hello"), embedder.embed("hello"), atol=1e-4)


def test_errors(llama: Llama, tiny_path: Path) -> None:
    with pytest.raises(RuntimeError, match="embedding=True"):
        llama.embed("hello")
    options: dict[str, Any] = {"embedding": True, "pooling_type": 4}
    with Llama(str(tiny_path), n_ctx=64, **options, **THREADS) as ranks:
        with pytest.raises(UnavailableError, match="Reranker"):
            ranks.embed("hello")


def test_a_model_for_embeddings_also_generates(pooled: Llama) -> None:
    assert pooled("Once", max_tokens=2)["usage"]["completion_tokens"] == 2  # type: ignore[index]
