"""Tiny projectors beside the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cffi import Context, Model, Mtmd
from tests import tiny_models, tiny_projectors


def params() -> Mtmd.Context.Params:
    return Mtmd.Context.Params(nThreads=1, useGpu=False, warmup=False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("projectors")


@pytest.fixture(scope="session")
def llava_tensors(tiny: Model, folder: Path) -> dict[str, tiny_projectors.Array]:
    return tiny_projectors.write_llava(folder / "llava.gguf", tiny.nEmbd)


@pytest.fixture(scope="session")
def llava_path(llava_tensors: dict[str, tiny_projectors.Array], folder: Path) -> Path:
    return folder / "llava.gguf"


@pytest.fixture(scope="session")
def ultravox_path(tiny: Model, folder: Path) -> Path:
    tiny_projectors.write_ultravox(folder / "ultravox.gguf", tiny.nEmbd)
    return folder / "ultravox.gguf"


@pytest.fixture(scope="session")
def llava(tiny: Model, llava_path: Path) -> Iterator[Mtmd.Context]:
    with Mtmd.Context.initFromFile(llava_path, tiny, params()) as made:
        yield made


@pytest.fixture(scope="session")
def ultravox(tiny: Model, ultravox_path: Path) -> Iterator[Mtmd.Context]:
    with Mtmd.Context.initFromFile(ultravox_path, tiny, params()) as made:
        yield made


@pytest.fixture(scope="session")
def gemma3(tiny: Model, folder: Path) -> Iterator[Mtmd.Context]:
    """Its image tokens see each other."""
    tiny_projectors.write_gemma3(folder / "gemma3.gguf", tiny.nEmbd)
    with Mtmd.Context.initFromFile(folder / "gemma3.gguf", tiny, params()) as made:
        yield made


@pytest.fixture(scope="session")
def qwen(folder: Path) -> Iterator[Mtmd.Context]:
    """With M-RoPE: positions have several parts."""
    with Model.load(tiny_models.write_qwen2vl(folder / "qwen2vl.gguf")) as model:
        tiny_projectors.write_qwen2vl(folder / "merger.gguf", model.nEmbd)
        with Mtmd.Context.initFromFile(folder / "merger.gguf", model, params()) as made:
            yield made


@pytest.fixture
def make_ctx() -> Iterator[Callable[..., Context]]:
    """Makes contexts for the model of a projector."""
    made: list[Context] = []

    def make(projector: Mtmd.Context, **fields: int) -> Context:
        given = {"nCtx": 512, "nThreads": 1, "nThreadsBatch": 1, **fields}
        made.append(Context.initFromModel(projector.getModel(), Context.Params(**given)))
        return made[-1]

    yield make
    for context in made:
        context.close()
