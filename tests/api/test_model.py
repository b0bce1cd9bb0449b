"""Models: metadata against the gguf package reading the same file, parameters, loading and saving."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import gguf
import pytest

from llama_cffi import (
    Batch,
    Context,
    LoadMode,
    Model,
    ModelLoadError,
    NativeError,
    RopeScalingType,
    Sampler,
    SplitMode,
    lib,
    tokenize,
)


def _scalars(path: Path) -> dict[str, object]:
    fields = gguf.GGUFReader(path).fields.values()
    return {f.name: f.contents() for f in fields if f.types and f.types[0] != gguf.GGUFValueType.ARRAY}


def test_metadata_equals_what_gguf_reads(tiny: Model, tiny_path: Path) -> None:
    expected = {name: value for name, value in _scalars(tiny_path).items() if not name.startswith("GGUF.")}
    keys = {tiny.metaKeyByIndex(i) for i in range(tiny.metaCount)}
    assert None not in keys
    assert {key for key in keys if key in expected} == set(expected)
    for key, value in expected.items():
        found = tiny.metaValStr(key)
        assert found is not None
        if isinstance(value, bool):
            assert found == str(value).lower()
        elif isinstance(value, (int, float)):
            assert float(found) == pytest.approx(float(value), rel=1e-5)
        else:
            assert found == value


def test_metadata_into_a_buffer(tiny: Model) -> None:
    whole = tiny.metaValStr("general.architecture")
    assert whole == "llama"
    buf = bytearray(b"x" * 32)
    assert tiny.metaValStr("general.architecture", buf, 32) == 5
    assert buf[:6] == b"llama\0"
    assert tiny.metaValStr("general.architecture", buf, 3) == 5  # C's answer: the length it needs
    assert buf[:3] == b"ll\0"
    assert tiny.metaValStr("no.such.key") is None
    assert tiny.metaValStr("no.such.key", buf, 32) == -1
    assert tiny.metaKeyByIndex(-1) is None
    assert tiny.metaKeyByIndex(10**6, buf, 32) == -1
    with pytest.raises(TypeError, match="belong together"):
        tiny.metaValStr("general.name", buf)  # type: ignore[call-overload]


def test_shape(tiny: Model, tiny_path: Path) -> None:
    meta = _scalars(tiny_path)
    assert tiny.nEmbd == meta["llama.embedding_length"]
    assert tiny.nLayer == meta["llama.block_count"]
    assert tiny.nHead == meta["llama.attention.head_count"]
    assert tiny.nCtxTrain == meta["llama.context_length"]
    assert (tiny.hasEncoder, tiny.hasDecoder, tiny.hasDencoder) == (False, True, True)
    assert tiny.vocab.nTokens == 32000


def test_a_context_with_yarn_leaves_the_context_length_of_the_model(tiny_path: Path, tmp_path: Path) -> None:
    """llama.cpp changes it for the whole model, and with it the default `nCtx` of later contexts and what is saved."""
    yarn = Context.Params(ropeScalingType=RopeScalingType.YARN, ropeFreqScale=0.5, yarnOrigCtx=64, nCtx=64)
    with Model.load(tiny_path, Model.Params(useExtraBufts=False)) as model:
        before = model.nCtxTrain
        Context.initFromModel(model, yarn).free()
        changed = lib.llama_model_n_ctx_train(model._c) != before  # not in an older llama.cpp
        assert model.nCtxTrain == before == 512
        with Context.initFromModel(model, Context.Params(nCtx=0)) as ctx:
            assert ctx.nCtx == before
        refused = pytest.raises(NativeError, match="load the model again") if changed else nullcontext()
        with refused:
            model.save(tmp_path / "saved.gguf")


def test_vocab_only(tiny_path: Path) -> None:
    with Model.load(tiny_path, Model.Params(vocabOnly=True)) as model:
        assert tokenize(model.vocab, "Hello")
        assert model.nHead == 0
        with pytest.raises(ValueError, match="vocabOnly"):
            Context.initFromModel(model)
        with pytest.raises(NativeError, match="vocabOnly"):
            model.save("/tmp/never")


def test_params_defaults_are_llama_cpps() -> None:
    params, c = Model.getDefaultParams(), lib.llama_model_default_params()
    assert (params.nGpuLayers, params.mainGpu, params.vocabOnly) == (c.n_gpu_layers, c.main_gpu, c.vocab_only)
    assert params.splitMode is SplitMode(c.split_mode)
    assert repr(params) == "ModelParams()"


def test_params_check_what_they_are_given() -> None:
    with pytest.raises(AttributeError, match="did you mean 'nGpuLayers'"):
        Model.Params(nGpuLayer=1)
    with pytest.raises(ValueError, match="nCtx must be between 0 and 4294967295"):
        Context.Params(nCtx=-1)
    with pytest.raises(TypeError, match="nCtx must be an integer"):
        Context.Params(nCtx="many")
    with pytest.raises(ValueError, match="NONE, LAYER, ROW"):
        Model.Params(splitMode=99)
    with pytest.raises(TypeError, match="True or False"):
        Model.Params(vocabOnly="yes")
    params = Context.Params(nCtx=1024, ropeFreqBase=1e4)
    assert repr(params) == "ContextParams(nCtx=1024, ropeFreqBase=10000.0)"


@pytest.mark.older("llama_n_ctx_seq", "direct I/O cannot be asked for")
def test_the_three_booleans_are_a_view_of_load_mode() -> None:
    params = Model.Params()
    assert (params.useMmap, params.useMlock, params.useDirectIo) == (True, False, False)
    params.useMlock = True
    assert params.loadMode == LoadMode.MMAP_MLOCK
    params.useMmap = False
    assert params.loadMode == LoadMode.MLOCK
    params.useMlock = False
    assert params.loadMode == LoadMode.NONE
    params.useDirectIo = True
    assert (params.loadMode, params.useMmap) == (LoadMode.DIRECT_IO, False)


@pytest.mark.parametrize(
    "mode",
    [
        {"useMmap": False},
        {"useMmap": True},
        pytest.param(
            {"useDirectIo": True}, marks=pytest.mark.older("llama_n_ctx_seq", "direct I/O cannot be asked for")
        ),
    ],
)
def test_every_way_to_read_the_file(tiny_path: Path, mode: dict[str, bool]) -> None:
    with Model.load(tiny_path, Model.Params(**mode)) as model:
        assert model.nLayer == 2


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Model.load(tmp_path / "none.gguf")
    with pytest.raises(IsADirectoryError):
        Model.load(tmp_path)
    with pytest.raises(ValueError, match="NUL"):
        Model.load("a\0b")
    with pytest.raises(TypeError, match="Model.Params"):
        Model.load("x.gguf", Context.Params())  # type: ignore[arg-type]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelLoadError, match="llama.cpp logged") as caught:
        Model.load(bad)
    assert caught.value.operation == "llama_model_load_from_file"
    assert caught.value.log


def test_paths_of_every_kind(tiny_path: Path, tmp_path: Path) -> None:
    odd = tmp_path / "mödel ☃.gguf"
    odd.symlink_to(tiny_path)
    for path in (odd, str(odd), str(odd).encode()):
        with Model.load(path) as model:
            assert model.metaCount > 5


def test_load_splits(tiny_path: Path) -> None:
    with Model.loadSplits([tiny_path], 1, Model.getDefaultParams()) as model:
        assert model.nLayer == 2
    with pytest.raises(ValueError, match=r"count .*1, got 2"):
        Model.loadSplits([tiny_path], 2)
    with pytest.raises(TypeError, match=r"paths.*got str: Model\.load\(path\)"):
        Model.loadSplits(str(tiny_path))


def test_save_and_load_again(tiny_path: Path, tmp_path: Path) -> None:
    def greedy(model: Model) -> list[int]:
        out = []
        with Context.initFromModel(model, Context.Params(nCtx=64)) as ctx, Sampler.initGreedy() as sampler:
            ctx.decode(Batch.getOne(tokenize(model.vocab, "Hello")))
            for _ in range(10):
                out.append(sampler.sample(ctx))
                ctx.decode(Batch.getOne(out[-1:]))
        return out

    copy = tmp_path / "copy.gguf"
    with Model.load(tiny_path, Model.Params(useExtraBufts=False)) as model:
        model.save(copy)
        expected = greedy(model)
        with pytest.raises(OSError):
            model.save(tmp_path / "no" / "such" / "folder.gguf")
    with Model.load(copy) as model:
        assert greedy(model) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["copy.gguf"]


def test_saving_repacked_weights_is_refused(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(NativeError, match="useExtraBufts=False"):
        tiny.save(tmp_path / "x.gguf")
