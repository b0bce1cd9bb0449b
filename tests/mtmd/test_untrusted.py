"""Projector files from strangers: what is validated, and the trial in a child process."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Ggml, Model, ModelLoadError, Mtmd, UnavailableError
from llama_cffi._core.ownership import n_owned
from llama_cffi.model import untrusted
from tests import tiny_projectors
from tests.mtmd.conftest import params
from tests.mtmd.samples import image


def _changed(source: Path, target: Path, change: object) -> Path:
    with Ggml.Gguf.open(source) as file:
        change(file)  # type: ignore[operator]
        file.write(target)
    return target


def test_a_good_file_is_loaded_after_its_trial(tiny: Model, llava_path: Path) -> None:
    with Mtmd.Context.initFromFile(llava_path, tiny, params(), untrusted=True) as made:
        assert made.supportVision()


def test_a_file_that_fails_in_the_child_is_not_loaded(tiny: Model, ultravox_path: Path, tmp_path: Path) -> None:
    """Too few positions are an assertion of llama.cpp when a sound is encoded."""
    _changed(
        ultravox_path,
        tmp_path / "short.gguf",
        lambda file: file.tensors.set("a.position_embd.weight", np.zeros((9, 32), np.float32)),
    )
    with pytest.raises(ModelLoadError, match="trial load in a child process raised NativeAssertionError"):
        Mtmd.Context.initFromFile(tmp_path / "short.gguf", tiny, params(), untrusted=True)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_a_qwen_without_a_bias_is_refused(part: str, qwen: Mtmd.Context, tmp_path: Path) -> None:
    tiny_projectors.write_qwen2vl(tmp_path / "file.gguf", qwen.getModel().nEmbd)
    name = f"v.blk.0.attn_{part}.bias"
    path = _changed(tmp_path / "file.gguf", tmp_path / "changed.gguf", lambda file: file.tensors.remove(name))
    with pytest.raises(ModelLoadError, match=rf"attn_{part}\.bias is missing"):
        Mtmd.Context.initFromFile(path, qwen.getModel(), params())


def test_an_encoder_of_sounds_without_positions_is_refused(tiny: Model, ultravox_path: Path, tmp_path: Path) -> None:
    path = _changed(
        ultravox_path, tmp_path / "changed.gguf", lambda file: file.tensors.remove("a.position_embd.weight")
    )
    with pytest.raises(ModelLoadError, match=r"a\.position_embd\.weight is missing"):
        Mtmd.Context.initFromFile(path, tiny, params())


@pytest.mark.parametrize("factor", [0, 7, 8, 11])
def test_a_stack_factor_at_which_llama_cpp_counts_wrong_is_refused(factor: int, tiny: Model, tmp_path: Path) -> None:
    tiny_projectors.write_ultravox(tmp_path / "file.gguf", tiny.nEmbd, stack=factor or 10, factor=factor)
    with pytest.raises(ModelLoadError, match=rf"stack_factor.*got {factor}\b"):
        Mtmd.Context.initFromFile(tmp_path / "file.gguf", tiny, params())


@pytest.mark.parametrize("factor", [1, 4, 12, 16, 100])
def test_other_stack_factors_are_taken(factor: int, tiny: Model, tmp_path: Path) -> None:
    tiny_projectors.write_ultravox(tmp_path / "file.gguf", tiny.nEmbd, stack=factor, n_embd=2)
    with Mtmd.Context.initFromFile(tmp_path / "file.gguf", tiny, params()) as made:
        chunks = made.tokenize("<__media__>", [Mtmd.Bitmap.fromAudio([0.1] * 999)], addSpecial=False)
        for chunk in chunks:
            made.encodeChunk(chunk)
        assert len(made.getOutputEmbd()) == -(-1500 // factor)


def test_without_an_interpreter(tiny: Model, llava_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "can_ask", lambda: False)
    with pytest.raises(UnavailableError, match="untrusted=True"):
        Mtmd.Context.initFromFile(llava_path, tiny, params(), untrusted=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda file: file.metadata.update({"clip.vision.attention.layer_norm_epsilon": -1.0}),
            r"layer_norm_epsilon.*got -1\.0",
        ),
        (lambda file: file.tensors.remove("v.blk.0.attn_k.weight"), r"v\.blk\.0\.attn_k\.weight is missing"),
        (lambda file: file.tensors.remove("v.patch_embd.weight"), r"v\.patch_embd\.weight is missing"),
        (lambda file: file.tensors.remove("mm.0.weight"), r"mm\.0\.weight is missing"),
        (lambda file: file.tensors.remove("v.position_embd.weight"), r"v\.position_embd\.weight is missing"),
        (lambda file: file.tensors.remove("mm.2.bias"), r"mm\.2\.bias is missing"),
        (lambda file: file.metadata.update({"clip.vision.image_size": 42}), r"9 rows.*42 pixels.*14, got 4"),
        (lambda file: file.tensors.set("mm.0.bias", [0.0] * 64, Ggml.Type.F16), r"mm\.0\.bias.*F32.*got F16"),
    ],
)
def test_what_is_validated(change: object, match: str, tiny: Model, llava_path: Path, tmp_path: Path) -> None:
    path = _changed(llava_path, tmp_path / "changed.gguf", change)
    with pytest.raises(ModelLoadError, match=match):
        Mtmd.Context.initFromFile(path, tiny, params())


# Ownership


def test_closing_in_any_order(tiny_path: Path, llava_path: Path) -> None:
    for order in ("model projector bitmap chunks chunk", "chunk chunks bitmap projector model", "chunks model bitmap"):
        model = Model.load(tiny_path)
        projector = Mtmd.Context.initFromFile(llava_path, model, params())
        bitmap = Mtmd.Bitmap.fromImage(image())
        chunks = projector.tokenize("a <__media__>", [bitmap])
        made = {"model": model, "projector": projector, "bitmap": bitmap, "chunks": chunks, "chunk": chunks[1]}
        for name in order.split():
            made[name].close()
            assert made[name].closed
        assert projector.closed == ("projector" in order or "model" in order)
        assert made["chunk"].closed


def test_a_copy_outlives_its_chunks(llava: Mtmd.Context) -> None:
    chunks = llava.tokenize("a <__media__>", [Mtmd.Bitmap.fromImage(image())])
    copy, part = chunks[1].copy(), chunks[1]
    chunks.free()
    assert part.closed and not copy.closed and copy.nTokens == 4
    llava.encodeChunk(copy)
    assert llava.getOutputEmbd().shape == (4, llava.getModel().nEmbdInp)


def test_nothing_is_left_behind(tiny: Model, llava_path: Path) -> None:
    gc.collect()
    before = n_owned()
    for _ in range(3):
        made = Mtmd.Context.initFromFile(llava_path, tiny, params())
        chunks = made.tokenize("a <__media__> b", [Mtmd.Bitmap.fromImage(image())])
        made.encodeChunk(chunks[1])
        list(chunks)
        chunks[0].copy()
        del made, chunks
    gc.collect()
    assert n_owned() == before
