"""A model and workers for the tests of RPC.

Clients run in interpreters of their own: a worker that was added stays known to its process for ever, dead or alive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny_models
from tests.rpc.workers import Worker
from tests.safety import isolated

_BEGINNING = """
from llama_cffi import Ggml, RpcError, SplitMode, logSet, tokenize

endpoints = [text for text in sys.argv[2:] if ":" in text]

def greedy(params, n=24):
    with Model.load(path("rpc"), params) as model:
        return write(model, n)

def write(model, n=24):
    with Context.initFromModel(model, Context.Params(nCtx=128, nThreads=1, nThreadsBatch=1)) as ctx:
        sampler, tokens = Sampler.initGreedy(), []
        ctx.decode(Batch.getOne(tokenize(model.vocab, "Once upon a time")))
        for _ in range(n):
            tokens.append(sampler.sample(ctx, -1))
            ctx.decode(Batch.getOne([tokens[-1]]))
        return tokens

def added():
    return [device for endpoint in endpoints for device in Ggml.Rpc.addServer(endpoint)]
"""

Client = Callable[..., None]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, vectors: Path) -> Path:
    """A folder with `rpc.gguf`: six layers of 2.4 MB, and 33 MB of embeddings."""
    spec = replace(tiny_models.LLAMA, n_layer=6, n_embd=256, n_head=8, n_head_kv=4, n_ff=512, quant="F32")
    folder = tmp_path_factory.mktemp("rpc")
    tiny_models.write_llama(folder / "rpc.gguf", vectors / "ggml-vocab-llama-spm.gguf", spec)
    return folder


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """Two workers that outlive their clients."""
    with Worker() as one, Worker() as two:
        yield [one, two]


@pytest.fixture
def fresh() -> Iterator[list[Worker]]:
    """Two workers for one test."""
    with Worker() as one, Worker() as two:
        yield [one, two]


@pytest.fixture(scope="session")
def client(models: Path) -> Client:
    """Runs a snippet with `endpoints` (its arguments with a colon), `added()` and `greedy(params)` at hand; it must end
    without a word.
    """

    def run(code: str, *arguments: str | os.PathLike[str], timeout: float = 120) -> None:
        ended = isolated.run(_BEGINNING + code, models, *map(os.fspath, arguments), timeout=timeout)
        assert ended.passed, f"the client: {ended}"

    return run
