"""Batches, decoding and the KV cache."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    ClosedError,
    Context,
    ContextFullError,
    DecodeError,
    Model,
    Sampler,
    ffi,
    lib,
    tokenize,
)

PROMPT = list(range(100, 120))


def logits(ctx: Context, i: int = -1) -> np.ndarray:
    pointer = lib.llama_get_logits_ith(ctx._c, i)
    assert pointer != ffi.NULL
    return np.frombuffer(ffi.buffer(pointer, 4 * ctx.getModel().vocab.nTokens), np.float32).copy()


def test_get_one_copies(ctx: Context) -> None:
    tokens = array("i", PROMPT)
    batch = Batch.getOne(tokens, 10)
    tokens[0] = -5
    assert batch.token is not None and list(batch.token) == PROMPT[:10]
    assert (batch.nTokens, batch.pos, batch.seqId, batch.output, batch.embd) == (10, None, None, None, None)
    assert ctx.decode(batch) == 0
    assert ctx.getMemory().seqPosMax(0) == 9


def test_a_filled_batch_equals_get_one(tiny: Model) -> None:
    results = []
    for fill in ("getOne", "add", "fields"):
        with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
            batch = Batch.getOne(PROMPT)
            if fill == "add":
                batch = Batch.init(32, 0, 1)
                for pos, token in enumerate(PROMPT):
                    batch.add(token, pos, output=pos == len(PROMPT) - 1)
            elif fill == "fields":
                batch = Batch.init(len(PROMPT), 0, 1)
                batch.nTokens = len(PROMPT)
                token, pos, count, seq, output = batch.token, batch.pos, batch.nSeqId, batch.seqId, batch.output
                assert token and pos and count and seq and output
                for i, value in enumerate(PROMPT):
                    token[i], pos[i], count[i], seq[i][0], output[i] = value, i, 1, 0, 0
                output[-1] = 1
            with batch:
                ctx.decode(batch)
            results.append(logits(ctx))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_batches_of_embeddings(tiny: Model, ctx: Context) -> None:
    with Batch.init(2, tiny.nEmbd, 1) as batch:
        assert batch.embd is not None and batch.token is None
        batch.embd[:] = memoryview(array("f", np.linspace(-1, 1, 2 * tiny.nEmbd)))
        assert batch.pos and batch.output
        batch.pos[1], batch.output[1], batch.nTokens = 1, 1, 2
        assert ctx.decode(batch) == 0
        assert np.isfinite(logits(ctx)).all()
        with pytest.raises(TypeError, match="embeddings"):
            batch.clear()
            batch.add(1, 0)
    with Batch.init(1, 7, 1) as wrong:
        wrong.nTokens = 1
        with pytest.raises(ValueError, match=f"{tiny.nEmbd} floats.*got 7"):
            ctx.decode(wrong)


def test_several_sequences_in_one_batch(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=128, nSeqMax=2, kvUnified=True)) as ctx:
        batch = Batch.init(16, 0, 2)
        for pos, token in enumerate(PROMPT[:4]):
            batch.add(token, pos, (0, 1), output=pos == 3)
        ctx.decode(batch)
        memory = ctx.getMemory()
        assert memory.seqPosMax(0) == memory.seqPosMax(1) == 3
        shared = logits(ctx, 3)
        batch.clear()
        batch.add(7, 4, (1,), output=True)
        ctx.decode(batch)
        assert (memory.seqPosMax(0), memory.seqPosMax(1)) == (3, 4)
        assert not np.array_equal(shared, logits(ctx, 0))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((0, 0, 1), "nTokens"),
        ((-5, 0, 1), "nTokens"),
        ((1, -1, 1), "embd"),
        ((1, 0, 0), "nSeqMax"),
        ((1, 0, 257), "nSeqMax"),
    ],
)
def test_init_checks_its_sizes(args: tuple[int, int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Batch.init(*args)


def test_a_batch_that_is_full_or_freed(ctx: Context) -> None:
    batch = Batch.init(1, 0, 1)
    batch.add(5, 0)
    with pytest.raises(ValueError, match="full"):
        batch.add(5, 1)
    with pytest.raises(ValueError, match="nTokens.*1, got 2"):
        batch.nTokens = 2
    with pytest.raises(ValueError, match="sequences.*1 and 1, got 2"):
        batch.clear()
        batch.add(5, 0, (0, 1))
    view = batch.token
    batch.free()
    batch.free()
    assert view is not None and view[0] == 5  # the view keeps its memory
    with pytest.raises(ClosedError, match="freed"):
        ctx.decode(batch)
    with pytest.raises(ValueError, match="at least one token"):
        Batch.getOne([])
    with pytest.raises(TypeError, match="Batch.init"):
        Batch.getOne([1]).add(1, 1)


@pytest.mark.older("llama_n_ctx_seq", "a batch has room for 64 tokens at least")
def test_decode_refuses_what_would_kill(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nBatch=8, nSeqMax=2)) as ctx:
        with pytest.raises(ValueError, match=r"8 tokens \(nBatch\), got 20"):
            ctx.decode(Batch.getOne(PROMPT))
        for token in (-1, 32000):
            with pytest.raises(ValueError, match=f"entry 1: token.*got {token}"):
                ctx.decode(Batch.getOne([5, token]))
        batch = Batch.init(4, 0, 2)
        batch.add(5, -1)
        with pytest.raises(ValueError, match="entry 0.*position.*got -1"):
            ctx.decode(batch)
        batch.clear()
        batch.add(5, 0, (2,))
        with pytest.raises(ValueError, match="between 0 and 1"):
            ctx.decode(batch)
        batch.clear()
        batch.add(5, 0)
        assert batch.nSeqId
        for count in (0, 3, -1):
            batch.nSeqId[0] = count
            with pytest.raises(ValueError, match=f"sequences.*1 and 2, got {count}"):
                ctx.decode(batch)
        batch.clear()
        with pytest.raises(ValueError, match="empty"):
            ctx.decode(batch)
        with pytest.raises(TypeError, match="Batch.getOne"):
            ctx.decode([1, 2])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no encoder"):
            ctx.encode(Batch.getOne([5]))
        batch.add(5, 17)
        batch.add(6, 3)
        with pytest.raises(DecodeError, match="positions") as caught:
            ctx.decode(batch)
        assert (caught.value.operation, caught.value.code) == ("llama_decode", -1)
        assert ctx.decode(Batch.getOne([5])) == 0  # the context still works


def test_a_full_context(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=256)) as ctx:
        ctx.decode(Batch.getOne([5] * 256))
        with pytest.raises(ContextFullError, match="seqRemove") as caught:
            ctx.decode(Batch.getOne([5]))
        assert (caught.value.operation, caught.value.code) == ("llama_decode", 1)
        assert ctx.getMemory().seqRemove(0, 200, -1)
        assert ctx.decode(Batch.getOne([5])) == 0


def test_sizes_and_model(tiny: Model, ctx: Context) -> None:
    assert (ctx.nCtx, ctx.nSeqMax) == (256, 1)
    assert ctx.nBatch == lib.llama_n_batch(ctx._c) and ctx.nUbatch == lib.llama_n_ubatch(ctx._c)
    assert ctx.getModel() is tiny
    assert ctx.poolingType.name == "NONE"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"nSeqMax": 0}, "nSeqMax"),
        ({"nSeqMax": 257}, "nSeqMax"),
        ({"nBatch": 0}, "nBatch"),
        ({"nSeqMax": 4, "nBatch": 3}, "nBatch"),
        ({"nUbatch": 0}, "nUbatch"),
        ({"nThreads": 0}, "nThreads"),
        ({"nThreads": 100000}, "nThreads"),
        ({"nCtx": 1, "nSeqMax": 4}, "nCtx"),
        ({"typeK": 27}, "typeK"),
        ({"typeV": 12}, "typeV"),
    ],
)
def test_context_parameters_that_cannot_be(tiny: Model, params: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Context.initFromModel(tiny, Context.Params(**params))


def test_memory(ctx: Context) -> None:
    memory = ctx.getMemory()
    ctx.decode(Batch.getOne(PROMPT))
    assert (memory.seqPosMin(0), memory.seqPosMax(0)) == (0, 19)
    assert memory.seqRemove(0, 10, -1)
    assert memory.seqPosMax(0) == 9
    memory.seqAdd(0, 0, -1, 5)
    assert (memory.seqPosMin(0), memory.seqPosMax(0)) == (5, 14)
    memory.seqDiv(0, 0, -1, 5)
    assert (memory.seqPosMin(0), memory.seqPosMax(0)) == (1, 2)
    memory.seqKeep(0)
    memory.clear(True)
    assert memory.seqPosMax(0) == -1


def test_memory_refuses_what_would_kill(tiny: Model, ctx: Context) -> None:
    memory = ctx.getMemory()
    for seq in (-2, 1, 10**6):
        for call in (
            lambda s: memory.seqRemove(s, 0, 1),
            lambda s: memory.seqKeep(s),
            lambda s: memory.seqCopy(0, s),
            lambda s: memory.seqAdd(s, 0, 1, 1),
            lambda s: memory.seqDiv(s, 0, 1, 2),
            lambda s: memory.seqPosMax(s),
        ):
            with pytest.raises(ValueError, match="nSeqMax"):
                call(seq)
    for d in (0, -3):
        with pytest.raises(ValueError, match="d must be between 1"):
            memory.seqDiv(0, 0, -1, d)
    ctx.decode(Batch.getOne(PROMPT))
    with pytest.raises(ValueError, match="1073741823.*19 to 1073741824"):
        memory.seqAdd(0, 0, -1, (1 << 30) - 19)
    memory.seqAdd(0, 0, -1, -5)  # tokens that would move below position 0 are removed
    assert (memory.seqPosMin(0), memory.seqPosMax(0)) == (0, 14)
    with Context.initFromModel(tiny, Context.Params(nCtx=512, nSeqMax=2)) as two:
        two.decode(Batch.getOne(PROMPT))
        with pytest.raises(ValueError, match="kvUnified"):
            two.getMemory().seqCopy(0, 1, 2, 5)
        two.getMemory().seqCopy(0, 1)
        assert two.getMemory().seqPosMax(1) == 19


def test_forgetting_and_decoding_again_gives_the_same_logits(tiny: Model, ctx: Context) -> None:
    tokens = tokenize(tiny.vocab, "The quick brown fox jumps")
    ctx.decode(Batch.getOne(tokens))
    first = logits(ctx)
    with Sampler.initGreedy() as sampler:
        ctx.decode(Batch.getOne([sampler.sample(ctx)]))
    assert not np.array_equal(first, logits(ctx))
    ctx.getMemory().seqRemove(0, len(tokens) - 1, -1)
    ctx.decode(Batch.getOne(tokens[-1:]))
    assert np.allclose(first, logits(ctx), atol=1e-4)
