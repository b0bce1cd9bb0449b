"""What a model or adapter file may not say, each with the error that names it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cffi import (
    Adapter,
    AdapterError,
    ChatTemplate,
    LoadMode,
    Model,
    ModelLoadError,
    NativeError,
    NativeMemoryError,
)
from llama_cffi.model import model as model_module
from llama_cffi.model.validation import ModelFile
from tests.hostile import bases
from tests.hostile.document import ARRAY, FLOAT32, STRING, UINT32, Document, Entry, parse, size_of

F16, Q8_0, I32 = 1, 8, 26  # types of tensors
INT32 = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of each architecture."""
    path = tmp_path_factory.mktemp("small")
    bases.write_models(path)
    bases.write_adapter(path)
    return path


def falsified(folder: Path, base: str, change: Callable[[Document], object]) -> Path:
    document = parse((folder / f"{base}.gguf").read_bytes())
    change(document)
    path = folder / "falsified.gguf"
    path.write_bytes(document.encoded())
    return path


def retype(name: str, type: int) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        tensor = document.tensor(name)
        tensor.type, tensor.data = type, bytes(size_of(tensor.dims, type))

    return change


def plamo(document: Document, version: bytes, token: bytes) -> None:
    document.put("tokenizer.ggml.model", STRING, b"plamo" + version)
    document.entry("tokenizer.ggml.tokens").value[-1] = token


def drop(name: str) -> Callable[[Document], object]:
    return lambda document: document.tensors.remove(document.tensor(name))


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        ("llama", retype("blk.0.attn_q.weight", I32), "blk.0.attn_q.weight is of type I32"),
        ("llama", retype("output_norm.weight", F16), "output_norm.weight must be of type F32.*got F16"),
        ("gpt2", retype("blk.0.ffn_up.bias", Q8_0), "ffn_up.bias must be of type F32.*got Q8_0"),
        ("mamba", retype("blk.0.ssm_d", F16), "ssm_d must be of type F32.*got F16"),
        ("t5", drop("dec.blk.0.attn_rel_b.weight"), "dec.blk.0.attn_rel_b.weight is missing"),
        ("t5", lambda d: d.entry("tokenizer.ggml.tokens").value.append(b"x" * 5000), "more than 4096 bytes"),
        ("llama", lambda d: plamo(d, b"2", b"ab" * 1000), r"plamo2 would take 80\d+ steps .*limit is 1073741824"),
        ("llama", lambda d: plamo(d, b"3", b"ab" * 1000), r"plamo3 would take 80\d+ steps .*limit is 1073741824"),
        ("llama", lambda d: plamo(d, b"2", b"x" * 62000), "more than 4096 bytes"),
        ("llama", lambda d: d.put("llama.attention.head_count", UINT32, 0), "head_count is missing or 0"),
        ("llama", lambda d: d.put("llama.attention.head_count", ARRAY, [0], UINT32), "head_count is missing or 0"),
        ("llama", lambda d: d.put("llama.attention.layer_norm_rms_epsilon", FLOAT32, -1.0), "epsilon .*got -1.0"),
        (
            "qwen2vl",
            lambda d: d.put("qwen2vl.rope.dimension_sections", ARRAY, [0] * 4, INT32),
            r"sections .*got \[0, 0, 0, 0\]",
        ),
        (
            "qwen2vl",
            lambda d: d.put("qwen2vl.rope.dimension_sections", ARRAY, [9, 9, 9, 0], INT32),
            "between 1 and 16",
        ),
        ("qwen2vl", lambda d: d.put("qwen2vl.rope.dimension_sections", INT32, 5), r"sections .*got \[5\]"),
        ("t5", lambda d: d.put("t5.embedding_length_out", UINT32, 31), "embedding_length_out must be 32.*got 31"),
        ("bert", lambda d: d.put("bert.pooling_type", UINT32, 99), "pooling_type .*got 99"),
        ("llama", lambda d: d.put("llama.block_count", UINT32, 0), "GGML_ASSERT"),
        ("llama", lambda d: d.put("llama.rope.scaling.type", STRING, b"foo"), "GGML_ASSERT"),
    ],
)
def test_models(folder: Path, base: str, change: Callable[[Document], object], words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        Model.load(falsified(folder, base, change))


def test_classifiers_with_one_label_are_no_vectors(folder: Path) -> None:
    from llama_cffi.ggml.gguf_native import TensorInfo
    from llama_cffi.model.validation import _check_type

    _check_type(TensorInfo("cls.output.weight", F16, (32, 1, 1, 1), 64))
    with pytest.raises(ModelLoadError):
        _check_type(TensorInfo("blk.0.attn_sinks.weight", F16, (32, 1, 1, 1), 64))


def test_the_second_file_of_a_split_model_is_looked_at_too(folder: Path, tmp_path: Path) -> None:
    first, second = (Document([], []) for _ in range(2))
    document = parse((folder / "llama.gguf").read_bytes())
    retype("output_norm.weight", F16)(document)
    first.entries, first.tensors, second.tensors = document.entries, document.tensors[:6], document.tensors[6:]
    paths = [tmp_path / f"model-0000{i}-of-00002.gguf" for i in (1, 2)]
    for i, part in enumerate((first, second)):
        part.put("split.no", 2, i).put("split.count", 2, 2).put("split.tensors.count", 5, len(document.tensors))
        paths[i].write_bytes(part.encoded())
    for load in (lambda: Model.load(paths[0]), lambda: Model.loadSplits(paths)):
        with pytest.raises(ModelLoadError, match="output_norm.weight must be of type F32.*got F16"):
            load()


@pytest.mark.parametrize("depth", [2, 3])
def test_adapters_hold_matrices(folder: Path, depth: int) -> None:
    def deepen(document: Document) -> None:
        tensor = document.tensors[0]
        tensor.dims, tensor.data = [*tensor.dims, depth], tensor.data * depth

    with Model.load(folder / "llama.gguf") as model:
        with pytest.raises(AdapterError, match=f"shape 32 x 4 x {depth} x 1"):
            Adapter.loraInit(model, falsified(folder, "adapter", deepen))
        with pytest.raises(AdapterError, match="got I32"):
            Adapter.loraInit(model, falsified(folder, "adapter", retype("blk.0.attn_q.weight.lora_a", I32)))
        with pytest.raises(AdapterError, match="GGML_ASSERT"):
            Adapter.loraInit(model, falsified(folder, "adapter", lambda d: d.put("adapter.type", UINT32, 1)))
        Adapter.loraInit(model, folder / "adapter.gguf").loraFree()  # the model is none the worse


def test_save_does_not_believe_the_files_format(folder: Path, tmp_path: Path) -> None:
    path = falsified(folder, "qwen2vl", lambda d: d.put("general.file_type", UINT32, 0))
    with Model.load(path) as model, pytest.raises(NativeError, match="useExtraBufts=False"):
        model.save(tmp_path / "saved.gguf")
    with Model.load(path, Model.Params(useExtraBufts=False)) as model:
        model.save(tmp_path / "saved.gguf")
    assert (tmp_path / "saved.gguf").stat().st_size > 10_000


def test_save_refuses_what_llama_cpp_cannot_save(folder: Path, tmp_path: Path) -> None:
    with Model.load(folder / "t5.gguf") as model:
        with pytest.raises(NativeError, match="of this architecture"):
            model.save(tmp_path / "saved.gguf")
        assert model.nLayer == 1
    assert not list(tmp_path.iterdir())


def test_a_model_larger_than_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "llama.gguf"
    monkeypatch.setattr(model_module, "available_memory", lambda: 1000)
    size = sum(len(tensor.data) for tensor in parse(path.read_bytes()).tensors)
    for mode in (LoadMode.NONE, LoadMode.DIRECT_IO):
        with pytest.raises(NativeMemoryError, match=rf"{size:,} bytes.* 1,000 bytes.*LoadMode\.MMAP"):
            Model.load(path, Model.Params(loadMode=mode))
    for params in (Model.Params(), Model.Params(loadMode=LoadMode.NONE, vocabOnly=True)):
        Model.load(path, params).free()
    monkeypatch.setattr(model_module, "available_memory", lambda: None)
    Model.load(path, Model.Params(loadMode=LoadMode.NONE)).free()
    assert os.path.getsize(path) > size


def test_many_keys_take_no_time(folder: Path) -> None:
    def change(document: Document) -> None:
        document.entries += [Entry(f"x.{number}".encode(), UINT32, number) for number in range(40_000)]

    path = falsified(folder, "llama", change)
    before = time.process_time()
    ModelFile.inspect([os.fsencode(path)], None, False)
    assert time.process_time() - before < 1.5  # with a search for each key: 5 s
    with Model.load(path) as model:
        assert ChatTemplate(model, "{{ 1 }}").variants == []
