"""One server for most tests: a tiny model with a template for tools and thoughts, adapters, vectors and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Adapter, ChatTemplate, Embedder, Engine, Model, Reranker, Sampler
from llama_cffi.server import ServedModel, chat, responses
from tests import tiny_models
from tests.chat.test_answers import TEMPLATE
from tests.engine.conftest import exact
from tests.generate.test_chat_session import Scripted
from tests.server.serving import Running, running

_BERT = replace(tiny_models.BERT, quant="F32")


@pytest.fixture(scope="session")
def exact_model(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The tiny model in F32: its texts do not depend on what else is in a batch."""
    path = tmp_path_factory.mktemp("server") / "f32.gguf"
    vocab = vectors / "ggml-vocab-llama-spm.gguf"
    with Model.load(tiny_models.write_llama(path, vocab, replace(tiny_models.LLAMA, quant="F32"))) as model:
        yield model


@pytest.fixture(scope="session")
def served(exact_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServedModel]]:
    folder = tmp_path_factory.mktemp("server")
    tiny_models.write_lora(folder / "lora.gguf")
    tiny_models.write_bert(folder / "bert.gguf", spec=_BERT)
    tiny_models.write_bert(folder / "rank.gguf", spec=_BERT, labels=("score",))
    adapter = Adapter.loraInit(exact_model, folder / "lora.gguf")
    with (
        Model.load(folder / "bert.gguf") as bert,
        Model.load(folder / "rank.gguf") as rank,
        Engine(exact_model, nCtx=4096, nSeqMax=4, nThreads=1, params=exact()) as engine,
        Embedder(bert, nThreads=1) as embedder,
        Reranker(rank, nThreads=1) as reranker,
    ):
        yield {
            "tiny": ServedModel(engine, adapters={"own": adapter}, template=ChatTemplate(exact_model, TEMPLATE)),
            "bert": ServedModel(embedder=embedder),
            "rank": ServedModel(reranker=reranker),
        }


@pytest.fixture(scope="session")
def server(served: dict[str, ServedModel]) -> Iterator[Running]:
    with running(served) as found:
        yield found


@pytest.fixture(scope="session")
def smol_server(smol: Model) -> Iterator[Running]:
    """SmolLM2, with a template that offers tools."""
    with Engine(smol, nCtx=4096, nSeqMax=4) as engine:
        with running({"smol": ServedModel(engine, template=ChatTemplate(smol, TEMPLATE))}) as found:
            yield found


class Script(Scripted):
    """A script that the engine can clone. It finds its token at once: nobody has moved the candidates."""

    def apply(self, candidates: Any) -> None:
        token = self.now.pop(0)
        assert candidates[token].id == token
        candidates.selected = token

    def clone(self) -> Script:
        made = Script.__new__(Script)
        made.texts, made.now = [list(text) for text in self.texts], list(self.now)
        return made


@pytest.fixture
def script(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the tiny model write a text in its next answers."""

    def write(text: str) -> None:
        for module in (chat, responses):
            monkeypatch.setattr(module, "sampler_of", lambda *_: Sampler.init(Script(tiny, text)))

    return write
