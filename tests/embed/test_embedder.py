"""Embeddings: the same as one text at a time and as llama.cpp's own pooling, in order, in few computations."""

from __future__ import annotations

import string
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llama_cffi import AttentionType, Batch, ClosedError, Context, Embedder, Model, PoolingType, tokenize

Models = Callable[[str], Model]

TOLERANCE = 5e-4  # of numbers in vectors of length 1: weights are exact, keys and values have 16 bits
POOLINGS = (PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST)


def _texts(count: int, longest: int, seed: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = [*string.ascii_lowercase, " ", " "]
    return ["".join(rng.choice(letters, rng.integers(1, longest))).strip() or "a" for _ in range(count)]


def _by_llama(model: Model, text: str, pooling: PoolingType) -> np.ndarray:
    """What llama.cpp itself makes of one text."""
    tokens = tokenize(model.vocab, text)
    params = Context.Params(nCtx=512, embeddings=True, poolingType=pooling)
    with Context.initFromModel(model, params) as ctx:
        batch = Batch.init(len(tokens), 0, 1)
        for i, token in enumerate(tokens):
            batch.add(token, i, [0], True)
        ctx.decode(batch)
        vector = np.array(ctx.getEmbeddingsSeq(0))
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["bert", "llama", "gemma3", "qwen3", "mamba"])
def test_many_at_once_are_what_llama_cpp_gives_for_each(models: Models, name: str, pooling: PoolingType) -> None:
    model, texts = models(name), _texts(40, 60)
    with Embedder(model, pooling) as embedder:
        vectors = embedder.embed(texts)
    assert vectors.shape == (40, model.nEmbdOut) and vectors.dtype == np.float32 and vectors.flags.c_contiguous
    for i in range(0, 40, 7):
        assert np.abs(vectors[i] - _by_llama(model, texts[i], pooling)).max() < TOLERANCE, i


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "mamba", "t5"])
def test_many_at_once_are_the_same_as_one_by_one(models: Models, name: str) -> None:
    texts = _texts(30, 28)
    with Embedder(models(name), PoolingType.MEAN) as embedder:
        together = embedder.embed(texts)
        for text, vector in zip(texts, together, strict=True):
            alone = embedder.embed(text)
            assert alone.shape == (embedder.nEmbd,)
            assert np.abs(alone - vector).max() < TOLERANCE
    distances = np.linalg.norm(together[:, None] - together[None], axis=2)
    assert distances[~np.eye(30, dtype=bool)].min() > 10 * TOLERANCE  # so that an exchange would be seen


def test_gemma_packs_as_it_embeds_one_by_one(gemma: Model) -> None:
    texts = ["Hello", "The capital of France is Paris.", "", "Paris is the capital of France.", "bread, butter, jam"]
    with Embedder(gemma, PoolingType.MEAN) as embedder:
        vectors = embedder.embed(texts)
        alone = np.stack([embedder.embed(text) for text in texts])
    assert (vectors * alone).sum(1).min() > 0.99  # weights of 4 bits, activations of 8
    likeness = vectors @ vectors.T
    assert likeness[1, 3] == max(likeness[1, [0, 2, 3, 4]])
    assert _by_llama(gemma, texts[1], PoolingType.MEAN) @ vectors[1] > 0.99


def test_a_thousand_short_texts_take_few_computations(models: Models, computations: list[int]) -> None:
    texts = _texts(1000, 9)
    with Embedder(models("llama"), PoolingType.MEAN, nBatch=512) as embedder:
        embedder.embed(texts)
    total = sum(len(tokenize(models("llama").vocab, text)) for text in texts)
    assert sum(computations) == total + 1  # one shows what there is to compute
    assert len(computations) <= total // 512 + 16  # 64 of the shortest have fewer tokens


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_decoder_computes_no_logits(models: Models, name: str) -> None:
    """What comes after the embeddings is left out, from the second computation on, which is of one token."""
    with Embedder(models(name), PoolingType.MEAN, nThreads=1) as embedder:
        shortcut = embedder._packer._shortcut
        assert shortcut is not None
        embedder.embed("a")
        first = shortcut.nodes
        embedder.embed("a")
        least = shortcut.nodes - first
        assert [least] == shortcut.ends
        assert first - least > least  # the whole graph, once


def test_an_encoder_computes_everything(models: Models) -> None:
    with Embedder(models("bert")) as embedder:
        shortcut = embedder._packer._shortcut
        assert shortcut is not None
        embedder.embed("a")
        assert not shortcut.useful and shortcut.nodes == 2 * shortcut.ends[0]


def test_an_adapter_or_a_gpu_may_be_used_through_the_context(models: Models) -> None:
    with Embedder(models("llama"), PoolingType.LAST) as embedder:
        assert embedder.context.getModel() is embedder.model is models("llama")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_longer_than_a_batch(models: Models, pooling: PoolingType, computations: list[int]) -> None:
    model, text = models("llama"), "abc " * 100
    with Embedder(model, pooling, nBatch=64) as embedder:
        vectors = embedder.embed(["hi", text, "ho"])
    assert max(computations) <= 64 and len(computations) >= 4
    assert np.abs(vectors[1] - _by_llama(model, text, pooling)).max() < 10 * TOLERANCE  # 0 with a cache of 32 bits


def test_a_model_that_is_not_causal_takes_a_text_at_once(models: Models, computations: list[int]) -> None:
    text = "abc " * 100
    with Embedder(models("llama"), PoolingType.MEAN, nBatch=64, attentionType=AttentionType.NON_CAUSAL) as embedder:
        both = embedder.embed([text, "hello"])
        assert max(computations) > 400
        assert np.abs(embedder.embed(text) - both[0]).max() < TOLERANCE
    with Embedder(models("llama"), PoolingType.MEAN, nBatch=64) as causal:
        assert np.abs(causal.embed(text) - both[0]).max() > TOLERANCE


def test_equal_texts_have_a_cosine_of_one(models: Models) -> None:
    with Embedder(models("bert")) as embedder:
        a, b, c = embedder.embed(["hello there", "hello there", "zzz"])
    assert a @ b == pytest.approx(1, abs=1e-5)
    assert a @ c < 0.999
    assert np.linalg.norm(c) == pytest.approx(1, abs=1e-5)


def test_without_normalizing(models: Models) -> None:
    with Embedder(models("bert"), normalize=False) as plain, Embedder(models("bert")) as unit:
        vector = plain.embed("hello")
        assert abs(np.linalg.norm(vector) - 1) > 0.01
        assert np.allclose(vector / np.linalg.norm(vector), unit.embed("hello"), atol=1e-6)


def test_no_texts_and_empty_ones(models: Models) -> None:
    with Embedder(models("bert")) as embedder:
        assert embedder.embed([]).shape == (0, embedder.nEmbd)
        empty = embedder.embed("")  # what stands around every text
        assert np.linalg.norm(empty) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(embedder.embed(iter([b"", "x"]))[0], embedder.embed(["", "x"])[0])
    with (
        Embedder(models("mamba"), PoolingType.LAST) as embedder,
        pytest.raises(ValueError, match="text 1 has no tokens"),
    ):
        embedder._model.vocab  # noqa: B018
        embedder._fit([1], "text 0", False)
        embedder._fit([], "text 1", False)


def test_what_is_too_long(models: Models) -> None:
    model = models("bert")
    with Embedder(model, nCtx=16) as embedder:
        assert embedder.nCtx == 16
        with pytest.raises(ValueError, match=r"text 1 .*\d+ tokens.* 16: .*truncate=True.*nCtx"):
            embedder.embed(["ok", "a b c d e f g h i j k l m n o p q r s"])
        cut = embedder.embed("a b c d e f g h i j k l m n o p q r s", truncate=True)
        assert np.abs(cut - embedder.embed("a b c d e f g h i j k l m n")).max() < TOLERANCE  # [CLS] ... [SEP]
    with pytest.raises(ValueError, match=r"nCtx.*512.*got 513"):
        Embedder(model, nCtx=513)


def test_the_pooling_is_the_models_own_or_said(models: Models) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Embedder(models("bert")) as embedder:
            assert embedder.poolingType == PoolingType.MEAN
    with pytest.warns(UserWarning, match="MEAN is used"), Embedder(models("llama")) as embedder:
        assert embedder.poolingType == PoolingType.MEAN
    with pytest.raises(ValueError, match="use Reranker"):
        Embedder(models("rerank-bert"))
    with pytest.raises(ValueError, match="one of MEAN, CLS, LAST"):
        Embedder(models("bert"), PoolingType.NONE)


def test_wrong_arguments(models: Models, tiny_path: object) -> None:
    with pytest.raises(TypeError, match=r"Model\.load"):
        Embedder("model.gguf")  # type: ignore[arg-type]
    for name in ("nCtx", "nBatch", "nThreads"):
        with pytest.raises(ValueError, match=name):
            Embedder(models("bert"), **{name: 0})
    with Embedder(models("bert")) as embedder, pytest.raises(TypeError, match="str or bytes"):
        embedder.embed(["a", 5])  # type: ignore[list-item]
    with (
        Model.load(str(tiny_path), Model.Params(vocabOnly=True)) as vocab,
        pytest.raises(ValueError, match="vocabOnly"),
    ):
        Embedder(vocab)


def test_its_end(models: Models) -> None:
    embedder = Embedder(models("bert"))
    embedder.close()
    embedder.close()
    with pytest.raises(ClosedError):
        embedder.embed("hello")
    assert not models("bert").closed


def test_threads_take_turns(models: Models) -> None:
    texts = _texts(64, 40)
    with Embedder(models("bert")) as embedder, ThreadPoolExecutor(8) as pool:
        expected = embedder.embed(texts)
        for part in pool.map(lambda i: np.abs(embedder.embed(texts[i : i + 8]) - expected[i : i + 8]).max(), range(56)):
            assert part < TOLERANCE


def test_numpy_is_imported_when_it_is_used() -> None:
    code = "import sys; sys.modules['numpy'] = None; from llama_cffi import Embedder; Embedder(None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install numpy" in result.stderr.splitlines()[-1], result.stderr
