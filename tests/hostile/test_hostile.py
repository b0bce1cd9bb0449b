"""A slice of the corpus: every 14th file of the selection that `make hostile` uses."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.hostile import bases, media, mutations, pool
from tests.hostile.__main__ import SHARE, select
from tests.hostile.document import parse

SEED, STEP = 1, 14


@pytest.mark.slow
def test_no_file_ends_a_process(tmp_path: Path) -> None:
    chosen = islice(select(tmp_path, SEED, SHARE), 0, None, STEP)
    results = list(pool.run(chosen, tmp_path))
    assert len(results) >= 150
    assert {result.case.kind for result in results} >= {"model", "adapter", "state", "state-file", "sequence"}
    assert not [(result.case.name, result.killed or result.accident) for result in results if result.bad]
    assert any(result.errors for result in results) and any(not result.errors for result in results)


@pytest.mark.slow
def test_no_image_sound_or_projector_ends_a_process(tmp_path: Path) -> None:
    """Every 12th of the images and sounds, and some projectors: each of those takes a child process."""
    bases.write_models(tmp_path)
    good = media.write_projectors(tmp_path)
    cases = list(mutations.media_cases(SEED, good))
    images = [case for case in cases if case.kind == "media"]
    projectors = [case for case in cases if case.kind == "projector"]
    chosen = [*islice(images, 0, None, 12), *islice(projectors, 0, None, len(projectors) // 12)]
    results = list(pool.run(chosen, tmp_path))
    assert len(results) == len(chosen) >= 110
    assert not [(result.case.name, result.killed or result.accident) for result in results if result.bad]
    assert any(result.errors for result in results) and any(not result.errors for result in results)


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    models, adapter = bases.write_models(tmp_path), bases.write_adapter(tmp_path)

    def corpus(seed: int) -> list[mutations.Case]:
        return list(islice(mutations.cases({"llama": models["llama"]}, adapter, {}, seed), 0, None, 9))

    assert corpus(1) == corpus(1)
    assert corpus(1) != corpus(2)


@pytest.mark.parametrize("base", ["llama", "gpt2", "qwen2vl", "bert", "t5", "mamba", "moe"])
def test_taking_a_file_apart_loses_nothing(tmp_path: Path, base: str) -> None:
    data = bases.write_models(tmp_path)[base]
    assert parse(data).encoded() == data


def test_a_process_that_dies_is_noticed_and_replaced(tmp_path: Path) -> None:
    cases = [mutations.Case(name, kind, "llama", (b"",)) for name, kind in (("a", "death"), ("b", "model"))]
    died, lived = sorted(pool.run(cases, tmp_path, 1), key=lambda result: result.case.name)
    assert "SIGABRT" in died.killed
    assert not lived.bad and lived.errors
