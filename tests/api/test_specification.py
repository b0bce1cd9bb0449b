"""Every row of the specification, on a real model. The last test compares the rows that were covered with the table."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import llama_cffi
from codegen.rules import spec
from llama_cffi import (
    DEFAULT_SEED,
    TOKEN_NULL,
    Adapter,
    AttentionType,
    Batch,
    ChatMessage,
    Context,
    FlashAttnType,
    Ggml,
    Memory,
    Model,
    PoolingType,
    RopeScalingType,
    Sampler,
    SamplerSeqConfig,
    SplitMode,
    TensorBuftOverride,
    TokenDataArray,
    Vocab,
    backendFree,
    backendInit,
    chatApplyTemplate,
    chatBuiltinTemplates,
    detokenize,
    ffi,
    lib,
    logSet,
    maxDevices,
    maxParallelSequences,
    numaInit,
    printSystemInfo,
    supportsGpuOffload,
    supportsMlock,
    supportsMmap,
    supportsRpc,
    timeUs,
    tokenize,
)
from llama_cffi._core.compat import has
from tests import tiny_models

F = TypeVar("F", bound=Callable[..., Any])
ROWS = {row.name: row for row in spec.load()}
COVERED: set[str] = set()
TEXT = "Once upon a time"


def covers(*names: str) -> Callable[[F], F]:
    """Say which rows a test exercises. A trailing dot takes every row below a class that is not covered elsewhere."""

    def mark(function: F) -> F:
        for name in names:
            assert name in ROWS, name
            assert name not in COVERED, f"{name} is covered twice"
            COVERED.add(name)
        return function

    return mark


def below(*owners: str) -> list[str]:
    return [name for name in ROWS if name.rpartition(".")[0] in owners]


@pytest.fixture
def ready(ctx: Context, tiny: Model) -> Iterator[Context]:
    """A context that has seen a prompt."""
    ctx.decode(Batch.getOne(tokenize(tiny.vocab, TEXT)))
    yield ctx


def logits(ctx: Context) -> np.ndarray:
    return np.array(ctx.getLogitsIth(-1))


# Types, constants, enumerations


@covers("Token", "Pos", "SeqId", "DEFAULT_SEED", "TOKEN_NULL")
def test_basic_types(tiny: Model, ready: Context) -> None:
    token: llama_cffi.Token = tokenize(tiny.vocab, TEXT)[0]
    position: llama_cffi.Pos = ready.getMemory().seqPosMax(0)
    sequence: llama_cffi.SeqId = 0
    assert (token, position, sequence) == (tiny.vocab.bos, len(tokenize(tiny.vocab, TEXT)) - 1, 0)
    assert (DEFAULT_SEED, TOKEN_NULL) == (0xFFFFFFFF, -1)
    with Sampler.initDist(DEFAULT_SEED) as one, Sampler.initDist(5) as other:
        assert one.sample(ready) >= 0
        assert other.getSeed() == 5


@covers(*below("SplitMode", "RopeScalingType", "PoolingType", "AttentionType", "FlashAttnType"))
def test_enumerations_have_the_values_of_c() -> None:
    for name in below("SplitMode", "RopeScalingType", "PoolingType", "AttentionType"):
        cls, member = name.split(".")
        assert getattr(llama_cffi, cls)[member] == getattr(lib, ROWS[name].c_name), name
    for name in below("FlashAttnType"):
        assert FlashAttnType[name.split(".")[1]] == int(ROWS[name].signature)


@pytest.mark.parametrize("member", list(FlashAttnType))
def test_flash_attention_gives_the_same_text(tiny: Model, member: FlashAttnType) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, flashAttnType=member)) as ctx, Sampler.initGreedy() as s:
        ctx.decode(Batch.getOne([5, 6, 7]))
        assert s.sample(ctx) == int(logits(ctx).argmax())


# Data structures


@covers(*below("TokenData", "TokenDataArray"), "Sampler.apply")
def test_candidates(ready: Context) -> None:
    values = logits(ready)
    candidates = TokenDataArray.fromLogits(ready.getLogitsIth(-1))
    assert (candidates.size, candidates.selected, candidates.sorted) == (32000, -1, False)
    first = candidates.data[7]
    assert (first.id, first.p) == (7, 0.0)
    assert first.logit == pytest.approx(values[7])
    with Sampler.initTopK(3) as top_k, Sampler.initGreedy() as greedy:
        top_k.apply(candidates)
        assert candidates.size == 3
        assert {c.id for c in candidates} == set(np.argsort(values)[-3:].tolist())
        greedy.apply(candidates)
        assert candidates.data[candidates.selected].id == int(values.argmax())


@covers("ChatMessage.role", "ChatMessage.content", "chatApplyTemplate", "chatBuiltinTemplates")
def test_chat() -> None:
    chat = [ChatMessage("system", "Be kind."), ChatMessage("user", "Hello")]
    assert (chat[1].role, chat[1].content) == ("user", "Hello")
    expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert chatApplyTemplate("chatml", chat) == expected
    buf = bytearray(256)
    n = chatApplyTemplate("chatml", chat, 2, True, buf, 256)
    assert buf[:n].decode() == expected
    out = ffi.new("char *[200]")
    count = chatBuiltinTemplates(out, 200)
    assert [ffi.string(out[i]).decode() for i in range(count)] == chatBuiltinTemplates()
    assert "chatml" in chatBuiltinTemplates()


@pytest.mark.older("llama_n_ctx_seq", "graphs are not used again: see codegen/rules/adapters.py")
@covers(*below("PerfContextData"), "Context.perfContext", "Context.perfContextPrint", "Context.perfContextReset")
def test_times_of_a_context(tiny: Model) -> None:
    lines: list[str] = []
    with Context.initFromModel(tiny, Context.Params(nCtx=64, noPerf=False)) as ctx:
        for tokens in ([5, 6, 7], [8], [9], [10]):
            ctx.decode(Batch.getOne(tokens))
            ctx.synchronize()
        data = ctx.perfContext
        assert (data.nPEval, data.nEval) == (3, 3)
        assert data.nReused > 0
        assert min(data.tStartMs, data.tLoadMs, data.tPEvalMs, data.tEvalMs) > 0
        logSet(lambda level, text, _: lines.append(text))
        ctx.perfContextPrint()
        logSet(None)
        ctx.perfContextReset()
        assert ctx.perfContext.tEvalMs == 0
    assert any("eval time" in line for line in lines)


@covers(*below("PerfSamplerData"), "Sampler.perfSampler", "Sampler.perfSamplerPrint", "Sampler.perfSamplerReset")
def test_times_of_a_chain(ready: Context) -> None:
    lines: list[str] = []
    with Sampler.chainInit(Sampler.ChainParams(noPerf=False)) as chain:
        chain.chainAdd(Sampler.initGreedy())
        for _ in range(5):
            chain.sample(ready)
        assert chain.perfSampler.nSample == 5
        assert chain.perfSampler.tSampleMs >= 0
        logSet(lambda level, text, _: lines.append(text))
        chain.perfSamplerPrint()
        logSet(None)
        chain.perfSamplerReset()
        assert chain.perfSampler.nSample == 0
    assert lines


# Model


@covers(
    "Model.getDefaultParams", "Model.load", "Model.loadSplits", "Model.free", "Model.save", "Model.metaValStr",
    "Model.metaCount", "Model.metaKeyByIndex", "Model.hasEncoder", "Model.hasDencoder", "Model.nCtxTrain",
    "Model.nEmbd", "Model.nLayer", "Model.nHead", "Model.vocab",
)  # fmt: skip
def test_model(tiny_path: Path, tmp_path: Path) -> None:
    params = Model.getDefaultParams()
    params.useExtraBufts = False
    model = Model.load(str(tiny_path), params)
    spec_ = tiny_models.LLAMA
    assert (model.nEmbd, model.nLayer, model.nHead, model.nCtxTrain) == (
        spec_.n_embd, spec_.n_layer, spec_.n_head, spec_.n_ctx_train,
    )  # fmt: skip
    assert (model.hasEncoder, model.hasDencoder) == (False, True)
    assert isinstance(model.vocab, Vocab)
    buf = bytearray(64)
    keys = []
    for i in range(model.metaCount):
        n = model.metaKeyByIndex(i, buf, 64)
        keys.append(buf[:n].decode())
    n = model.metaValStr("general.architecture", buf, 64)
    assert buf[:n] == b"llama" and "general.architecture" in keys
    model.save(str(tmp_path / "copy.gguf"))
    Model.free(model)
    with Model.loadSplits([str(tmp_path / "copy.gguf")], 1, Model.getDefaultParams()) as copy:
        assert copy.nLayer == spec_.n_layer
    assert model.closed


@covers(
    "Model.Params.vocabOnly", "Model.Params.useMmap", "Model.Params.useDirectIo", "Model.Params.useMlock",
    "Model.Params.checkTensors", "Model.Params.useExtraBufts", "Model.Params.noHost", "Model.Params.nGpuLayers",
    "Model.Params.splitMode", "Model.Params.mainGpu",
)  # fmt: skip
@pytest.mark.parametrize(
    "fields",
    [
        {"useMmap": False},
        {"useMmap": True},
        pytest.param(
            {"useDirectIo": True}, marks=pytest.mark.older("llama_n_ctx_seq", "direct I/O cannot be asked for")
        ),
        {"useMlock": True},
        {"checkTensors": True},
        {"useExtraBufts": False},
        pytest.param({"noHost": True}, marks=pytest.mark.needs("llama_model_params.no_host")),
        {"nGpuLayers": 0},
        {"nGpuLayers": -1},
        {"splitMode": SplitMode.NONE, "mainGpu": 0, "nGpuLayers": 0},
        {"splitMode": SplitMode.LAYER},
        {"vocabOnly": True},
    ],
)
def test_model_parameters(tiny_path: Path, fields: dict[str, Any]) -> None:
    params = Model.Params(**fields)
    assert {name: getattr(params, name) for name in fields} == fields
    with Model.load(tiny_path, params) as model:
        if params.vocabOnly:
            assert tokenize(model.vocab, TEXT) and model.nHead == 0
            return
        with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
            assert ctx.decode(Batch.getOne([5, 6])) == 0


@pytest.mark.needs("llama_model_params.no_alloc")
@covers("Model.Params.noAlloc")
def test_no_alloc(tiny_path: Path) -> None:
    params = Model.Params(noAlloc=True, useMmap=False)
    with Model.load(tiny_path, params) as model:
        assert model.nLayer == tiny_models.LLAMA.n_layer
        with pytest.raises(ValueError, match="noAlloc"):
            Context.initFromModel(model)


@covers(
    "ProgressCallback", "Model.Params.progressCallback", "Model.Params.progressCallbackUserData",
    "Model.Params.kvOverrides", "Model.Params.tensorSplit", "Model.Params.tensorBuftOverrides", "Model.Params.devices",
)  # fmt: skip
def test_model_parameters_behind_pointers(tiny_path: Path) -> None:
    seen: list[tuple[float, Any]] = []
    callback: llama_cffi.ProgressCallback = lambda progress, data: seen.append((progress, data))  # noqa: E731
    cpu = next(device for device in Ggml.Backend.devices() if device.type.name == "CPU")
    params = Model.Params(
        progressCallback=callback,
        progressCallbackUserData="mine",
        kvOverrides={"llama.context_length": 77},
        tensorSplit=[1.0],
        tensorBuftOverrides=[TensorBuftOverride("blk.*", cpu.bufferType())],
        devices=[],
    )
    with Model.load(tiny_path, params) as model:
        assert model.nCtxTrain == 77
    assert seen[-1] == (1.0, "mine") and all(0 <= progress <= 1 for progress, _ in seen)


# Context

YARN = {"ropeScalingType": RopeScalingType.YARN, "ropeFreqScale": 0.25, "yarnOrigCtx": 64}


@covers(
    *(f"Context.Params.{name}" for name in (
        "nCtx", "nBatch", "nUbatch", "nSeqMax", "nThreads", "nThreadsBatch", "ropeScalingType", "attentionType",
        "flashAttnType", "ropeFreqBase", "ropeFreqScale", "yarnExtFactor", "yarnAttnFactor", "yarnBetaFast",
        "yarnBetaSlow", "yarnOrigCtx", "defragThold", "typeK", "typeV", "offloadKqv", "noPerf", "opOffload", "swaFull",
        "kvUnified",
    )),
    "Context.getDefaultParams",
)  # fmt: skip
@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"nCtx": 512}, False),
        ({"nBatch": 32}, False),
        ({"nUbatch": 8}, False),
        ({"nSeqMax": 2}, False),
        ({"nThreads": 1}, False),
        ({"nThreadsBatch": 1}, False),
        ({"ropeScalingType": RopeScalingType.LINEAR, "ropeFreqScale": 0.25}, True),
        ({"ropeFreqBase": 500.0}, True),
        ({**YARN, "yarnExtFactor": 0.5}, True),
        ({**YARN, "yarnAttnFactor": 2.0, "yarnBetaFast": 16.0, "yarnBetaSlow": 2.0}, True),
        ({"attentionType": AttentionType.CAUSAL}, False),
        pytest.param(
            {"flashAttnType": FlashAttnType.ENABLED},
            False,
            marks=pytest.mark.older("llama_n_ctx_seq", "flash attention rounds otherwise"),
        ),
        ({"defragThold": 0.5}, False),
        ({"typeK": Ggml.Type.Q8_0, "typeV": Ggml.Type.Q8_0, "flashAttnType": FlashAttnType.ENABLED}, True),
        ({"offloadKqv": False}, False),
        ({"noPerf": True}, False),
        ({"opOffload": False}, False),
        ({"swaFull": False}, False),
        ({"kvUnified": True}, False),
    ],
)
def test_context_parameters(tiny: Model, fields: dict[str, Any], changes: bool) -> None:
    """Each is read back, and changes what the model computes where it should, and only there."""
    results = []
    for chosen in ({}, fields):
        params = Context.getDefaultParams()
        params.nCtx = 256
        for name, value in chosen.items():
            setattr(params, name, value)
            assert getattr(params, name) == value
        with Context.initFromModel(tiny, params) as ctx:
            ctx.decode(Batch.getOne(tokenize(tiny.vocab, TEXT * 4)))
            results.append(logits(ctx))
    assert np.isfinite(results[1]).all()
    assert (not np.allclose(results[0], results[1], atol=1e-2)) == changes


@covers("Context.Params.cbEval", "Context.Params.cbEvalData", "Context.Params.abortCb", "Context.Params.abortCbData")
def test_callbacks_of_a_context(tiny: Model) -> None:
    names: list[str] = []
    asked: list[object] = []
    params = Context.Params(nCtx=64)
    params.cbEval, params.cbEvalData = (lambda tensor, ask, data: data.append(tensor.name)), names
    params.abortCb, params.abortCbData = (lambda data: bool(data.append(1))), asked
    with Context.initFromModel(tiny, params) as ctx:
        ctx.decode(Batch.getOne([5, 6]))
    assert "result_output" in names
    assert asked


@covers(
    "Context.Params.embeddings", "Context.Params.poolingType", "Context.poolingType", "Context.getEmbeddingsSeq",
    "Context.getEmbeddingsIth", "Context.encode",
)  # fmt: skip
def test_embeddings(tiny: Model, vectors: Path, tmp_path: Path) -> None:
    path = tiny_models.write_bert(tmp_path / "bert.gguf", vectors / "ggml-vocab-bert-bge.gguf")
    with Model.load(path) as bert:
        tokens = tokenize(bert.vocab, TEXT)
        by_type = {}
        for pooling in (PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST):
            params = Context.Params(nCtx=64, embeddings=True, poolingType=pooling)
            with Context.initFromModel(bert, params) as ctx:
                assert ctx.poolingType is pooling
                assert ctx.encode(Batch.getOne(tokens)) == 0
                by_type[pooling] = np.array(ctx.getEmbeddingsSeq(0))
        params = Context.Params(nCtx=64, embeddings=True, poolingType=PoolingType.NONE)
        with Context.initFromModel(bert, params) as ctx:
            ctx.encode(Batch.getOne(tokens))
            rows = np.array([np.array(ctx.getEmbeddingsIth(i)) for i in range(len(tokens))])
    assert np.allclose(by_type[PoolingType.CLS], rows[0], atol=1e-3)
    assert np.allclose(by_type[PoolingType.LAST], rows[-1], atol=1e-3)
    assert np.allclose(by_type[PoolingType.MEAN], rows.mean(axis=0), atol=1e-3)


@pytest.mark.needs("llama_context_params.samplers")
@covers("Context.Params.samplers", "Context.Params.nSamplers")
def test_samplers_of_a_context(tiny: Model) -> None:
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initGreedy())
    params = Context.Params(nCtx=64)
    params.samplers = [SamplerSeqConfig(0, chain)]
    assert params.nSamplers == 1
    with Context.initFromModel(tiny, params) as ctx, Context.initFromModel(tiny, Context.Params(nCtx=64)) as plain:
        for each in (ctx, plain):
            each.decode(Batch.getOne([5, 6, 7]))
        assert chain.sample(ctx, -1) == int(logits(plain).argmax())


@covers(
    "Context.initFromModel", "Context.free", "Context.getModel", "Context.nCtx", "Context.nBatch", "Context.nUbatch",
    "Context.nSeqMax", "Context.getMemory", "Context.decode", "Context.getLogitsIth",
)  # fmt: skip
def test_context(tiny: Model) -> None:
    ctx = Context.initFromModel(tiny, Context.Params(nCtx=512, nBatch=64, nUbatch=32, nSeqMax=2))
    assert ctx.getModel() is tiny
    assert (ctx.nCtx, ctx.nBatch, ctx.nUbatch, ctx.nSeqMax) == (512, 64, 32, 2)
    assert isinstance(ctx.getMemory(), Memory)
    assert ctx.decode(Batch.getOne([5, 6])) == 0
    assert ctx.getLogitsIth(-1)[3] == lib.llama_get_logits_ith(ctx._c, 1)[3]
    Context.free(ctx)
    assert ctx.closed


@covers("Context.attachThreadpool", "Context.detachThreadpool")
def test_thread_pools(tiny: Model) -> None:
    expected = None
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=2, nThreadsBatch=2)) as ctx:
        pool, pool_batch = Ggml.Threadpool(2), Ggml.ThreadPool(2)
        for attach in (False, True, False):
            if attach:
                ctx.attachThreadpool(pool, pool_batch)
                with pytest.raises(ValueError, match=r"thread pool.*3 threads \(nThreads\), got 2"):
                    ctx.setNThreads(3)
                with pytest.raises(llama_cffi.BusyError, match="detachThreadpool"):
                    pool.free()
            ctx.getMemory().clear(True)
            ctx.decode(Batch.getOne([5, 6, 7]))
            ctx.decode(Batch.getOne([8]))
            found = logits(ctx)
            assert expected is None or np.allclose(found, expected, atol=1e-4)
            expected = found
            if attach:
                ctx.detachThreadpool()
                pool.free()
        with pytest.raises(ValueError, match=r"thread pool.*\(nThreads\), got 1"):
            ctx.attachThreadpool(Ggml.Threadpool(1), Ggml.Threadpool(1))


@covers(
    "Context.stateSize", "Context.stateGetData", "Context.stateSetData", "Context.stateLoadFile",
    "Context.stateSaveFile",
)  # fmt: skip
def test_state(tiny: Model, ready: Context, tmp_path: Path) -> None:
    size = ready.stateSize
    data = bytearray(size)
    assert ready.stateGetData(data, size) == size
    tokens = array("i", tokenize(tiny.vocab, TEXT))
    assert ready.stateSaveFile(str(tmp_path / "state"), tokens, len(tokens)) is True
    ready.decode(Batch.getOne([9]))
    expected = logits(ready)
    out, count = array("i", [0] * 64), array("Q", [0])
    for load in (
        lambda ctx: ctx.stateSetData(data, size) == size,
        lambda ctx: ctx.stateLoadFile(str(tmp_path / "state"), out, 64, count) is True,
    ):
        with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=2, nThreadsBatch=2)) as other:
            assert load(other)
            other.decode(Batch.getOne([9]))
            assert np.array_equal(expected, logits(other))
    assert (count[0], out[: count[0]]) == (len(tokens), tokens)


@covers(
    "Adapter.loraInit", "Adapter.loraFree", "Context.setAdapterLora", "Context.removeAdapterLora",
    "Context.clearAdapterLora",
)  # fmt: skip
def test_adapters(tiny: Model, tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "lora.gguf")
    adapter = Adapter.loraInit(tiny, str(tmp_path / "lora.gguf"))
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:

        def now() -> np.ndarray:
            ctx.getMemory().clear(True)
            ctx.decode(Batch.getOne([5, 6, 7]))
            return logits(ctx)

        plain = now()
        assert ctx.setAdapterLora(adapter, 0.5) == 0
        assert not np.allclose(plain, now(), atol=0.05)
        assert (ctx.removeAdapterLora(adapter), ctx.removeAdapterLora(adapter)) == (0, -1)
        assert np.allclose(plain, now(), atol=1e-3)
        ctx.setAdapterLora(adapter, 1.0)
        ctx.clearAdapterLora()
        assert np.allclose(plain, now(), atol=1e-3)
    Adapter.loraFree(adapter)
    assert adapter.closed


# Batch


@covers(*below("Batch"))
def test_batches(tiny: Model, ctx: Context) -> None:
    one = Batch.getOne(array("i", [5, 6, 7, 8]), 3)
    assert (one.nTokens, one.pos) == (3, None)
    ctx.decode(one)
    expected = logits(ctx)
    batch = Batch.init(8, 0, 2)
    assert batch.token and batch.pos and batch.nSeqId and batch.seqId and batch.output
    batch.nTokens = 3
    for i, token in enumerate((5, 6, 7)):
        batch.token[i], batch.pos[i], batch.nSeqId[i], batch.output[i] = token, i, 1, i == 2
        batch.seqId[i][0] = 0
    ctx.getMemory().clear(True)
    ctx.decode(batch)
    assert np.array_equal(expected, logits(ctx))
    vectors = Batch.init(2, tiny.nEmbd, 1)
    assert vectors.embd is not None and len(vectors.embd) == 2 * tiny.nEmbd and vectors.token is None
    Batch.free(vectors)


# Sampler


class Last:
    """A sampler in Python: picks the candidate with the highest number."""

    name = "last"

    def apply(self, candidates: TokenDataArray) -> None:
        candidates.selected = max(range(candidates.size), key=lambda i: candidates.data[i].id)


@covers("Sampler.init")
def test_a_sampler_in_python(ready: Context) -> None:
    with Sampler.init(Last(), 0) as sampler:
        assert (sampler.name, sampler.sample(ready, -1)) == ("last", 31999)


@covers(
    "Sampler.ChainParams.noPerf", "Sampler.chainInit", "Sampler.initGreedy", "Sampler.initDist", "Sampler.initTopK",
    "Sampler.initTopP", "Sampler.initPenalties", "Sampler.clone", "Sampler.free", "Sampler.reset", "Sampler.sample",
    "Sampler.name", "Sampler.accept", "Sampler.chainAdd", "Sampler.chainGet", "Sampler.chainCount",
    "Sampler.chainRemove",
)  # fmt: skip
def test_samplers(ready: Context) -> None:
    params = Sampler.ChainParams()
    params.noPerf = True
    chain = Sampler.chainInit(params)
    chain.chainAdd(Sampler.initPenalties(64, 1.0, 0.0, 1000.0))
    chain.chainAdd(Sampler.initTopK(40))
    chain.chainAdd(Sampler.initTopP(0.0, 1))
    chain.chainAdd(Sampler.initDist(0))
    assert [chain.chainGet(i).name for i in range(chain.chainCount)] == ["penalties", "top-k", "top-p", "dist"]
    best = np.argsort(logits(ready))[::-1].tolist()
    assert chain.sample(ready, -1) == best[0]  # and accepts it, which penalizes it
    copy = Sampler.clone(chain)
    assert chain.sample(ready, -1) == best[1]
    if has("llama_sampler_copy"):  # before that, a clone of penalties forgot how often it saw what
        assert copy.sample(ready, -1) == best[1]
    chain.reset()
    assert chain.sample(ready, -1) == best[0]
    chain.reset()
    chain.accept(best[0])
    assert chain.sample(ready, -1) == best[1]
    Sampler.free(chain.chainRemove(0))
    assert chain.sample(ready, -1) == best[0]
    greedy = Sampler.initGreedy()
    assert greedy.sample(ready, -1) == best[0]
    for sampler in (greedy, chain, copy):
        Sampler.free(sampler)


# Vocab, text


@covers("Vocab.tokenToPiece", "Vocab.eos", "Vocab.isEog", "tokenize", "detokenize")
def test_text(tiny: Model) -> None:
    vocab = tiny.vocab
    tokens = array("i", [0] * 512)
    n = tokenize(vocab, "Hello world", 11, tokens, 512, True, True)
    assert n == 3 and list(tokens[:n]) == tokenize(vocab, "Hello world")
    buf = bytearray(64)
    written = detokenize(vocab, tokens, n, buf, 64, 1, 0)
    assert buf[:written] == b" Hello world"  # the space is the tokenizer's own
    assert vocab.tokenToPiece(tokens[1], buf, 64, 0, False) == len(" Hello")
    assert vocab.eos == 2 and vocab.isEog(vocab.eos) and not vocab.isEog(tokens[1])


# Memory


@covers(*below("Memory"))
def test_memory(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=128, nSeqMax=3, kvUnified=True)) as ctx:
        ctx.decode(Batch.getOne([5] * 12))
        memory = ctx.getMemory()
        memory.seqCopy(0, 1, 0, 8)
        memory.seqCopy(0, 2, -1, -1)
        assert [memory.seqPosMax(s) for s in range(3)] == [11, 7, 11]
        assert memory.seqRemove(1, 4, -1) is True
        memory.seqAdd(1, 0, -1, 8)
        assert (memory.seqPosMin(1), memory.seqPosMax(1)) == (8, 11)
        memory.seqDiv(1, 8, 12, 4)
        assert (memory.seqPosMin(1), memory.seqPosMax(1)) == (2, 2)
        memory.seqKeep(2)
        assert [memory.seqPosMax(s) for s in range(3)] == [-1, -1, 11]
        memory.clear(True)
        assert memory.seqPosMax(2) == -1


# The library as a whole


@covers(
    "backendInit", "backendFree", "numaInit", "timeUs", "maxDevices", "maxParallelSequences", "supportsMmap",
    "supportsMlock", "supportsGpuOffload", "supportsRpc", "printSystemInfo",
)  # fmt: skip
def test_system(tiny: Model) -> None:
    for _ in range(2):
        backendInit()
        backendFree()
    numaInit(Ggml.NumaStrategy.DISABLED)
    before = timeUs()
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nSeqMax=4)) as ctx:
        ctx.decode(Batch.getOne([5]))
    assert 0 < timeUs() - before < 60_000_000
    assert (maxDevices(), maxParallelSequences()) == (lib.llama_max_devices(), lib.llama_max_parallel_sequences())
    assert maxDevices() >= 1 and maxParallelSequences() >= 4
    assert (supportsMmap(), supportsMlock()) == (lib.llama_supports_mmap(), lib.llama_supports_mlock())
    gpus = [d for d in Ggml.Backend.devices() if d.type.name in ("GPU", "IGPU")]
    assert supportsGpuOffload() == bool(gpus)
    assert supportsRpc() is False
    assert "CPU" in printSystemInfo()


@covers("logSet")
def test_log(tiny_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[int, str, Any]] = []
    logSet(lambda level, text, data: seen.append((level, text, data)), "mine")
    Model.load(tiny_path).free()
    logSet(0)
    assert seen and {data for *_, data in seen} == {"mine"}
    logSet(logging.getLogger("spec"))
    with caplog.at_level(logging.DEBUG, "spec"):
        Model.load(tiny_path).free()
    logSet(None)
    assert caplog.records


def test_no_row_is_forgotten() -> None:
    assert len(ROWS) == 194
    assert sorted(set(ROWS) - COVERED) == []
