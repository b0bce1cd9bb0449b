"""What the fuzzer found, shortened to the steps that matter. What ended the process runs in one of its own."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import (
    Adapter,
    Batch,
    BatchExt,
    Context,
    Ggml,
    LlamaError,
    Model,
    ProcessType,
    Sampler,
    SamplerSeqConfig,
    TokenDataArray,
    chatApplyTemplate,
    detokenize,
    tokenize,
)
from tests.fuzz.models import write_all
from tests.fuzz.replay import outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    write_all(path)
    return path


@pytest.fixture
def llama(folder: Path) -> Iterator[Model]:
    with Model.load(folder / "llama.gguf") as model:
        yield model


@pytest.fixture
def t5(folder: Path) -> Iterator[Model]:
    with Model.load(folder / "t5.gguf") as model:
        yield model


@pytest.mark.parametrize(
    "steps",
    [
        ["model0 = load('llama')", "caught(lambda: model0.desc(bytearray(4), 99))", "KEPT.clear()", "gc.collect()"],
        [
            "model0 = load('llama')",
            "caught(lambda: tokenize(model0.vocab, 'x', None, array('i', [0]), 9))",
            "KEPT.clear()",
        ],
        [
            "model0 = load('llama')",
            "ctx0 = Context.initFromModel(model0, Context.Params(nCtx=64, nThreads=1))",
            "ctx0.decode(Batch.getOne([5]))",
            "state0 = ctx0.stateGetData()",
            "chain0 = Sampler.chainInit()",
            "chain0.chainAdd(Sampler.init(custom(lambda k: ctx0.stateSetData(state0))))",
            "chain0.sample(ctx0)",
        ],
    ],
    ids=["buffer", "tokens", "callback"],
)
def test_a_kept_exception_of_a_call_with_a_buffer(steps: list[str], folder: Path) -> None:
    """The collector died of a memoryview in a cycle, whose buffer a cffi array held."""
    assert outcome(steps, folder) == set()


def test_quantize_does_not_take_a_number_for_a_file(tmp_path: Path) -> None:
    """It was the number of an open file, which was closed."""
    (tmp_path / "other").touch()
    descriptor = os.open(tmp_path / "other", os.O_RDONLY)
    try:
        Model.quantize(descriptor, tmp_path / "out.gguf")  # type: ignore[arg-type]
    except (TypeError, ValueError, LlamaError):
        pass
    os.fstat(descriptor)
    os.close(descriptor)


def test_a_state_is_not_written_in_place_of_a_pipe(llama: Model, tmp_path: Path) -> None:
    """A device or a pipe was replaced by the file."""
    os.mkfifo(tmp_path / "pipe")
    with Context.initFromModel(llama, Context.Params(nCtx=64)) as ctx, pytest.raises((OSError, ValueError)):
        ctx.stateSaveFile(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_t5_decodes_after_it_encoded(t5: Model) -> None:
    with Context.initFromModel(t5, Context.Params(nCtx=64)) as ctx:
        with pytest.raises(ValueError, match="encode"):
            ctx.decode(Batch.getOne([5]))
        batch = BatchExt.init(ctx)
        batch.setPos(batch.addToken(0, 5), 0)
        with pytest.raises(ValueError, match="encode"):
            ctx.process(ProcessType.DECODE, batch)
        ctx.encode(Batch.getOne([5, 6]))
        assert ctx.decode(Batch.getOne([0])) == 0


def test_t5_with_sequences_apart(t5: Model) -> None:
    with pytest.raises(ValueError, match="nSeqMax"):
        Context.initFromModel(t5, Context.Params(nCtx=64, nSeqMax=2))


def test_a_chain_on_the_device_picks_once(llama: Model) -> None:
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initDist(1))
    chain.chainAdd(Sampler.initDist(2))
    with pytest.raises(ValueError, match="pick"):
        Context.initFromModel(llama, Context.Params(nCtx=64, samplers=[SamplerSeqConfig(0, chain)]))


def test_what_drops_candidates_behind_a_pick(llama: Model) -> None:
    """The pick may be among those dropped: llama.cpp then asserts, and the context was lost."""
    chain = Sampler.chainInit()
    chain.chainAdd(Sampler.initDist(1))
    chain.chainAdd(Sampler.initTopP(1e-9, 0))
    with Context.initFromModel(llama, Context.Params(nCtx=64)) as ctx:
        for token in range(5, 25):
            ctx.decode(Batch.getOne([token]))
            try:
                chain.sample(ctx)
            except ValueError:
                pass
        assert not ctx.closed and not chain.closed


def test_objects_of_the_wrong_kind(llama: Model, folder: Path) -> None:
    """Each was an AttributeError from inside the package."""
    ctx = Context.initFromModel(llama, Context.Params(nCtx=64, nThreads=1))
    calls = {
        "attachThreadpool": lambda: ctx.attachThreadpool([]),
        "attachThreadpool of a context": lambda: ctx.attachThreadpool(ctx),
        "sample": lambda: Sampler.initGreedy().sample([None]),
        "BatchExt.init": lambda: BatchExt.init(None),
        "loraInit": lambda: Adapter.loraInit(None, folder / "lora.gguf"),
        "tokenize": lambda: tokenize(llama, "text"),
        "detokenize": lambda: detokenize(llama, [1]),
        "chatApplyTemplate": lambda: chatApplyTemplate(None, [], model=3),
        "byName": lambda: Ggml.BackendDevice.byName(3),
        "supportsBuft": lambda: Ggml.BackendDevice.get(0).supportsBuft(None),
        "TokenDataArray": lambda: TokenDataArray(np.zeros((2, 2), np.float32)[:, :1]),
    }
    wrong = {}
    for name, call in calls.items():
        try:
            call()
            wrong[name] = "nothing"
        except (TypeError, ValueError):
            pass
        except Exception as error:
            wrong[name] = repr(error)
    assert wrong == {}


@pytest.mark.parametrize("cls", [Model.Params, Context.Params, Model.QuantizeParams, Sampler.ChainParams])
def test_parameters_are_copied_or_refuse_it(cls: type) -> None:
    """It was an AttributeError about a private name."""
    try:
        assert copy.copy(cls()) == cls()
    except TypeError as error:
        assert "cop" in str(error)
