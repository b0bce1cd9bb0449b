"""`fineTune`: llama.cpp trains the weights of a small model."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Batch, Context, Ggml, Model, NativeAssertionError, fineTune
from tests import tiny_models

pytestmark = pytest.mark.needs("llama_model_ftype")

N = 256
TEXT = ((np.arange(3 * N + 1) * 7) % 20 + 3).tolist()
FAST = Ggml.OptOptimizerParams(alpha=2e-3)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fine_tune") / "llama.gguf"
    return tiny_models.write_llama(path, spec=replace(tiny_models.LLAMA, quant="F32"))


@pytest.fixture
def model(file: Path) -> Model:
    return Model.load(file, Model.Params(useMmap=False))


def _loss(model: Model, tokens: list[int]) -> float:
    """The mean negative log-probability of a text, by a context as anybody makes it."""
    with Context.initFromModel(model, Context.Params(nCtx=N, nBatch=N, nThreads=2)) as ctx:
        ctx.decode(_all(tokens[:N]))
        logits = np.array([ctx.getLogitsIth(i) for i in range(N)], np.float64)
    top = logits.max(1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return float((log_sum - logits[np.arange(N), tokens[1 : N + 1]]).mean())


def _all(tokens: list[int]) -> Batch:
    batch = Batch.init(len(tokens), 0, 1)
    for pos, token in enumerate(tokens):
        batch.add(token, pos, [0], True)
    return batch


def test_the_loss_falls_and_is_that_of_other_contexts(model: Model, tmp_path: Path) -> None:
    before = _loss(model, TEXT)
    done = fineTune(model, TEXT, nEpoch=4, getOptPars=FAST, valSplit=1 / 3)
    assert [one.epoch for one in done] == [1, 2, 3, 4]
    assert done[-1].loss < 0.5 * done[0].loss and done[-1].accuracy > done[0].accuracy
    assert done[0].valLoss < before and done[-1].valLoss < 0.5 * before
    after = _loss(model, TEXT)
    assert after == pytest.approx(done[-1].valLoss, rel=0.1)  # the text repeats itself
    model.save(tmp_path / "tuned.gguf")
    assert _loss(Model.load(tmp_path / "tuned.gguf"), TEXT) == pytest.approx(after, rel=1e-3)
    assert model.nCtxTrain == tiny_models.LLAMA.n_ctx_train


def test_windows_overlap_and_a_training_may_end_early(model: Model) -> None:
    seen: list[int] = []

    def params(epoch: int) -> Ggml.OptOptimizerParams:
        seen.append(epoch)
        return FAST

    done = fineTune(
        model, TEXT[: 2 * N + 1], stride=128, nEpoch=9, getOptPars=params, callback=lambda one: one.epoch == 2
    )
    assert len(done) == 2 and seen == [1, 1, 2] and math.isnan(done[0].valLoss)
    assert fineTune(model, TEXT, nEpoch=0) == []
    sgd = fineTune(model, TEXT, optimizer=Ggml.OptOptimizerType.SGD, getOptPars=Ggml.OptOptimizerParams(0.1))
    assert sgd[0].loss < done[0].loss
    with pytest.raises(ZeroDivisionError):
        fineTune(model, TEXT, callback=lambda one: 1 / 0)  # type: ignore[arg-type,return-value]
    assert model.nCtxTrain == tiny_models.LLAMA.n_ctx_train
    assert _loss(model, TEXT) < done[0].loss


def test_what_cannot_be_trained(file: Path, tmp_path: Path) -> None:
    params = Model.Params
    for given, words in (
        (params(), "useMmap"),
        (params(useMmap=False, vocabOnly=True), "vocabOnly"),
    ):
        with Model.load(file, given) as model, pytest.raises(ValueError, match=words):
            fineTune(model, TEXT)
    quantized = tiny_models.write_llama(tmp_path / "q.gguf")
    with Model.load(quantized, params(useMmap=False)) as model, pytest.raises(ValueError, match="useExtraBufts"):
        fineTune(model, TEXT)
    with Model.load(quantized, params(useMmap=False, useExtraBufts=False)) as model:
        first, last = fineTune(model, TEXT, nEpoch=2, getOptPars=FAST)  # its norms are F32
        assert last.loss < first.loss
    for write, spec, error in (
        (tiny_models.write_t5, tiny_models.T5, ValueError),
        (tiny_models.write_bert, tiny_models.BERT, ValueError),
        (tiny_models.write_qwen2vl, tiny_models.QWEN2VL, ValueError),
        (tiny_models.write_gpt2, tiny_models.GPT2, NativeAssertionError),
        (tiny_models.write_mamba, tiny_models.MAMBA, NativeAssertionError),
    ):
        path = tmp_path / f"{spec.arch}.gguf"
        write(path, spec=replace(spec, quant="F32"))  # type: ignore[operator]
        with Model.load(path, params(useMmap=False, useExtraBufts=False)) as model:
            with pytest.raises(error):
                fineTune(model, TEXT)
            assert not model.closed and model.nCtxTrain == spec.n_ctx_train


def test_arguments_are_checked(model: Model) -> None:
    with pytest.raises(TypeError, match="model.*str"):
        fineTune("model", TEXT)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokens.*str"):
        fineTune(model, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokens.*float"):
        fineTune(model, [0.5] * 300)  # type: ignore[list-item]
    for tokens, error, words in (
        (TEXT[:N], ValueError, "256.*got 256"),
        ([], ValueError, "256.*got 0"),
        ([*TEXT, -1], IndexError, "got -1"),
        ([*TEXT, 10**6], IndexError, "got 1000000"),
    ):
        with pytest.raises(error, match=words):
            fineTune(model, tokens)
    for name, value in (
        ("nCtx", 100),
        ("nCtx", 300),
        ("stride", 0),
        ("stride", 257),
        ("nEpoch", -1),
        ("valSplit", 1.0),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{value}"):
            fineTune(model, TEXT, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="COUNT"):
        fineTune(model, TEXT, optimizer=Ggml.OptOptimizerType.COUNT)
    with pytest.raises(TypeError, match="getOptPars.*float"):
        fineTune(model, TEXT, getOptPars=0.1)  # type: ignore[arg-type]


def test_the_example_lowers_the_loss_and_saves_the_model(file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    example = Path(__file__).resolve().parents[2] / "examples" / "fine_tune.py"
    command = [sys.executable, str(example), str(file), str(tmp_path / "text.txt"), str(tmp_path / "out.gguf"), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[3].rstrip(",")) for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(losses) == 3 and losses[2] < 0.6 * losses[0]
    with Model.load(tmp_path / "out.gguf") as tuned:
        assert tuned.nParams == Model.load(file).nParams
