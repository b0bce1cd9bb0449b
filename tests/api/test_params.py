"""Model.Params: what C reads through pointers, who keeps it alive, and what the progress callback may do."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import traceback
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    Context,
    Ggml,
    LoadMode,
    Model,
    ModelLoadError,
    SplitMode,
    TensorBuftOverride,
    ffi,
    lib,
    maxDevices,
    maxTensorBuftOverrides,
    tokenize,
)


def _logits(model: Model) -> list[float]:
    with Context.initFromModel(model, Context.Params(nCtx=64, nThreads=2)) as ctx:
        ctx.decode(Batch.getOne(tokenize(model.vocab, "Hello")))
        return ffi.unpack(lib.llama_get_logits_ith(ctx._c, -1), model.vocab.nTokens)


def _cpu() -> Ggml.BackendDevice:
    device = Ggml.BackendDevice.byType(Ggml.BackendDevType.CPU)
    assert device is not None
    return device


# Devices, splits, buffers


def test_nothing_is_set_by_default() -> None:
    params = Model.Params()
    for name in ("devices", "tensorBuftOverrides", "tensorSplit", "kvOverrides", "progressCallback"):
        assert getattr(params, name) is None
    assert params.progressCallbackUserData is None
    for name in ("devices", "tensor_buft_overrides", "tensor_split", "kv_overrides", "progress_callback"):
        assert getattr(params._c, name) == ffi.NULL


@pytest.mark.parametrize("devices", [[], ["CPU"]])
def test_devices(tiny_path: Path, tiny: Model, devices: list[str]) -> None:
    chosen = [_cpu() for _ in devices]
    params = Model.Params(devices=chosen)
    assert params.devices == tuple(chosen)
    assert params._c.devices[len(chosen)] == ffi.NULL
    with Model.load(tiny_path, params) as model:
        assert _logits(model) == _logits(tiny)


def test_devices_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"Ggml\.Backend\.devices\(\)"):
        Model.Params(devices=["CPU"])
    with pytest.raises(ValueError, match="twice"):
        Model.Params(devices=[_cpu(), _cpu()])
    with pytest.raises(TypeError):
        Model.Params(devices=5)


@pytest.mark.parametrize("shares", [[3, 1], (0.5,), array("f", [1, 2]), np.array([1.0, 2.0]), []])
def test_tensor_split_fills_an_array_of_cs_length(tiny_path: Path, shares: Any) -> None:
    params = Model.Params(tensorSplit=shares)
    n = len(shares)
    assert params.tensorSplit == tuple(float(x) for x in shares)
    assert ffi.unpack(params._c.tensor_split, maxDevices()) == [*map(float, shares)] + [0.0] * (maxDevices() - n)
    with Model.load(tiny_path, params) as model:
        assert model.nLayer == 2


def test_tensor_splits_that_are_none() -> None:
    with pytest.raises(ValueError, match=f"at most {maxDevices()} shares"):
        Model.Params(tensorSplit=[1.0] * (maxDevices() + 1))
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tensorSplit .*at least 0, got"):
            Model.Params(tensorSplit=[bad])
    with pytest.raises(ValueError, match="could not convert"):
        Model.Params(tensorSplit=["half"])


def test_more_than_the_devices_take(tiny_path: Path) -> None:
    """With a single device, the CPU; with others, in tests/vulkan."""
    devices = [_cpu()]
    rows = [
        (Model.Params(devices=devices, tensorSplit=[1, 0, 1]), "tensorSplit .*at most 1 shares, got 3.* CPU"),
        (
            Model.Params(devices=devices, splitMode=SplitMode.NONE, mainGpu=1),
            "mainGpu must be between 0 and 0 .* got 1",
        ),
        (Model.Params(devices=devices, splitMode=SplitMode.ROW), "splitMode=ROW .*CPU does not"),
    ]
    if "TENSOR" in SplitMode.__members__:
        rows.append((Model.Params(devices=devices, splitMode=SplitMode.TENSOR), "splitMode=TENSOR .*CPU"))
    for params, words in rows:
        with pytest.raises(ValueError, match=words):
            Model.load(tiny_path, params)
    with pytest.raises(ValueError, match="sum of tensorSplit .*got 6e\\+38"):
        Model.Params(tensorSplit=[3e38, 3e38])
    Model.load(tiny_path, Model.Params(devices=devices, tensorSplit=[1, 0, 0])).free()
    Model.load(tiny_path, Model.Params(devices=devices, splitMode=SplitMode.NONE, mainGpu=-1)).free()


def test_buffer_type_overrides(tiny_path: Path, tiny: Model) -> None:
    override = TensorBuftOverride(r"ffn_.*", _cpu().bufferType())
    params = Model.Params(tensorBuftOverrides=[override])
    assert params.tensorBuftOverrides == (override,)
    with Model.load(tiny_path, params) as model:
        assert _logits(model) == pytest.approx(_logits(tiny), abs=0.2)  # not repacked, so not bit for bit


def test_buffer_type_overrides_that_are_none(tiny_path: Path) -> None:
    buft = _cpu().bufferType()
    with pytest.raises(TypeError, match=r"expected a TensorBuftOverride.*got tuple: TensorBuftOverride\("):
        Model.Params(tensorBuftOverrides=[("ffn", buft)])
    with pytest.raises(TypeError, match=r"expected a Ggml.BackendBufferType, got str: device.bufferType"):
        Model.Params(tensorBuftOverrides=[TensorBuftOverride("ffn", "CPU")])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NUL"):
        Model.Params(tensorBuftOverrides=[TensorBuftOverride("a\0b", buft)])
    with pytest.raises(ValueError, match="at most"):
        Model.Params(tensorBuftOverrides=[TensorBuftOverride("a", buft)] * maxTensorBuftOverrides())
    with pytest.raises(ModelLoadError, match="regular expression"):
        Model.load(tiny_path, Model.Params(tensorBuftOverrides=[TensorBuftOverride("(", buft)]))


# Metadata


def test_kv_overrides_of_every_type(tiny_path: Path) -> None:
    overrides = {
        "llama.context_length": 99,
        "llama.rope.freq_base": 500000.0,
        "tokenizer.ggml.add_bos_token": False,
        "general.name": "overridden",
    }
    params = Model.Params(kvOverrides=overrides)
    overrides["llama.context_length"] = 7  # the parameters have their own
    assert params.kvOverrides is not None and params.kvOverrides["llama.context_length"] == 99
    with pytest.raises(TypeError):
        params.kvOverrides["x"] = 1  # type: ignore[index]
    with Model.load(tiny_path, params) as model:
        assert model.nCtxTrain == 99
        assert model.vocab.getAddBos() is False
        assert tokenize(model.vocab, "a")[0] != model.vocab.bos


def test_kv_overrides_change_what_the_model_computes(tiny_path: Path, tiny: Model) -> None:
    with Model.load(tiny_path, Model.Params(kvOverrides={"llama.rope.freq_base": 3.0})) as model:
        assert _logits(model) != _logits(tiny)


def test_a_long_text_fits_to_the_last_byte(tiny_path: Path) -> None:
    key, value = "k" * 127, "é" * 63 + "x"
    params = Model.Params(kvOverrides={key: value})
    assert ffi.string(params._c.kv_overrides[0].key) == key.encode()
    assert ffi.string(params._c.kv_overrides[0].val_str) == value.encode()
    assert params._c.kv_overrides[1].key[0] == b"\0"
    Model.load(tiny_path, params).free()


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"k" * 128: 1}, ValueError, "at most 127 bytes"),
        ({"k": "x" * 128}, ValueError, "at most 127 bytes"),
        ({"": 1}, ValueError, "empty"),
        ({"a\0b": 1}, ValueError, "NUL"),
        ({"k": "a\0b"}, ValueError, "NUL"),
        ({"k": 1 << 63}, ValueError, "kvOverrides.*between -9223372036854775808 and 9223372036854775807, got"),
        ({"k": None}, TypeError, "int, float, bool or str"),
        ({5: 1}, TypeError, "str or bytes"),
        ([("k", 1)], TypeError, "a dict"),
        ({"llama.block_count": 0}, ValueError, "between 1 and 512"),
        ({"llama.block_count": 513}, ValueError, "between 1 and 512"),
        ({"llama.rope.scaling.type": "foo"}, ValueError, "none, linear, yarn, longrope"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, ValueError, "at least 0, got -1.0"),
        ({"bert.attention.layer_norm_epsilon": float("nan")}, ValueError, "at least 0, got nan"),
    ],
)
def test_kv_overrides_that_are_refused(overrides: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Model.Params(kvOverrides=overrides)


def test_a_refused_value_changes_nothing() -> None:
    params = Model.Params(kvOverrides={"a": 1})
    with pytest.raises(ValueError):
        params.kvOverrides = {"": 1}
    assert params.kvOverrides == {"a": 1}
    params.kvOverrides = None
    assert params._c.kv_overrides == ffi.NULL
    assert params == Model.Params()


# As objects


def test_repr_and_equality_with_pointers() -> None:
    params = Model.Params(tensorSplit=[1, 2], nGpuLayers=3)
    assert repr(params) == "ModelParams(nGpuLayers=3, tensorSplit=(1.0, 2.0))"
    assert params == Model.Params(nGpuLayers=3, tensorSplit=(1, 2))
    assert params != Model.Params(nGpuLayers=3)
    with pytest.raises(AttributeError, match="did you mean 'kvOverrides'"):
        Model.Params(kvOverride={})
    with pytest.raises(AttributeError, match="did you mean 'progressCallback'"):
        params.progresCallback = print  # type: ignore[attr-defined]


def test_a_model_is_not_bound_to_its_parameters(tiny_path: Path) -> None:
    params = Model.Params(
        devices=[_cpu()],
        tensorBuftOverrides=[TensorBuftOverride("ffn", _cpu().bufferType())],
        tensorSplit=[1.0],
        kvOverrides={"general.name": "x"},
        loadMode=LoadMode.NONE,
    )
    model = Model.load(tiny_path, params)
    params.vocabOnly = True
    params.devices = params.tensorSplit = params.kvOverrides = params.tensorBuftOverrides = None
    del params
    gc.collect()
    assert len(_logits(model)) == 32000
    model.free()


# Progress


def test_progress_rises_to_one(tiny_path: Path) -> None:
    seen: list[float] = []
    Model.load(tiny_path, Model.Params(progressCallback=seen.append)).free()
    assert seen == sorted(seen) and seen[0] == 0.0 and seen[-1] == 1.0 and len(seen) > 10


def test_progress_with_user_data(tiny_path: Path) -> None:
    seen: list[float] = []

    def note(progress: float, data: list[float]) -> None:
        data.append(progress)

    for params in (
        Model.Params(progressCallback=note, progressCallbackUserData=seen),
        Model.Params(progressCallbackUserData=seen, progressCallback=note),
    ):
        seen.clear()
        Model.load(tiny_path, params).free()
        assert seen[-1] == 1.0
        assert params.progressCallback is note and params.progressCallbackUserData is seen
    assert "progressCallback=" in repr(params)


def test_progress_over_raw_lib(tiny_path: Path) -> None:
    seen: list[float] = []
    params = Model.Params(progressCallback=seen.append)
    pointer = lib.llama_model_load_from_file(str(tiny_path).encode(), params._c[0])
    lib.llama_model_free(pointer)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("answer", [False, 0, np.False_])
def test_progress_stops_the_load(tiny_path: Path, answer: Any) -> None:
    params = Model.Params(progressCallback=lambda progress: answer if progress > 0.5 else True)
    with pytest.raises(ModelLoadError, match=r"tiny\.gguf was not loaded: progressCallback stopped it"):
        Model.load(tiny_path, params)
    params.progressCallback = None
    Model.load(tiny_path, params).free()


@pytest.mark.parametrize("answer", [None, True, 1])
def test_progress_goes_on(tiny_path: Path, answer: Any) -> None:
    Model.load(tiny_path, Model.Params(progressCallback=lambda progress: answer)).free()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_what_the_callback_raises_reaches_the_caller(tiny_path: Path, threshold: float) -> None:
    def fail(progress: float) -> None:
        if progress >= threshold:
            raise LookupError("from inside")

    with pytest.raises(LookupError, match="from inside") as caught:
        Model.load(tiny_path, Model.Params(progressCallback=fail))
    assert "fail" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    Model.load(tiny_path).free()  # nothing is left behind


def test_ctrl_c_in_the_callback(tiny_path: Path) -> None:
    def interrupt(progress: float) -> None:
        signal.raise_signal(signal.SIGINT)  # to this thread, and before the call returns

    with pytest.raises(KeyboardInterrupt):
        Model.load(tiny_path, Model.Params(progressCallback=interrupt))


CTRL_C = """
import os, signal, sys, threading, time
from llama_cffi import Model
def interrupt():
    while True:  # one signal may fall into a finalizer, where Python drops what a handler raises
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    for _ in range(2000):
        Model.load(sys.argv[1]).free()
except KeyboardInterrupt:
    os._exit(0)
os._exit(3)
"""


def test_ctrl_c_without_a_callback(tiny_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", CTRL_C, str(tiny_path)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_a_callback_may_load_another_model(tiny_path: Path) -> None:
    names: list[str | None] = []

    def nested(progress: float) -> None:
        if progress == 1.0:
            with Model.load(tiny_path, Model.Params(vocabOnly=True)) as inner:
                names.append(inner.metaValStr("general.name"))

    with Model.load(tiny_path, Model.Params(progressCallback=nested)) as model:
        assert names == [model.metaValStr("general.name")]


def test_callbacks_that_are_none() -> None:
    with pytest.raises(TypeError, match="a function or None"):
        Model.Params(progressCallback=5)
