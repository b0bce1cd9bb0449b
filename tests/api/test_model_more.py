"""What a model says about itself, against the gguf package reading the same file; quantizing; damaged files."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llama_cffi import (
    TOKEN_NULL,
    Batch,
    Context,
    Ftype,
    Ggml,
    Model,
    ModelLoadError,
    ModelMetaKey,
    NativeError,
    RopeType,
    ffi,
    ftypeName,
    lib,
    tokenize,
)
from llama_cffi._core.compat import is_pinned_version
from tests import tiny_models


@pytest.fixture(scope="session")
def f32_path(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = dataclasses.replace(tiny_models.LLAMA, quant="F32")
    folder = tmp_path_factory.mktemp("f32")
    return tiny_models.write_llama(folder / "f32.gguf", vectors / "ggml-vocab-llama-spm.gguf", spec)


@pytest.fixture(scope="session")
def zoo(vectors: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model of each kind."""
    folder = tmp_path_factory.mktemp("zoo")
    return {
        "llama": tiny_path,
        "bert": tiny_models.write_bert(folder / "bert.gguf", vectors / "ggml-vocab-bert-bge.gguf"),
        "t5": tiny_models.write_t5(folder / "t5.gguf"),
        "mamba": tiny_models.write_mamba(folder / "mamba.gguf", vectors / "ggml-vocab-llama-spm.gguf"),
    }


@functools.lru_cache(maxsize=4)
def _tensors(path: Path) -> list[Any]:
    return list(gguf.GGUFReader(path).tensors)


@pytest.mark.needs("llama_model_ftype")
@pytest.mark.parametrize("kind", ["llama", "bert", "t5", "mamba"])
def test_weights_equal_what_gguf_counts(zoo: dict[str, Path], kind: str) -> None:
    tensors = _tensors(zoo[kind])
    with Model.load(zoo[kind]) as model:
        assert model.nParams == sum(math.prod(int(n) for n in t.shape) for t in tensors)
        assert model.size == sum(int(t.n_bytes) for t in tensors)
        assert model.ftype is Ftype.MOSTLY_Q8_0


@pytest.mark.slow
@pytest.mark.needs("llama_model_ftype")
def test_weights_of_gemma(gemma: Model, gemma_path: Path) -> None:
    tensors = _tensors(gemma_path)
    assert gemma.nParams == sum(math.prod(int(n) for n in t.shape) for t in tensors)
    assert gemma.size == sum(int(t.n_bytes) for t in tensors)
    assert gemma.ftype is Ftype.MOSTLY_Q4_K_M
    assert gemma.desc().endswith(ftypeName(gemma.ftype))
    assert (gemma.nHead, gemma.nHeadKv, gemma.nSwa, gemma.ropeType) == (4, 1, 512, RopeType.NEOX)
    assert gemma.metaValStr("gemma3.attention.sliding_window") == "512"


# kind: hasEncoder, hasDecoder, isRecurrent, isHybrid, isDiffusion, decoderStartToken, ropeType
KINDS = {
    "llama": (False, True, False, False, False, TOKEN_NULL, RopeType.NORM),
    "bert": (False, True, False, False, False, TOKEN_NULL, RopeType.NEOX),
    "t5": (True, True, False, False, False, 0, RopeType.NONE),
    "mamba": (False, True, True, False, False, TOKEN_NULL, RopeType.NONE),
}


@pytest.mark.needs("llama_model_is_hybrid", "llama_model_n_layer_nextn")
@pytest.mark.parametrize("kind", list(KINDS))
def test_kinds(zoo: dict[str, Path], kind: str) -> None:
    with Model.load(zoo[kind]) as model:
        found = (model.hasEncoder, model.hasDecoder, model.isRecurrent, model.isHybrid, model.isDiffusion)
        assert (*found, model.decoderStartToken, model.ropeType) == KINDS[kind]
        assert (model.nEmbd, model.nEmbdInp, model.nEmbdOut) == (64, 64, 64)
        assert (model.nLayer, model.nLayerNextn, model.nSwa, model.ropeFreqScaleTrain) == (2, 0, 0, 1.0)
        assert model.nHeadKv == {"llama": 1, "mamba": 0}.get(kind, 2)


def _scalar(c_function: Callable[[Any], Any], value: object, model: Model) -> None:
    assert c_function(model._c) == value


@pytest.mark.needs("llama_model_n_layer_nextn")
def test_every_getter_equals_raw_c(gemma: Model) -> None:
    pairs = {
        lib.llama_model_n_embd_inp: gemma.nEmbdInp,
        lib.llama_model_n_embd_out: gemma.nEmbdOut,
        lib.llama_model_n_head_kv: gemma.nHeadKv,
        lib.llama_model_n_layer_nextn: gemma.nLayerNextn,
        lib.llama_model_n_swa: gemma.nSwa,
        lib.llama_model_n_cls_out: gemma.nClsOut,
        lib.llama_model_rope_type: gemma.ropeType,
        lib.llama_model_rope_freq_scale_train: gemma.ropeFreqScaleTrain,
        lib.llama_model_size: gemma.size,
        lib.llama_model_n_params: gemma.nParams,
        lib.llama_model_is_recurrent: gemma.isRecurrent,
        lib.llama_model_is_hybrid: gemma.isHybrid,
        lib.llama_model_is_diffusion: gemma.isDiffusion,
        lib.llama_model_decoder_start_token: gemma.decoderStartToken,
    }
    for c_function, value in pairs.items():
        _scalar(c_function, value, gemma)


def test_vocab_only_has_no_heads(tiny_path: Path) -> None:
    with Model.load(tiny_path, Model.Params(vocabOnly=True)) as model:
        assert (model.nHead, model.nHeadKv) == (0, 0)


def test_desc(tiny: Model) -> None:
    assert tiny.desc() == "llama ?B Q8_0"
    buf = bytearray(8)
    assert tiny.desc(buf, 8) == len("llama ?B Q8_0")
    assert buf == b"llama ?\0"
    with pytest.raises(TypeError, match="belong together"):
        tiny.desc(buf)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="room for 8"):
        tiny.desc(buf, 9)


@functools.lru_cache(maxsize=4)
def _contents(source: Path) -> tuple[list[tuple[str, Any, Any, Any]], list[Any]]:
    reader = gguf.GGUFReader(source)
    fields = [(f.name, f.contents(), f.types[0], f.types[-1]) for f in reader.fields.values()]
    return fields, list(reader.tensors)


def _edited(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """A copy of a model file with other metadata: a value of None drops the entry."""
    fields, tensors = _contents(source)
    writer = gguf.GGUFWriter(target, next(value for name, value, *_ in fields if name == "general.architecture"))
    for name, value, kind, item in fields:
        if not name.startswith("GGUF.") and name != "general.architecture" and name not in change:
            writer.add_key_value(name, value, kind, item)
    for name, value in change.items():
        if isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for tensor in tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.needs("llama_model_ftype")
def test_a_guessed_and_an_unknown_format(tiny_path: Path, tmp_path: Path) -> None:
    with Model.load(_edited(tiny_path, tmp_path / "guessed.gguf", {"general.file_type": None})) as model:
        assert lib.llama_model_ftype(model._c) == Ftype.MOSTLY_Q8_0 | Ftype.GUESSED
        assert model.ftype is Ftype.MOSTLY_Q8_0
    with Model.load(_edited(tiny_path, tmp_path / "unknown.gguf", {"general.file_type": 999})) as model:
        assert model.ftype == 999


def test_class_labels(zoo: dict[str, Path], tmp_path: Path) -> None:
    labels = ["no", "maybe", "yes"]
    path = _edited(zoo["bert"], tmp_path / "classes.gguf", {"bert.classifier.output_labels": labels})
    with Model.load(path) as model:
        assert model.nClsOut == 3
        assert [model.clsLabel(i) for i in range(4)] == [*labels, None]
        for bad in (-1, 1 << 32):
            with pytest.raises(IndexError, match="between 0 and 2"):
                model.clsLabel(bad)
    with Model.load(zoo["bert"]) as model:
        assert model.clsLabel(0) is None


def test_chat_templates_of_the_file(tiny: Model, tiny_path: Path, tmp_path: Path) -> None:
    assert tiny.chatTemplate() is None
    change = {"tokenizer.chat_template": "{{ default }}", "tokenizer.chat_template.tool_use": "{{ tööls }}"}
    with Model.load(_edited(tiny_path, tmp_path / "templates.gguf", change)) as model:
        assert model.chatTemplate() == "{{ default }}"
        assert model.chatTemplate("tool_use") == "{{ tööls }}"
        assert model.chatTemplate("%s%n") is None
        with pytest.raises(ValueError, match="NUL"):
            model.chatTemplate("a\0b")


def test_metadata_by_index(tiny: Model) -> None:
    buf = bytearray(8)
    for i in range(tiny.metaCount):
        key = tiny.metaKeyByIndex(i)
        assert key is not None
        value = tiny.metaValStrByIndex(i)
        assert value == tiny.metaValStr(key) and value is not None
        assert tiny.metaValStrByIndex(i, buf, 8) == len(value.encode())
    assert tiny.metaValStrByIndex(-1) is None
    assert tiny.metaValStrByIndex(tiny.metaCount) is None
    assert tiny.metaValStrByIndex(10**6, buf, 8) == -1


@pytest.mark.needs("llama_model_meta_key_str")
def test_metadata_suggests_how_to_sample(tiny_path: Path, tmp_path: Path) -> None:
    names = {key: Model.metaKeyStr(key) for key in ModelMetaKey}
    assert names[ModelMetaKey.SAMPLING_TOP_K] == "general.sampling.top_k"
    assert len(set(names.values())) == len(ModelMetaKey)
    with Model.load(_edited(tiny_path, tmp_path / "m.gguf", {"general.sampling.top_k": 17})) as model:
        assert model.metaValStr(Model.metaKeyStr(ModelMetaKey.SAMPLING_TOP_K)) == "17"
    with pytest.raises(ValueError):
        Model.metaKeyStr(99)  # type: ignore[arg-type]


def test_metadata_that_is_not_utf8_or_long(tiny_path: Path, tmp_path: Path) -> None:
    text = "é" * 5000
    with Model.load(_edited(tiny_path, tmp_path / "long.gguf", {"general.name": text})) as model:
        assert model.metaValStr("general.name") == text


@pytest.mark.parametrize("epsilon", [-1.0, float("nan"), float("inf")])
def test_a_file_that_would_end_the_process_later(tiny_path: Path, tmp_path: Path, epsilon: float) -> None:
    path = _edited(tiny_path, tmp_path / "eps.gguf", {"llama.attention.layer_norm_rms_epsilon": epsilon})
    with pytest.raises(ModelLoadError, match="layer_norm_rms_epsilon"):
        Model.load(path)
    good = Model.Params(kvOverrides={"llama.attention.layer_norm_rms_epsilon": 1e-5})
    with Model.load(path, good) as model, Context.initFromModel(model, Context.Params(nCtx=32)) as ctx:
        assert ctx.decode(Batch.getOne([5])) == 0


def test_saving_the_file_that_is_mapped(f32_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.gguf"
    path.write_bytes(f32_path.read_bytes())
    with Model.load(path) as model:
        model.save(path)  # llama.cpp alone would truncate the file under the map
        with Context.initFromModel(model, Context.Params(nCtx=32)) as ctx:
            assert ctx.decode(Batch.getOne([5])) == 0
    with Model.load(path) as model:
        assert model.nLayer == 2
    assert [p.name for p in tmp_path.iterdir()] == ["same.gguf"]


# Quantizing


def _logits(path: Path) -> Any:
    with Model.load(path) as model, Context.initFromModel(model, Context.Params(nCtx=64, nThreads=2)) as ctx:
        ctx.decode(Batch.getOne(tokenize(model.vocab, "Hello")))
        return np.array(ffi.unpack(lib.llama_get_logits_ith(ctx._c, -1), model.vocab.nTokens))


@pytest.mark.needs("llama_model_ftype")
def test_quantize(f32_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "q8.gguf"
    Model.quantize(f32_path, out)
    assert out.stat().st_size < f32_path.stat().st_size / 2
    assert out.stat().st_mode & 0o777 == f32_path.stat().st_mode & 0o777
    with Model.load(out) as model:
        assert model.ftype is Ftype.MOSTLY_Q8_0
    types = {t.name: t.tensor_type for t in _tensors(out)}
    assert types["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.Q8_0
    a, b = _logits(f32_path), _logits(out)
    assert np.corrcoef(a, b)[0, 1] > 0.999
    assert [p.name for p in tmp_path.iterdir()] == ["q8.gguf"]


@pytest.mark.needs("llama_model_quantize_params.tt_overrides")
def test_quantize_with_everything(f32_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "mixed.gguf"
    columns = {t.name: int(t.shape[0]) for t in _tensors(f32_path) if len(t.shape) == 2}
    params = Model.QuantizeParams(
        ftype=Ftype.MOSTLY_Q4_0,
        nthread=2,
        tokenEmbeddingType=Ggml.Type.Q5_0,
        ttOverrides={"attn_k": Ggml.Type.F16, r"ffn_.*": Ggml.Type.Q8_0},
        kvOverrides={"general.name": "mixed", "llama.context_length": 77},
        imatrix={name: [1.0] * n for name, n in columns.items()},
    )
    Model.quantize(f32_path, out, params)
    types = {t.name: t.tensor_type.name for t in _tensors(out)}
    assert types["token_embd.weight"] == "Q5_0"
    assert types["blk.1.attn_k.weight"] == "F16"
    assert types["blk.1.ffn_up.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == "Q4_0"
    with Model.load(out) as model:
        assert (model.metaValStr("general.name"), model.nCtxTrain) == ("mixed", 77)


@pytest.mark.needs("llama_model_quantize_params.prune_layers")
def test_quantize_without_a_layer(f32_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned.gguf"
    params = Model.QuantizeParams(pruneLayers=[1, 1], onlyCopy=True)
    assert params.pruneLayers == (1,)
    Model.quantize(f32_path, out, params)
    with Model.load(out) as model:
        assert model.nLayer == 1


@pytest.mark.needs("llama_model_quantize_params.dry_run")
def test_quantize_without_writing(f32_path: Path, tmp_path: Path) -> None:
    Model.quantize(f32_path, tmp_path / "never.gguf", Model.QuantizeParams(dryRun=True))
    assert list(tmp_path.iterdir()) == []


def test_quantize_keeps_splits(f32_path: Path, tmp_path: Path) -> None:
    Model.quantize(f32_path, tmp_path / "q", Model.QuantizeParams(keepSplit=True))
    assert [p.name for p in tmp_path.iterdir()] == ["q-00001-of-00001.gguf"]
    with pytest.raises(ValueError, match="overwrite the source"):
        Model.quantize(tmp_path / "q-00001-of-00001.gguf", tmp_path / "q", Model.QuantizeParams(keepSplit=True))


@pytest.mark.needs("llama_model_quantize_params.prune_layers")
def test_quantize_defaults() -> None:
    params, c = Model.quantizeDefaultParams(), lib.llama_model_quantize_default_params()
    assert (params.nthread, params.ftype) == (c.nthread, c.ftype)
    if is_pinned_version():
        assert (params.ftype, params.maxBufSize) == (Ftype.MOSTLY_Q8_0, c.max_buf_size) and c.max_buf_size > 0
    assert params.outputTensorType is params.tokenEmbeddingType is Ggml.Type.COUNT
    assert repr(params) == "ModelQuantizeParams()"
    assert repr(Model.QuantizeParams(pruneLayers=[3])) == "ModelQuantizeParams(pruneLayers=(3,))"


def test_quantize_onto_itself(f32_path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(f32_path)
    size = f32_path.stat().st_size
    with pytest.raises(ValueError, match="overwrite the source"):
        Model.quantize(f32_path, link)
    assert f32_path.stat().st_size == size


@pytest.mark.older("llama_n_ctx_seq", "the importance matrix is a container of C++, out of reach")
def test_quantize_says_what_is_wrong(f32_path: Path, tiny_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(FileNotFoundError):
        Model.quantize(tmp_path / "none.gguf", out)
    with pytest.raises(FileNotFoundError):
        Model.quantize(f32_path, tmp_path / "no" / "folder.gguf")
    with pytest.raises(ValueError, match="NUL"):
        Model.quantize(f32_path, "a\0b")
    with pytest.raises(NativeError, match="requantizing from type q8_0 is disabled") as caught:
        Model.quantize(tiny_path, out, Model.QuantizeParams(ftype=Ftype.MOSTLY_Q4_0))
    assert (caught.value.operation, caught.value.code) == ("llama_model_quantize", 1)
    wide = dataclasses.replace(tiny_models.T5, n_embd=256, n_ff=256, quant="F32")  # rows of a whole block
    needs = tiny_models.write_t5(f32_path.with_name("wide.gguf"), wide)
    with pytest.raises(NativeError, match="imatrix"):
        Model.quantize(needs, out, Model.QuantizeParams(ftype=Ftype.MOSTLY_IQ2_XXS))
    with pytest.raises(NativeError, match="imatrix size"):
        imatrix = {"blk.0.attn_q.weight": [1.0]}
        Model.quantize(f32_path, out, Model.QuantizeParams(imatrix=imatrix))
    with pytest.raises(TypeError, match=r"Model\.QuantizeParams"):
        Model.quantize(f32_path, out, Model.Params())  # type: ignore[arg-type]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(NativeError, match="could not be quantized"):
        Model.quantize(bad, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.gguf"]


def needs(field: str) -> pytest.MarkDecorator:
    return pytest.mark.needs(f"llama_model_quantize_params.{field}")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        pytest.param({"ttOverrides": {"x": Ggml.Type.I32}}, ValueError, "got I32", marks=needs("tt_overrides")),
        pytest.param({"ttOverrides": {"x": 4}}, ValueError, "Ggml.Type", marks=needs("tt_overrides")),
        pytest.param({"ttOverrides": [("x", Ggml.Type.F16)]}, TypeError, "a dict", marks=needs("tt_overrides")),
        ({"outputTensorType": Ggml.Type.Q8_K}, ValueError, "got Q8_K"),
        ({"tokenEmbeddingType": Ggml.Type.F64}, ValueError, "got F64"),
        pytest.param({"imatrix": {"x": [float("nan")]}}, ValueError, "imatrix.*finite", marks=needs("imatrix")),
        pytest.param({"imatrix": {"x\0": [1.0]}}, ValueError, "NUL", marks=needs("imatrix")),
        pytest.param({"pruneLayers": [-1]}, ValueError, "at least 0, got -1", marks=needs("prune_layers")),
        pytest.param({"kvOverrides": {"k" * 200: 1}}, ValueError, "at most 127 bytes", marks=needs("kv_overrides")),
        ({"ftypes": 1}, AttributeError, "did you mean 'ftype'"),
    ],
)
def test_quantize_params_that_are_refused(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Model.QuantizeParams(**fields)


def test_too_many_threads_to_quantize(f32_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 512"):
        Model.quantize(f32_path, tmp_path / "x.gguf", Model.QuantizeParams(nthread=100_000))
