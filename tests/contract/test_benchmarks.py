"""What the benchmarks measure with: random models that compute something, and settings that reach both sides alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import llama_bench, models, settings, split
from llama_cffi import Batch, Context, Ggml, Model, Sampler


@pytest.mark.parametrize("quant", [*models.FORMATS])
def test_a_random_model_computes_something(tmp_path: Path, quant: str) -> None:
    path = models.write(tmp_path, "1M", quant)
    assert [path] == [*tmp_path.iterdir()]
    with Model.load(path) as model:
        assert model.nParams == models.parameters(models.SIZES["1M"])
        assert quant in model.desc()
        with Context.initFromModel(model, Context.Params(nCtx=128)) as ctx, Sampler.initGreedy() as sampler:
            ctx.decode(Batch.getOne([1]))
            logits = np.asarray(ctx.getLogitsIth(-1))
            assert np.isfinite(logits).all() and logits.std() > 1
            del logits
            text = []
            for _ in range(64):
                text.append(sampler.sample(ctx, -1))
                ctx.decode(Batch.getOne(text[-1:]))
    assert len(set(text)) > 32


def test_a_random_model_is_the_same_every_time(tmp_path: Path) -> None:
    first = models.write(tmp_path, "1M", "Q4_0").read_bytes()
    assert models.write(tmp_path, "1M", "Q4_0").read_bytes() == first


def test_settings_survive_the_command_line() -> None:
    given = settings.Settings(Path("a b.gguf"), devices="Vulkan0,Vulkan1", tensor_split="3/1", main_gpu=1, threads=3)
    for one in (settings.Settings(Path("x.gguf")), given, *split.ways(given).values()):
        assert settings.parse(one.arguments()) == one


def test_llama_bench_gets_the_same_settings() -> None:
    words = settings.Settings(
        Path("m.gguf"), devices="Vulkan0,Vulkan1", tensor_split="3/1", threads=3
    ).for_llama_bench()
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["-dev"] == "Vulkan0/Vulkan1" and options["-ts"] == "3/1" and options["-t"] == "3"
    alone = replace(settings.Settings(Path("m.gguf")), devices="none").for_llama_bench()
    assert alone[alone.index("-ngl") + 1] == "0" and alone[alone.index("-dev") + 1] == "none"


def test_llama_bench_is_staged_with_the_libraries_of_the_package(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("")
    variant = Ggml.Backend.cpuVariant()
    assert variant is not None
    with llama_bench.staged(program, variant.path, vulkan=False) as folder:
        targets = {path.name: path.resolve() for path in folder.iterdir() if path.is_symlink()}
        assert targets["libggml-cpu.so"] == variant.path
        assert all(target.parent == llama_bench.LIB for target in targets.values())
        assert (folder / "llama-bench").is_file() and not (folder / "llama-bench").is_symlink()
    assert not folder.exists()


def test_a_text_is_compared_with_that_of_one_device() -> None:
    assert split.same_text([1, 2, 3], [1, 2, 3]) == "the same greedy text"
    assert split.same_text([1, 2, 4], [1, 2, 3]) == "the same greedy text for 2 tokens"
