"""Reranking: the form of the input, the same scores as llama.cpp, order, limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llama_cffi import Batch, Context, Model, PoolingType, Reranker, tokenize
from tests.embed.conftest import RANK_TEMPLATE

Models = Callable[[str], Model]

TOLERANCE = 1e-3  # weights are exact; keys and values have 16 bits
DOCUMENTS = ["a cat", "the quick brown fox jumps", "", "dog", "the dog ran to the house " * 3, "dog"]


def _by_llama(model: Model, tokens: list[int]) -> float:
    with Context.initFromModel(model, Context.Params(nCtx=512, embeddings=True, poolingType=PoolingType.RANK)) as ctx:
        batch = Batch.init(len(tokens), 0, 1)
        for i, token in enumerate(tokens):
            batch.add(token, i, [0], True)
        ctx.decode(batch)
        return float(ctx.getEmbeddingsSeq(0)[0])


def test_the_scores_are_llama_cpps(models: Models, computations: list[int]) -> None:
    model = models("rerank-bert")
    with Reranker(model, nBatch=512) as reranker:
        scores = reranker.rank("where is the dog", DOCUMENTS)
    assert scores.shape == (6,) and scores.dtype == np.float32
    assert len(computations) == 1
    for document, score in zip(DOCUMENTS, scores, strict=True):
        asked, told = (tokenize(model.vocab, text, addSpecial=False) for text in ("where is the dog", document))
        pair = [model.vocab.bos, *asked, model.vocab.sep, *told]
        assert score == pytest.approx(_by_llama(model, pair), abs=TOLERANCE)
    assert scores[3] == pytest.approx(scores[5], abs=TOLERANCE)
    assert len({round(float(score), 3) for score in scores}) == 5


def test_a_models_own_form(models: Models) -> None:
    model = models("rerank-qwen3")
    with Reranker(model) as reranker:
        scores = reranker.rank("yes", ["no", "hello world"])
        text = RANK_TEMPLATE.replace("{query}", "yes").replace("{document}", "no")
        whole = tokenize(model.vocab, text, addSpecial=False, parseSpecial=True)
        assert whole[-1] == model.vocab.eos
        assert abs(scores[0] - scores[1]) > 2 * TOLERANCE
        assert scores[0] == pytest.approx(_by_llama(model, whole), abs=TOLERANCE)
        # A document's text ends nothing, and takes no query's place.
        tokens = reranker._tokens("yes", "a</s>b")
        assert tokens.count(model.vocab.eos) == 1
        assert reranker._tokens("{document}", "x") == tokenize(
            model.vocab,
            RANK_TEMPLATE.replace("{document}", "x").replace("{query}", "{document}"),
            parseSpecial=True,
            addSpecial=False,
        )


def test_many_documents_in_few_computations(models: Models, computations: list[int]) -> None:
    with Reranker(models("rerank-bert"), nBatch=512) as reranker:
        scores = reranker.rank("fox", [f"fox {i}" for i in range(300)])
        assert 5 <= len(computations) <= 10
        assert scores[170] == pytest.approx(reranker.rank("fox", ["fox 170"])[0], abs=TOLERANCE)


def test_the_first_of_several_classes(models: Models) -> None:
    model = models("classify-bert")
    assert model.nClsOut == 3
    with Reranker(model) as reranker:
        score = reranker.rank("", ["hello"])[0]
        assert "3 scores" in repr(reranker)
    told = tokenize(model.vocab, "hello", addSpecial=False)
    assert score == pytest.approx(_by_llama(model, [model.vocab.bos, model.vocab.sep, *told]), abs=TOLERANCE)


def test_what_is_too_long(models: Models) -> None:
    with Reranker(models("rerank-bert"), nCtx=24) as reranker:
        long = "abcdefgh " * 5
        with pytest.raises(ValueError, match="document 1 with its query has"):
            reranker.rank("fox", ["fox", long])
        cut = reranker.rank("fox", ["fox", long], truncate=True)
        assert cut[1] == pytest.approx(reranker.rank("fox", [long[:21]])[0], abs=TOLERANCE)
        with pytest.raises(ValueError, match="the limit is 24"):
            reranker.rank("abc" * 20, ["fox"], truncate=True)


def test_wrong_arguments(models: Models) -> None:
    with pytest.raises(ValueError, match="no classification head"):
        Reranker(models("bert"))
    with pytest.raises(ValueError, match="no classification head"):
        Reranker(models("llama"))
    with pytest.raises(TypeError, match=r"Model\.load"):
        Reranker(None)  # type: ignore[arg-type]
    with Reranker(models("rerank-bert")) as reranker:
        assert reranker.rank("x", []).shape == (0,)
        with pytest.raises(TypeError, match=r"\[document\]"):
            reranker.rank("x", "y")
