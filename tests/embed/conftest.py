"""Models that embed or rank, each written once a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from llama_cffi import Context, Model
from tests import tiny_archs, tiny_models, tiny_vocabs
from tests.tiny_models import TinySpec, _Builder

RANK_TEMPLATE = "hello {query} world{document}</s>"


def _rerank_qwen3(path: Path) -> Path:
    """A decoder that says yes or no, and has a form of its own for query and document."""
    spec = TinySpec(arch="qwen3", quant="F32", n_head=4, n_head_kv=2, n_embd=128)
    model = _Builder(spec, "qwen3")
    n_vocab = tiny_vocabs.add_sentencepiece(model.writer)
    model.writer.add_pooling_type(gguf.PoolingType.RANK)
    model.writer.add_classifier_output_labels(["yes", "no"])
    model.writer.add_chat_template([{"name": "rerank", "template": RANK_TEMPLATE}])
    model.integers({"vocab_size": n_vocab})
    model.table("token_embd.weight", n_vocab)
    tiny_archs.ARCHITECTURES["qwen3"](model)
    model.vector("output_norm.weight", 1.0)
    model.matrix("cls.output.weight", 2, spec.n_embd)
    return model.save(path)


def _exact(spec: TinySpec) -> TinySpec:
    return replace(spec, quant="F32")


_BERT = _exact(tiny_models.BERT)
_WRITERS: dict[str, Callable[[Path], object]] = {
    "bert": lambda path: tiny_models.write_bert(path, spec=_BERT),
    "llama": lambda path: tiny_models.write_llama(path, spec=_exact(tiny_models.LLAMA)),
    "gpt2": lambda path: tiny_models.write_gpt2(path, _exact(tiny_models.GPT2)),
    "mamba": lambda path: tiny_models.write_mamba(path, spec=_exact(tiny_models.MAMBA)),
    "t5": lambda path: tiny_models.write_t5(path, _exact(tiny_models.T5)),
    "gemma3": lambda path: tiny_archs.write(path, "gemma3"),
    "qwen3": lambda path: tiny_archs.write(path, "qwen3"),
    "rerank-bert": lambda path: tiny_models.write_bert(path, spec=_BERT, labels=("score",)),
    "classify-bert": lambda path: tiny_models.write_bert(path, spec=_BERT, labels=("bad", "middling", "good")),
    "rerank-qwen3": _rerank_qwen3,
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Model]]:
    """Loads a model by its name in `_WRITERS`."""
    folder = tmp_path_factory.mktemp("embed")
    loaded: dict[str, Model] = {}

    def load(name: str) -> Model:
        if name not in loaded:
            path = folder / f"{name}.gguf"
            _WRITERS[name](path)
            loaded[name] = Model.load(path)
        return loaded[name]

    yield load
    for model in loaded.values():
        model.close()


@pytest.fixture
def computations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each call into llama.cpp that computes."""
    sizes: list[int] = []
    plain = Context._compute

    def counted(self: Context, batch: object, encode: bool) -> int:
        sizes.append(len(batch))  # type: ignore[arg-type]
        return plain(self, batch, encode)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "_compute", counted)
    return sizes
