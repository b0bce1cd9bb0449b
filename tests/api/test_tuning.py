"""Adapters, control vectors, threads, callbacks, the log, Ctrl-C."""

from __future__ import annotations

import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Adapter,
    AdapterError,
    Batch,
    BatchExt,
    ClosedError,
    Context,
    ContextFullError,
    DecodeError,
    EvalTensor,
    Model,
    ProcessType,
    logGet,
    logSet,
)
from llama_cffi._generated.enums import ContextType
from llama_cffi._generated.names import DEPRECATED
from tests import tiny_archs, tiny_models

PROMPT = list(range(100, 110))


@pytest.fixture(scope="module")
def f32(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny_models.TinySpec]:
    from dataclasses import replace

    spec = replace(tiny_models.LLAMA, quant="F32")
    folder = tmp_path_factory.mktemp("f32")
    return tiny_models.write_llama(folder / "f32.gguf", vectors / "ggml-vocab-llama-spm.gguf", spec), spec


@pytest.fixture
def model(f32: tuple[Path, tiny_models.TinySpec]) -> Iterator[Model]:
    with Model.load(f32[0]) as model:
        yield model


def logits(model: Model, *adapters: tuple[Adapter, float]) -> np.ndarray:
    with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
        for adapter, scale in adapters:
            assert ctx.setAdapterLora(adapter, scale) == 0
        ctx.decode(Batch.getOne(PROMPT))
        return np.array(ctx.getLogitsIth(-1))


def test_lora_is_what_the_arithmetic_says(
    f32: tuple[Path, tiny_models.TinySpec], model: Model, vectors: Path, tmp_path: Path
) -> None:
    """Two adapters with scales equal a model whose weights were changed by hand."""
    pairs = [tiny_models.write_lora(tmp_path / f"{i}.gguf", f32[1], alpha=4.0 + i, seed=i) for i in (1, 2)]
    adapters = [Adapter.loraInit(model, tmp_path / f"{i}.gguf") for i in (1, 2)]
    scales = (0.5, -1.25)
    deltas = {
        name: sum(p[name].delta(4.0 + i, s) for i, p, s in zip((1, 2), pairs, scales, strict=True)) for name in pairs[0]
    }
    merged = tiny_models.write_llama(
        tmp_path / "merged.gguf", vectors / "ggml-vocab-llama-spm.gguf", f32[1], deltas=deltas
    )
    found = logits(model, *zip(adapters, scales, strict=True))
    with Model.load(merged) as other:
        assert np.allclose(found, logits(other), atol=2e-3)
    assert not np.allclose(found, logits(model), atol=0.1)


def test_the_three_calls(f32: tuple[Path, tiny_models.TinySpec], model: Model, tmp_path: Path) -> None:
    for i in (1, 2):
        tiny_models.write_lora(tmp_path / f"{i}.gguf", f32[1], seed=i)
    one, two = (Adapter.loraInit(model, tmp_path / f"{i}.gguf") for i in (1, 2))
    plain, with_one, with_both = logits(model), logits(model, (one, 1.0)), logits(model, (one, 1.0), (two, 1.0))

    def now(ctx: Context) -> np.ndarray:
        ctx.getMemory().clear()
        ctx.decode(Batch.getOne(PROMPT))
        return np.array(ctx.getLogitsIth(-1))

    with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
        ctx.setAdapterLora(one, 1.0)
        ctx.setAdapterLora(two, 1.0)
        assert np.allclose(now(ctx), with_both, atol=1e-4)
        assert ctx.removeAdapterLora(two) == 0
        assert ctx.removeAdapterLora(two) == -1
        assert np.allclose(now(ctx), with_one, atol=1e-4)
        ctx.clearAdapterLora()
        assert np.allclose(now(ctx), plain, atol=1e-4)
        ctx.setAdaptersLora([one, two])
        assert np.allclose(now(ctx), with_both, atol=1e-4)
        ctx.setAdaptersLora([two, one], [0.0, 1.0])
        assert np.allclose(now(ctx), with_one, atol=1e-4)
        with pytest.raises(ValueError, match="scales.*1 .*got 2"):
            ctx.setAdaptersLora([one], [1.0, 2.0])
        Adapter.loraFree(one)  # while it is in use
        one.loraFree()
        ctx.clearAdapterLora()
        assert np.allclose(now(ctx), plain, atol=1e-4)
        with pytest.raises(ClosedError):
            ctx.setAdapterLora(one, 1.0)


@pytest.mark.needs("llama_adapter_meta_val_str")
def test_adapters_say_what_is_wrong(
    f32: tuple[Path, tiny_models.TinySpec], model: Model, tiny: Model, tmp_path: Path
) -> None:
    tiny_models.write_lora(tmp_path / "a.gguf", f32[1], alpha=6.0)
    adapter = Adapter.loraInit(model, tmp_path / "a.gguf")
    assert adapter.metaValStr("general.type") == "adapter"
    assert adapter.metaValStr("none") is None
    keys = [adapter.metaKeyByIndex(i) for i in range(adapter.metaCount)]
    assert "adapter.lora.alpha" in keys
    assert float(adapter.metaValStrByIndex(keys.index("adapter.lora.alpha")) or 0) == 6.0
    assert (adapter.getAloraNInvocationTokens(), adapter.getAloraInvocationTokens()) == (0, [])
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as stranger:
        with pytest.raises(ValueError, match="another model"):
            stranger.setAdapterLora(adapter, 1.0)
        with pytest.raises(TypeError, match="Adapter.loraInit"):
            stranger.setAdapterLora(model, 1.0)  # type: ignore[arg-type]
    with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:
        for scale in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="finite"):
                ctx.setAdapterLora(adapter, scale)
    with pytest.raises(AdapterError, match="llama.cpp logged"):
        Adapter.loraInit(model, f32[0])
    with pytest.raises(FileNotFoundError):
        Adapter.loraInit(model, tmp_path / "none")
    model.free()
    assert adapter.closed
    adapter.loraFree()


def test_control_vectors(model: Model) -> None:
    plain = logits(model)
    n = model.nEmbd
    vector = np.zeros((model.nLayer - 1, n), np.float32)
    with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx:

        def now() -> np.ndarray:
            ctx.getMemory().clear()
            ctx.decode(Batch.getOne(PROMPT))
            return np.array(ctx.getLogitsIth(-1))

        ctx.setAdapterCvec(vector)
        assert np.allclose(now(), plain, atol=1e-4)
        vector[0] = np.linspace(-5, 5, n)
        ctx.setAdapterCvec(vector)
        assert not np.allclose(now(), plain, atol=0.1)
        ctx.setAdapterCvec(None)
        assert np.allclose(now(), plain, atol=1e-4)
        with pytest.raises(ValueError, match="1 to 1 whole rows of 64"):
            ctx.setAdapterCvec(np.zeros(n + 1, np.float32))
        with pytest.raises(ValueError, match="ilStart and ilEnd.*1 and 1.*got 1 and 2"):
            ctx.setAdapterCvec(vector, ilEnd=2)
        with pytest.raises(ValueError, match="data must be finite"):
            ctx.setAdapterCvec(np.full(n, np.nan, np.float32))
        with pytest.raises(ValueError, match="nEmbd.*64.*got 3"):
            ctx.setAdapterCvec(np.zeros(n, np.float32), None, 3)
        with pytest.raises(TypeError, match="float"):
            ctx.setAdapterCvec(np.zeros(n))


def test_threads(ctx: Context) -> None:
    ctx.setNThreads(1, 2)
    assert (ctx.nThreads, ctx.nThreadsBatch) == (1, 2)
    for n in (0, -1, 513):
        with pytest.raises(ValueError, match="between 1 and 512"):
            ctx.setNThreads(n)
    assert ctx.decode(Batch.getOne(PROMPT)) == 0


def test_causal_attention(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nBatch=32, nUbatch=8)) as ctx:
        assert ctx.getCausalAttn() is True
        ctx.setCausalAttn(False)
        assert ctx.getCausalAttn() is False
        with pytest.raises(ValueError, match=r"8 tokens \(nUbatch\), got 9"):
            ctx.decode(Batch.getOne(list(range(9))))
        ctx.setCausalAttn(True)
        assert ctx.decode(Batch.getOne(list(range(9)))) == 0
        ctx.synchronize()


def test_warmup_warns_that_it_is_deprecated(ctx: Context) -> None:
    if "llama_set_warmup" not in DEPRECATED:
        pytest.skip("unavailable: this llama.cpp does not deprecate it")
    with pytest.warns(DeprecationWarning, match="llama_set_warmup is deprecated: .*manually"):
        ctx.setWarmup(True)
    assert ctx.decode(Batch.getOne([5])) == 0
    with pytest.warns(DeprecationWarning):
        ctx.setWarmup(False)


def test_times(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, noPerf=False)) as ctx:
        ctx.decode(Batch.getOne(PROMPT))
        ctx.synchronize()
        ctx.decode(Batch.getOne([5]))
        ctx.synchronize()
        data = ctx.perfContext
        assert (data.nPEval, data.nEval) == (len(PROMPT), 1)
        assert data.tPEvalMs > 0 and data.tEvalMs > 0 and data.tStartMs > 0
        lines: list[str] = []
        logSet(lambda level, text, _: lines.append(text))
        try:
            ctx.perfContextPrint()
        finally:
            logSet(None)
        assert any("prompt eval time" in line for line in lines)
        ctx.perfContextReset()
        assert ctx.perfContext.nEval == 0 or ctx.perfContext.tEvalMs == 0


# Callbacks


def test_eval_sees_the_graph(tiny: Model) -> None:
    seen: dict[str, EvalTensor] = {}
    data: dict[str, Any] = {}

    def look(tensor: EvalTensor, ask: bool, extra: str) -> bool:
        assert extra == "mine"
        if ask:
            return tensor.name in ("result_output", "l_out-0")
        data[tensor.name] = (np.array(tensor.data), tensor.shape, tensor.type.name, tensor.op.name)
        seen[tensor.name] = tensor
        return True

    with Context.initFromModel(tiny, Context.Params(nCtx=64, cbEval=look, cbEvalData="mine")) as ctx:
        ctx.decode(Batch.getOne(PROMPT))
        values, shape, kind, _ = data["result_output"]
        assert kind == "F32" and shape[-1] == 32000
        assert np.array_equal(values.reshape(-1)[-32000:], np.asarray(ctx.getLogitsIth(-1)))
        assert data["l_out-0"][1] == (len(PROMPT), tiny.nEmbd)
    with pytest.raises(ValueError, match="during the callback"):
        seen["l_out-0"].data  # noqa: B018


class Oops(Exception):
    pass


def raiser(*_: object) -> bool:
    raise Oops("from inside")


@pytest.mark.parametrize("name", ["cbEval", "abortCb"])
def test_an_exception_in_a_callback_reaches_the_caller(tiny: Model, name: str) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, **{name: raiser})) as ctx:
        with pytest.raises(Oops, match="from inside") as caught:
            ctx.decode(Batch.getOne(PROMPT))
        assert "raiser" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as other:
        assert other.decode(Batch.getOne(PROMPT)) == 0


def test_abort(tiny: Model) -> None:
    stop = [False]
    with Context.initFromModel(tiny, Context.Params(nCtx=64, abortCb=lambda flag: flag[0], abortCbData=stop)) as ctx:
        assert ctx.decode(Batch.getOne(PROMPT)) == 0
        stop[0] = True
        with pytest.raises(DecodeError, match="aborted") as caught:
            ctx.decode(Batch.getOne([5]))
        assert caught.value.code == 2
        ctx.setAbortCallback(None)
        ctx.getMemory().clear()
        assert ctx.decode(Batch.getOne(PROMPT)) == 0
        ctx.setAbortCallback(raiser)
        with pytest.raises(Oops):
            ctx.decode(Batch.getOne([5]))


def test_callbacks_that_are_none(tiny: Model) -> None:
    for name in ("cbEval", "abortCb"):
        with pytest.raises(TypeError, match=name):
            Context.Params(**{name: 5})
        assert getattr(Context.Params(), name) is None


CTRL_C = """
import signal, sys, threading, time, os
from llama_cffi import *
model = Model.load(sys.argv[1])
ctx = Context.initFromModel(model, Context.Params(nCtx=8192, nBatch=8192, nUbatch=512, nThreads=1, nThreadsBatch=1))
threading.Timer(0.5, lambda: (print(time.monotonic()), os.kill(os.getpid(), signal.SIGINT))).start()
try:
    ctx.decode(Batch.getOne([5] * 8192))
except KeyboardInterrupt:
    print(time.monotonic())
ctx.getMemory().clear()
print(ctx.decode(Batch.getOne([5])))
"""


def test_ctrl_c_interrupts_a_long_prompt_within_a_second(gemma_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CTRL_C, str(gemma_path)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    sent, caught, code = result.stdout.split()
    assert float(caught) - float(sent) < 1.0
    assert code == "0"


def test_signals_do_not_disturb_other_threads(tiny: Model) -> None:
    """A handler runs in the main thread; a computation in another one goes on."""
    results: list[int] = []

    def work() -> None:
        with Context.initFromModel(tiny, Context.Params(nCtx=512, nBatch=512)) as ctx:
            for _ in range(20):
                ctx.getMemory().clear()
                results.append(ctx.decode(Batch.getOne([5] * 500)))

    calls: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda *_: calls.append(1))
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.02)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert results == [0] * 20
    assert calls


# The log


@pytest.fixture
def quiet() -> Iterator[None]:
    yield
    logSet(None)


_IN_THIS_ORDER = ("loaded meta data", "general.architecture", "print_info: n_layer", "model buffer size")


def test_the_log_goes_to_a_function(tiny_path: Path, quiet: None) -> None:
    lines: list[tuple[Any, str, Any, int]] = []

    def target(level: Any, text: str, extra: Any) -> None:
        lines.append((level, text, extra, threading.get_ident()))

    logSet(target, "mine")
    assert logGet() == (target, "mine")
    Model.load(tiny_path).free()
    assert any("general.architecture" in text for _, text, _, _ in lines)
    assert all(text.endswith("\n") and text.count("\n") == 1 for _, text, _, _ in lines)
    assert {extra for _, _, extra, _ in lines} == {"mine"}
    assert {ident for *_, ident in lines} == {threading.get_ident()}
    places = [next(i for i, line in enumerate(lines) if words in line[1]) for words in _IN_THIS_ORDER]
    assert places == sorted(places)
    n = len(lines)
    logSet(None)
    Model.load(tiny_path).free()
    assert len(lines) == n and logGet() == (None, None)


def test_lines_come_in_their_order_one_call_after_another(tiny_path: Path, quiet: None) -> None:
    numbers: list[int] = []
    depths: set[int] = set()

    def target(level: Any, text: str, extra: Any) -> None:
        depths.add(len(inspect.stack()))
        if match := re.search(r"- kv +(\d+):", text):
            numbers.append(int(match[1]))

    logSet(target)
    Model.load(tiny_path).free()
    assert len(numbers) > 10 and numbers == sorted(numbers)
    assert max(depths) - min(depths) < 10  # else a long log would exceed Python's limit of recursion


def test_the_log_goes_to_logging(tiny_path: Path, quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    logSet(logging.getLogger("llama"))
    with caplog.at_level(logging.DEBUG, "llama"):
        Model.load(tiny_path).free()
        with pytest.raises(AdapterError):
            with Model.load(tiny_path) as model:
                Adapter.loraInit(model, tiny_path)
    levels = {record.levelno for record in caplog.records}
    assert logging.INFO in levels and logging.ERROR in levels


def test_a_log_target_may_call_llama_cpp(tiny_path: Path, quiet: None) -> None:
    with Model.load(tiny_path) as model:
        lines: list[str] = []

        def target(level: Any, text: str, extra: Any) -> None:
            assert model.nLayer == 2
            lines.append(text)

        logSet(target)
        Context.initFromModel(model, Context.Params(nCtx=64)).free()
    places = [next(i for i, line in enumerate(lines) if words in line) for words in ("constructing", "KV buffer size")]
    assert places == sorted(places)


@pytest.mark.older("llama_n_ctx_seq", "the tiny model's tokenizer is warned of")
def test_the_end_of_the_interpreter_logs_nothing(tiny_path: Path) -> None:
    code = (
        "import logging, sys; from llama_cffi import *; logSet(logging.getLogger('llama')); "
        "model = Model.load(sys.argv[1]); ctx = Context.initFromModel(model, Context.Params(nCtx=512))"
    )
    ended = subprocess.run([sys.executable, "-c", code, tiny_path], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_broken_log_target_hides_nothing(tiny_path: Path, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: reported.append(hook.exc_type))
    logSet(raiser)
    Model.load(tiny_path).free()
    assert reported and set(reported) == {Oops}
    with pytest.raises(TypeError, match="logging.Logger"):
        logSet(3)  # type: ignore[arg-type]


# Extended batches


@pytest.mark.needs("llama_batch_ext_init")
def test_an_extended_batch_equals_a_plain_one(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
        ctx.decode(Batch.getOne(PROMPT))
        expected = np.array(ctx.getLogitsIth(-1))
        ctx.getMemory().clear()
        with BatchExt.init(ctx) as batch:
            for pos, token in enumerate(PROMPT):
                batch.setPos(batch.addToken(0, token), pos)
            batch.setOutputLogits(len(PROMPT) - 1)
            assert (len(batch), ctx.process(ProcessType.DECODE, batch)) == (len(PROMPT), 0)
        assert np.array_equal(expected, np.asarray(ctx.getLogitsIth(-1)))


@pytest.mark.needs("llama_batch_ext_init")
def test_extended_batches_check_their_entries(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nBatch=2)) as ctx:
        batch = BatchExt.init(ctx)
        with pytest.raises(ValueError, match="empty"):
            ctx.process(ProcessType.DECODE, batch)
        with pytest.raises(ValueError, match="sequence"):
            batch.addToken(1, 5)
        for token in (-1, 32000):
            with pytest.raises(IndexError, match=f"token.*got {token}"):
                batch.addToken(0, token)
        index = batch.addToken(0, 5)
        with pytest.raises(ValueError, match="no position"):
            ctx.process(ProcessType.DECODE, batch)
        with pytest.raises(IndexError, match="1 entries"):
            batch.setPos(1, 0)
        for pos in (-1, [0, 1, -1, 2], np.array([0, -1, 0, 0])):
            with pytest.raises(ValueError, match="pos.*0.*got -1"):
                batch.setPos(index, pos)  # type: ignore[arg-type]
        for odd in ("1", None, 0.5, [0.5], np.zeros(2)):
            with pytest.raises(TypeError, match="pos: expected an integer, or four"):
                batch.setPos(index, odd)  # type: ignore[arg-type]
        for pos in (np.int64(3), np.array(3), np.array([3]), [3]):
            batch.setPos(index, pos)  # type: ignore[arg-type]
            assert batch._positions[index] == 3
        with pytest.raises(ValueError, match="four.*got 2"):
            batch.setPos(index, [1, 2])
        batch = BatchExt.init(ctx)
        index = batch.addToken(0, 5)
        with pytest.raises(ValueError, match=f"{tiny.nEmbd} floats.*got 1"):
            batch.setEmbdToken(index, [1.0])
        batch.addToken(0, 6)
        with pytest.raises(ValueError, match="full"):
            batch.addToken(0, 7)
        with pytest.raises(ValueError, match="no encoder"):
            batch.setPos(0, 0)
            batch.setPos(1, 1)
            ctx.process(ProcessType.ENCODE, batch)
        ctx.free()
        with pytest.raises(ClosedError):
            batch.addToken(0, 5)


@pytest.mark.needs("llama_batch_ext_init")
def test_only_a_context_of_draft_heads_takes_states(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx, BatchExt.init(ctx) as batch:
        batch.setPos(batch.add(0), 0)
        with pytest.raises(ValueError, match=f"{tiny.nEmbdOut} floats.*got 3"):
            batch.setEmbdState(0, [1.0] * 3)
        with pytest.raises(ValueError, match="state of entry 0.*MTP"):
            batch.setEmbdState(0, [1.0] * tiny.nEmbdOut)
        with pytest.raises(ValueError, match="entry 0.*neither"):
            ctx.process(ProcessType.DECODE, batch)


@pytest.mark.needs("llama_batch_ext_init", "llama_process")
def test_a_failed_process_names_its_function(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=256)) as ctx:
        ctx.decode(Batch.getOne([5] * 256))
        for pos, error, code in ((256, ContextFullError, 1), (7, DecodeError, -1)):
            batch = BatchExt.init(ctx)
            batch.setPos(batch.addToken(0, 5), pos)
            with pytest.raises(error) as caught:
                ctx.process(ProcessType.DECODE, batch)
            assert (type(caught.value), caught.value.operation, caught.value.code) == (error, "llama_process", code)
        assert ctx.getMemory().seqRemove(0, 200, -1)
        assert ctx.decode(Batch.getOne([5])) == 0


@pytest.mark.needs("llama_batch_ext_init")
def test_embeddings_in_an_extended_batch(tiny: Model) -> None:
    vector = np.linspace(-1, 1, tiny.nEmbd).astype(np.float32)
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
        with Batch.init(1, tiny.nEmbd, 1) as plain:
            assert plain.embd is not None and plain.output is not None
            plain.embd[:] = memoryview(vector)
            plain.output[0], plain.nTokens = 1, 1
            ctx.decode(plain)
        expected = np.array(ctx.getLogitsIth(-1))
        ctx.getMemory().clear()
        with BatchExt.init(ctx) as batch:
            batch.setPos(batch.addEmbd(0, vector), 0)
            batch.setOutputLogits(0)
            ctx.process(ProcessType.DECODE, batch)
        assert np.array_equal(expected, np.asarray(ctx.getLogitsIth(-1)))


@pytest.mark.needs("llama_batch_ext_init")
@pytest.mark.older("llama_context_params.moe_cache_size", "an extended batch has either tokens or embeddings")
def test_tokens_and_embeddings_in_one_extended_batch(tiny: Model) -> None:
    vector = np.linspace(-1, 1, tiny.nEmbd).astype(np.float32)
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx, BatchExt.init(ctx) as batch:

        def logits(*starts: int) -> np.ndarray:
            """The logits after a token, an embedding and a token, in batches that start at these entries."""
            ctx.getMemory().clear()
            for pos in range(3):
                if pos in starts:
                    batch.clear()
                batch.setPos(batch.addEmbd(0, vector) if pos == 1 else batch.addToken(0, 5 + pos), pos)
                if pos == 2 or pos + 1 in starts:
                    batch.setOutputLogits(len(batch) - 1)
                    ctx.process(ProcessType.DECODE, batch)
            return np.array(ctx.getLogitsIth(-1))

        assert logits(0) == pytest.approx(logits(0, 1, 2), abs=1e-4)


@pytest.mark.needs("llama_batch_ext_init")
@pytest.mark.older("llama_context_params.moe_cache_size", "no context takes states")
def test_a_context_of_draft_heads_takes_a_state_for_each_entry(tmp_path: Path) -> None:
    path = tiny_archs.write_with_draft_head(tmp_path / "draft.gguf")
    with Model.load(path, Model.Params(loadMtp=True)) as model:
        params = Context.Params(nCtx=64, ctxType=ContextType.MTP)
        with Context.initFromModel(model, params) as ctx, BatchExt.init(ctx) as batch:

            def logits(*states: float) -> np.ndarray:
                batch.clear()
                ctx.getMemory().clear()
                for pos, state in enumerate(states):
                    batch.setPos(batch.addToken(0, 5 + pos), pos)
                    batch.setEmbdState(pos, np.linspace(-1, state, model.nEmbdOut, dtype=np.float32))
                batch.setOutputLogits(len(states) - 1)
                ctx.process(ProcessType.DECODE, batch)
                return np.array(ctx.getLogitsIth(-1))

            one = logits(1.0, 1.0)
            assert np.isfinite(one).all() and np.array_equal(one, logits(1.0, 1.0))
            assert abs(one - logits(1.0, 3.0)).max() > 1e-3 and abs(one - logits(3.0, 1.0)).max() > 1e-3
            batch.setPos(batch.addToken(0, 7), 2)
            with pytest.raises(ValueError, match="entry 2.*state.*setEmbdState"):
                ctx.process(ProcessType.DECODE, batch)
            with pytest.raises(ValueError, match="state of entry 0"):
                batch.setEmbdState(0, [0.0] * model.nEmbdOut)
            batch.setEmbdState(2, [0.0] * model.nEmbdOut)
            ctx.getMemory().clear()
            assert ctx.process(ProcessType.DECODE, batch) == 0
