"""Checkpoints of an engine: prompts share beginnings, and guess, with memories that cannot go back by themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from llama_cffi import Context, Engine, Model, PromptLookup, Request, Sampler, StateError
from llama_cffi.engine import sequence_checkpoints
from llama_cffi.generation import checkpoints
from tests.engine.conftest import exact, running
from tests.engine.test_speculation import _held, sizes  # noqa: F401
from tests.generate.test_checkpoints import KINDS
from tests.generate.test_speculation import Oracle

pytestmark = pytest.mark.needs("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY")

COMMON = [5 + i * i % 91 for i in range(2000)]
ENDS = [[100 + i] * 300 + [7 + i + k for k in range(30)] for i in range(3)]  # longer than what a window keeps


@pytest.fixture(scope="module", params=list(KINDS))
def stiff(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model whose memory cannot go back by itself."""
    with Model.load(KINDS[request.param](tmp_path_factory.mktemp("stiff") / "model.gguf")) as model:
        yield model


def _engine(model: Model, **options: Any) -> Any:
    params = exact(swaFull=False, nUbatch=64)
    return running(model, **{"params": params, "nCtx": 8192, "nSeqMax": 3, "nBatch": 64, "kvUnified": True, **options})


def _ask(engine: Engine, prompt: list[int], limit: int = 6, **options: Any) -> Request:
    return engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=limit, **options)


@pytest.fixture(scope="module")
def texts(stiff: Model) -> list[list[int]]:
    """What is written when nothing is shared."""
    found = []
    with _engine(stiff, keepPrefixes=False) as engine:
        for end in ENDS:
            request = _ask(engine, COMMON + end)
            request.result(60)
            found.append(request.tokens)
    return found


def test_one_after_another(stiff: Model, texts: list[list[int]], sizes: list[int]) -> None:  # noqa: F811
    with _engine(stiff) as engine:
        for i, end in enumerate(ENDS):
            sizes.clear()
            request = _ask(engine, COMMON + end)
            request.result(60)
            assert request.tokens == texts[i]
            reused = request.usage.reusedTokens
            assert reused >= (0, 2000 - 2 * checkpoints.STEP, 2000)[i]
            assert sum(sizes) == 2330 - reused + 5
            _held(engine)


def test_together(stiff: Model, texts: list[list[int]], sizes: list[int]) -> None:  # noqa: F811
    """The beginning is read once, although nothing was known of it before."""
    with _engine(stiff) as engine:
        first = _ask(engine, [9] * 40, 4)  # they are in the queue together
        requests = [_ask(engine, COMMON + end) for end in ENDS]
        first.result(60)
        for request, text in zip(requests, texts, strict=True):
            request.result(60)
            assert request.tokens == text
        if not stiff.isHybrid or not stiff.nSwa:  # whose cells are too few for copies
            reused = sum(request.usage.reusedTokens for request in requests)
            assert reused >= 2 * (2000 - 64)
            assert sum(sizes) == 40 + 3 + 3 * (2330 + 5) - reused
        _held(engine)


def test_the_same_prompt_of_many(stiff: Model, texts: list[list[int]]) -> None:
    with _engine(stiff) as engine:
        requests = [_ask(engine, COMMON + ENDS[0]) for _ in range(5)]
        for request in requests:
            request.result(60)
            assert request.tokens == texts[0]
        if not stiff.isHybrid or not stiff.nSwa:
            assert sum(request.usage.reusedTokens >= 2330 - 64 for request in requests) == 4
        _held(engine)


@pytest.mark.parametrize("wrong", [0.0, 0.4, 1.0])
def test_guesses(stiff: Model, wrong: float) -> None:
    prompts = [[7 + i, 8, 9, 10, 11] * 4 for i in range(2)]
    with _engine(stiff) as engine:
        plain = [_ask(engine, prompt, 40) for prompt in prompts]
        written = [request.result(60) and request.tokens for request in plain]
        for together in (False, True):
            requests = []
            for prompt, text in zip(prompts, written, strict=True):
                requests.append(_ask(engine, prompt, 40, speculation=Oracle(prompt + text, wrong)))
                if not together:
                    requests[-1].result(60)
            for request, text in zip(requests, written, strict=True):
                request.result(60)
                assert request.tokens == text and request.usage.guessedTokens > 10
                assert wrong == 1 or request.usage.acceptedTokens > 0
                assert wrong == 0 or request.usage.acceptedTokens < request.usage.guessedTokens
        assert _ask(engine, prompts[0], 40, speculation=PromptLookup(1, adapt=False)).result(60) == plain[0].text
        _held(engine)


def test_a_crowd(stiff: Model) -> None:
    rng = random.Random(1)
    stem = COMMON[:300]
    prompts = [stem[: rng.randrange(100, 300)] + [rng.randrange(5, 95) for _ in range(90)] for _ in range(5)]
    with _engine(stiff, keepPrefixes=False, nSeqMax=1) as engine:
        texts = [_ask(engine, prompt, 20) for prompt in prompts]
        for request in texts:
            request.result(60)
    with _engine(stiff, nCtx=2048) as engine:
        done = []
        for _ in range(40):
            i, limit = rng.randrange(5), rng.randrange(1, 20)
            speculation = rng.choice([None, Oracle(prompts[i] + texts[i].tokens, 0.3, rng.randrange(1, 6))])
            done.append((i, _ask(engine, prompts[i], limit, speculation=speculation)))
            if rng.random() < 0.2:
                done[-1][1].cancel()
        for i, request in done:
            request.result(60)
            assert request.tokens == texts[i].tokens[: len(request.tokens)]
        assert sum(request.usage.reusedTokens for _, request in done) > 1000
        _held(engine)


def test_states_that_cannot_be_restored(stiff: Model, texts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise StateError("no cells")

    with _engine(stiff) as engine:
        _ask(engine, COMMON + ENDS[0], 1).result(60)
        monkeypatch.setattr(Context, "stateSeqSetData", refuse)
        request = _ask(engine, COMMON + ENDS[1])
        request.result(60)
        assert request.tokens == texts[1] and request.usage.reusedTokens == 0
        _held(engine)


def test_all_together_have_a_limit(stiff: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with _engine(stiff) as engine:
        cells = engine._scheduler._cells
        _ask(engine, COMMON[:700], 1).result(60)
        (first,) = cells._all
        assert first.checkpoints is not None and len(first.checkpoints) >= 2
        size = sequence_checkpoints._size([first])
        assert size == first.checkpoints.size > 0
        monkeypatch.setattr(checkpoints, "MAX_BYTES", size + 1)
        _ask(engine, [9, *COMMON[:700]], 1).result(60)
        assert first.checkpoints is None
        assert 0 < sequence_checkpoints._size(cells._all) <= size + 1
        monkeypatch.setattr(checkpoints, "MAX_BYTES", 10)
        _ask(engine, [8, *COMMON[:700]], 1).result(60)
        assert sequence_checkpoints._size(cells._all) <= size + 1
