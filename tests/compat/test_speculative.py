"""`draft_model=LlamaPromptLookupDecoding()`: the texts are those without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from llama_cffi.compat import Llama, modules
from llama_cffi.compat.speculative import LlamaPromptLookupDecoding
from llama_cffi.generation.prompt_lookup import PromptLookup
from llama_cffi.generation.speculation import SpeculativeDecoder
from tests import tiny_models
from tests.compat.conftest import THREADS

PROMPT = [5, 6, 7, 8, 9] * 6


@pytest.fixture(scope="module")
def path(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("compat") / "f32.gguf"
    spec = replace(tiny_models.LLAMA, quant="F32")
    return tiny_models.write_llama(file, vectors / "ggml-vocab-llama-spm.gguf", spec)


@pytest.fixture(scope="module")
def plain(path: Path) -> Iterator[Llama]:
    with Llama(str(path), n_ctx=256, seed=1, **THREADS) as made:
        yield made


@pytest.fixture(scope="module")
def guessing(path: Path, plain: Llama) -> Iterator[Llama]:
    written = list(islice(plain.generate(PROMPT, temp=0), 40))
    draft = LlamaPromptLookupDecoding(num_pred_tokens=5)
    draft._speculation = PromptLookup(1, 5, text=written, adapt=False)  # finds right and wrong guesses
    with Llama(str(path), n_ctx=256, seed=1, draft_model=draft, **THREADS) as made:
        yield made


def _tokens(llama: Llama, count: int = 40, **options: Any) -> list[int]:
    return list(islice(llama.generate(PROMPT, **options), count))


def test_the_tokens_are_the_same(plain: Llama, guessing: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[int] = []
    finish = SpeculativeDecoder.finish

    def noting(self: SpeculativeDecoder, owner: object) -> None:
        accepted.append(self.guesses.accepted)
        finish(self, owner)

    monkeypatch.setattr(SpeculativeDecoder, "finish", noting)
    for options in ({"temp": 0}, {"temp": 0, "repeat_penalty": 1.3}, {"temp": 0.7, "top_k": 20}):
        for made in (plain, guessing):
            made.set_seed(7)
        assert _tokens(guessing, **options) == _tokens(plain, **options)
        assert guessing.n_tokens == plain.n_tokens and list(guessing.input_ids) == list(plain.input_ids)
    assert len(accepted) == 3 and accepted[0] > 20  # of the first text, which is known
    assert guessing("Once upon a time", max_tokens=20, temperature=0) | {"id": 0, "created": 0, "model": 0} == plain(
        "Once upon a time", max_tokens=20, temperature=0
    ) | {"id": 0, "created": 0, "model": 0}


def test_what_callbacks_see(plain: Llama, guessing: Llama) -> None:
    def seen(made: Llama) -> list[list[int]]:
        found: list[list[int]] = []

        def stop(ids: Any, logits: Any) -> bool:
            found.append([len(ids), int(logits.argmax())])
            return len(found) == 20

        _tokens(made, temp=0, stopping_criteria=stop)
        assert made.n_tokens == len(PROMPT) + 19
        return found

    assert seen(guessing) == seen(plain)


def test_tokens_that_are_sent(plain: Llama, guessing: Llama) -> None:
    def talk(made: Llama) -> list[int]:
        text = made.generate(PROMPT, temp=0)
        found = [next(text) for _ in range(5)]
        found.append(text.send([11, 12, 13]))
        found += [next(text) for _ in range(9)]
        text.close()
        return [*found, made.n_tokens]

    assert talk(guessing) == talk(plain)


def test_names_and_wrong_values(path: Path) -> None:
    assert modules._INSTEAD.get("LlamaPromptLookupDecoding") is None
    with pytest.raises(ValueError, match=r"most.*got 0"):
        LlamaPromptLookupDecoding(2, 0)
    draft = LlamaPromptLookupDecoding(10, 7)
    assert (draft.max_ngram_size, draft.num_pred_tokens) == (10, 7)
