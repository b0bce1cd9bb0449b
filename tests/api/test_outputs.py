"""Logits and embeddings: zero-copy arrays that never dangle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Batch, BusyError, ClosedError, Context, Model, PoolingType, ffi, lib, tokenize
from tests import tiny_models

PROMPT = list(range(100, 120))


def all_outputs(tokens: list[int]) -> Batch:
    batch = Batch.init(len(tokens), 0, 1)
    for pos, token in enumerate(tokens):
        batch.add(token, pos, output=True)
    return batch


def test_logits_are_llama_cpps_own_memory(ctx: Context) -> None:
    ctx.decode(Batch.getOne(PROMPT))
    view = ctx.getLogitsIth(-1)
    array = np.asarray(view)
    assert (array.dtype, array.shape) == (np.float32, (32000,))
    assert array.ctypes.data == int(ffi.cast("uintptr_t", lib.llama_get_logits_ith(ctx._c, -1)))
    assert view[0] == array[0]
    assert np.array_equal(np.asarray(ctx.getLogitsIth(19)), array)


def test_all_logits_at_once(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
        ctx.decode(all_outputs(PROMPT))
        table = np.asarray(ctx.getLogits())
        assert table.shape == (20, 32000)
        for i in range(20):
            assert np.array_equal(table[i], np.asarray(ctx.getLogitsIth(i)))
        assert table.ctypes.data == int(ffi.cast("uintptr_t", lib.llama_get_logits(ctx._c)))
        del table


def test_no_output(ctx: Context) -> None:
    for call in (ctx.getLogits, lambda: ctx.getLogitsIth(-1), lambda: ctx.getLogitsIth(0)):
        with pytest.raises(IndexError, match="decode a batch first"):
            call()
    ctx.decode(Batch.getOne(PROMPT))
    for i in (0, 20, -2, 10**6, -(10**6)):
        with pytest.raises(IndexError, match=f"entry {i} "):
            ctx.getLogitsIth(i)


def test_a_memoryview_raises_after_the_next_decode(ctx: Context) -> None:
    ctx.decode(Batch.getOne(PROMPT))
    view = ctx.getLogitsIth(-1)
    ctx.decode(Batch.getOne([5]))
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_a_numpy_array_stays_valid(ctx: Context) -> None:
    ctx.decode(Batch.getOne(PROMPT))
    array = np.asarray(ctx.getLogitsIth(-1))
    before = array.copy()
    ctx.decode(Batch.getOne([5]))
    assert np.array_equal(array, np.asarray(ctx.getLogitsIth(-1)))  # the same memory, the new values
    assert not np.array_equal(array, before)


def test_arrays_outlive_their_context(tiny: Model, tiny_path: Path) -> None:
    for way in ("free", "collect", "model"):
        model = Model.load(tiny_path) if way == "model" else tiny
        ctx = Context.initFromModel(model, Context.Params(nCtx=64))
        ctx.decode(Batch.getOne(PROMPT))
        array = np.asarray(ctx.getLogitsIth(-1))
        view = ctx.getLogitsIth(-1)
        copy = array.copy()
        if way == "collect":
            del ctx, view
            gc.collect()
        else:
            (model if way == "model" else ctx).free()
            with pytest.raises(ValueError, match="released"):
                view[0]
            with pytest.raises(ClosedError):
                ctx.getLogitsIth(-1)
        filler = [np.ones(32000, np.float32) for _ in range(50)]
        assert np.array_equal(array, copy)
        del array, filler
        gc.collect()


def test_a_buffer_in_use_is_not_moved(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
        ctx.decode(Batch.getOne(PROMPT))
        array = np.asarray(ctx.getLogitsIth(-1))
        ctx.getMemory().clear()
        with pytest.raises(BusyError, match="20 outputs need a larger buffer"):
            ctx.decode(all_outputs(PROMPT))
        with pytest.raises(BusyError, match="larger buffer"):
            ctx.setEmbeddings(True)
        assert np.isfinite(array).all()
        del array
        ctx.decode(all_outputs(PROMPT))
        array = np.asarray(ctx.getLogits())
        ctx.getMemory().clear()
        ctx.decode(all_outputs(PROMPT))  # no more than before: nothing moves
        assert np.isfinite(array).all()
        del array


@pytest.mark.needs("llama_context_params.n_outputs_max")
def test_more_outputs_than_allowed(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nOutputsMax=4)) as ctx:
        with pytest.raises(ValueError, match=r"4 outputs \(nOutputsMax\), got 20"):
            ctx.decode(all_outputs(PROMPT))
        assert ctx.decode(all_outputs(PROMPT[:4])) == 0


def test_token_embeddings(tiny: Model) -> None:
    params = Context.Params(nCtx=64, embeddings=True, poolingType=PoolingType.NONE)
    with Context.initFromModel(tiny, params) as ctx:
        ctx.decode(all_outputs(PROMPT))
        table = np.asarray(ctx.getEmbeddings())
        assert table.shape == (20, tiny.nEmbd)
        assert np.array_equal(table[7], np.asarray(ctx.getEmbeddingsIth(7)))
        with pytest.raises(ValueError, match="poolingType"):
            ctx.getEmbeddingsSeq(0)
        del table
        ctx.setEmbeddings(False)
        with pytest.raises(ValueError, match="no embeddings.*setEmbeddings"):
            ctx.getEmbeddingsIth(-1)
        ctx.getMemory().clear()
        ctx.decode(Batch.getOne(PROMPT))
        assert np.isfinite(np.asarray(ctx.getLogitsIth(-1))).all()


@pytest.fixture(scope="module")
def bert(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("bert") / "bert.gguf"
    with Model.load(tiny_models.write_bert(path, vectors / "ggml-vocab-bert-bge.gguf")) as model:
        yield model


def test_pooled_embeddings_of_several_texts(bert: Model) -> None:
    texts = ["the cat sat on the mat", "a cat sat on a mat", "stock prices fell sharply today"]
    together, alone = [], []
    with Context.initFromModel(bert, Context.Params(nCtx=256, nUbatch=256, embeddings=True, nSeqMax=4)) as ctx:
        assert ctx.poolingType == PoolingType.MEAN
        batch = Batch.init(128, 0, 1)
        for seq, text in enumerate(texts):
            for pos, token in enumerate(tokenize(bert.vocab, text)):
                batch.add(token, pos, (seq,), output=True)
        ctx.encode(batch)
        together = [np.asarray(ctx.getEmbeddingsSeq(seq)) for seq in range(3)]
        with pytest.raises(IndexError, match="sequence 3"):
            ctx.getEmbeddingsSeq(3)
        with pytest.raises(ValueError, match="between 0 and 3"):
            ctx.getEmbeddingsSeq(4)
        with pytest.raises(ValueError, match="getEmbeddingsSeq"):
            ctx.getEmbeddingsIth(0)
        for text in texts:
            ctx.encode(Batch.getOne(tokenize(bert.vocab, text)))
            alone.append(np.asarray(ctx.getEmbeddingsSeq(0)))
    for one, other in zip(together, alone, strict=True):
        assert one.shape == (bert.nEmbd,)
        assert np.allclose(one, other, atol=1e-3)  # and both are still there: they are copies
    assert not np.allclose(together[0], together[2], atol=1e-2)


def test_a_bert_batch_beyond_n_ubatch(bert: Model) -> None:
    with Context.initFromModel(bert, Context.Params(nCtx=256, nBatch=64, nUbatch=8, embeddings=True)) as ctx:
        with pytest.raises(ValueError, match=r"\(nUbatch\), got 60"):
            ctx.encode(Batch.getOne([5] * 60))


def test_encoder_and_decoder(tmp_path: Path) -> None:
    with Model.load(tiny_models.write_t5(tmp_path / "t5.gguf")) as model:
        assert (model.hasEncoder, model.hasDecoder) == (True, True)
        results = []
        for tokens in ([10, 11, 12, 1], [30, 31, 1], [10, 11, 12, 1]):
            with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
                ctx.encode(Batch.getOne(tokens))
                ctx.decode(Batch.getOne([0]))
                results.append(np.array(ctx.getLogitsIth(-1)))
        assert np.array_equal(results[0], results[2])
        assert not np.allclose(results[0], results[1], atol=1e-3)


def test_a_recurrent_model_forgets_whole_sequences_only(vectors: Path, tmp_path: Path) -> None:
    path = tiny_models.write_mamba(tmp_path / "mamba.gguf", vectors / "ggml-vocab-llama-spm.gguf")
    with Model.load(path) as model, Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
        ctx.decode(Batch.getOne(PROMPT))
        first = np.array(ctx.getLogitsIth(-1))
        memory = ctx.getMemory()
        assert memory.seqRemove(0, 5, -1) is False
        assert memory.seqRemove(0, -1, -1) is True
        ctx.decode(Batch.getOne(PROMPT))
        assert np.array_equal(first, np.asarray(ctx.getLogitsIth(-1)))
