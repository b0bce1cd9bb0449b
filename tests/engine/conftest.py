"""A model in F32, whose results do not depend on what else is in a batch; and ways to hold an engine's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Batch, Context, Engine, FlashAttnType, Ggml, Model, Sampler, TokenDataArray, tokenize
from llama_cffi.errors import ContextError, NativeMemoryError
from tests import tiny_models

Texts = Callable[[str, int], list[int]]


def exact(**fields: Any) -> Context.Params:
    """Parameters without half-precision numbers, so that sums differ by their order alone."""
    kind = Ggml.Type.F32
    return Context.Params(typeK=kind, typeV=kind, flashAttnType=FlashAttnType.DISABLED, **fields)


@pytest.fixture(scope="session")
def plain(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("engine") / "f32.gguf"
    vocab = vectors / "ggml-vocab-llama-spm.gguf"
    with Model.load(tiny_models.write_llama(path, vocab, replace(tiny_models.LLAMA, quant="F32"))) as model:
        yield model


def write_alone(model: Model, prompt: str | list[int], n: int) -> list[int]:
    """The likeliest tokens, by a context that does nothing else."""
    tokens = tokenize(model.vocab, prompt) if isinstance(prompt, str) else prompt
    written: list[int] = []
    with Context.initFromModel(model, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx:
        with Sampler.initGreedy() as greedy:
            ctx.decode(Batch.getOne(tokens))
            while len(written) < n:
                token = greedy.sample(ctx, -1)
                if model.vocab.isEog(token):
                    break
                written.append(token)
                ctx.decode(Batch.getOne([token]))
    return written


@pytest.fixture(scope="session")
def alone(plain: Model) -> Texts:
    known: dict[tuple[str, int], list[int]] = {}

    def texts(prompt: str, n: int) -> list[int]:
        if (prompt, n) not in known:
            known[prompt, n] = write_alone(plain, prompt, n)
        return known[prompt, n]

    return texts


@contextmanager
def running(model: Model, **options: Any) -> Iterator[Engine]:
    with Engine(
        model, **{"nCtx": 1024, "nSeqMax": 6, "nBatch": 32, "nThreads": 1, "params": exact(), **options}
    ) as engine:
        yield engine


@pytest.fixture
def engine(plain: Model) -> Iterator[Engine]:
    with running(plain) as made:
        yield made


def refuse_layouts(
    patch: pytest.MonkeyPatch, layouts: Collection[bool], error: type[ContextError | NativeMemoryError]
) -> None:
    """Let contexts fail whose `kvUnified` is one of these."""
    make = Context.initFromModel

    def fails(model: Model, params: Context.Params | None = None) -> Context:
        assert params is not None
        if params.kvUnified in layouts:
            raise error("refused by the test", operation="llama_init_from_model")
        return make(model, params)

    patch.setattr(Context, "initFromModel", fails)


class Gate:
    """A sampler that picks the likeliest token, and waits before the n-th until it is opened."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.reached = threading.Event()
        self.opened = threading.Event()

    def apply(self, candidates: TokenDataArray) -> None:
        if self.at == 0:
            self.reached.set()
            assert self.opened.wait(30)
        self.at -= 1
        candidates.selected = int(np.argmax(np.asarray(candidates)["logit"]))

    def sampler(self) -> Sampler:
        return Sampler.init(self)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()
