"""The prompt cache on disk in an engine: requests begin with what another process has decoded, and write the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Adapter, Engine, Model, PromptCache, Request, Sampler
from llama_cffi.generation.prompt_cache.folder import Folder
from tests import tiny_archs, tiny_models
from tests.engine.conftest import exact, write_alone

SYSTEM = [3 + (7 * k) % 300 for k in range(120)]
QUESTIONS = [[5 + k, 60 + k, 7] for k in range(6)]


@pytest.fixture
def cache(tmp_path: Path) -> PromptCache:
    return PromptCache(tmp_path / "prompts", minTokens=32)


def engine(model: Model, cache: PromptCache | None, **options: Any) -> Engine:
    defaults = {"nCtx": 1024, "nSeqMax": 4, "nBatch": 64, "params": exact(nThreads=1, nThreadsBatch=1)}
    return Engine(model, promptCache=cache, **{**defaults, **options})


def ask(served: Engine, tokens: list[int], n: int = 8, **options: Any) -> Request:
    return served.submit(tokens, sampler=Sampler.initGreedy(), maxTokens=n, **options)


def store(model: Model, cache: PromptCache, tokens: list[int], **options: Any) -> None:
    before = cache.totals.written
    with engine(model, cache, **options) as served:
        ask(served, tokens).result()
        assert cache.flush(60)
    assert cache.totals.written == before + 1


@pytest.fixture(scope="module")
def expected(plain: Model) -> list[list[int]]:
    return [write_alone(plain, [*SYSTEM, *question], 8) for question in QUESTIONS]


@pytest.fixture(params=[None, True, False], ids=["changing", "one-pool", "streams"])
def unified(request: pytest.FixtureRequest) -> Iterator[bool | None]:
    yield request.param


def test_the_next_engine_begins_with_what_is_stored(
    plain: Model, cache: PromptCache, expected: list[list[int]], unified: bool | None
) -> None:
    store(plain, cache, [*SYSTEM, 200, 201], kvUnified=unified)
    with engine(plain, cache, kvUnified=unified) as served:
        for question, tokens in zip(QUESTIONS[:3], expected, strict=False):
            request = ask(served, [*SYSTEM, *question])
            request.result()
            assert request.tokens == tokens
        assert served.totals.reusedTokens >= 3 * len(SYSTEM)
    with engine(plain, cache, kvUnified=unified) as served:
        request = ask(served, [*SYSTEM, *QUESTIONS[0]])
        request.result()
        assert request.usage.tokensFromDisk == request.usage.reusedTokens == len(SYSTEM)
    assert cache.totals.used == 2 and cache.totals.written == 1, "the others found it in the KV cache"


def test_requests_at_once(plain: Model, cache: PromptCache, expected: list[list[int]], unified: bool | None) -> None:
    """The first reads the prefix from disk, and the others share it, while another prompt is decoded."""
    store(plain, cache, SYSTEM, kvUnified=True)
    other = [9 + (11 * k) % 290 for k in range(90)]
    alone = write_alone(plain, other, 8)
    with engine(plain, cache, kvUnified=unified) as served:
        first = ask(served, other)
        requests = [ask(served, [*SYSTEM, *question]) for question in QUESTIONS]
        assert [request.result() is not None and request.tokens for request in requests] == expected
        assert first.result() is not None and first.tokens == alone
        assert max(request.usage.tokensFromDisk for request in requests) == len(SYSTEM)
        assert cache.flush(60)


def test_every_layout_reads_what_another_has_written(
    plain: Model, cache: PromptCache, expected: list[list[int]]
) -> None:
    for k, (write, read) in enumerate(((True, False), (False, True), (False, None), (None, True))):
        cache.clear()
        store(plain, cache, SYSTEM, kvUnified=write)
        with engine(plain, cache, kvUnified=read, nSeqMax=2 + k) as served:
            request = ask(served, [*SYSTEM, *QUESTIONS[k]])
            request.result()
        assert request.tokens == expected[k] and request.usage.tokensFromDisk == len(SYSTEM)


def test_a_request_can_keep_out(plain: Model, cache: PromptCache, expected: list[list[int]]) -> None:
    prompt = [*SYSTEM, *QUESTIONS[0]]
    with engine(plain, cache) as served:
        ask(served, prompt, sharePrefix=False).result()
        assert cache.flush(60) and cache.totals.written == 0
    store(plain, cache, prompt)
    with engine(plain, cache) as served:
        request = ask(served, prompt, sharePrefix=False)
        request.result()
        assert request.usage.reusedTokens == request.usage.tokensFromDisk == 0 and request.tokens == expected[0]


def test_a_prompt_alone_is_stored(plain: Model, cache: PromptCache, expected: list[list[int]]) -> None:
    """`maxTokens` 0 decodes it and nothing else: a way to have a system prompt stored."""
    with engine(plain, cache) as served:
        ask(served, SYSTEM, 0).result()
    assert cache.flush(60) and cache.totals.written == 1
    with engine(plain, cache) as served:
        request = ask(served, [*SYSTEM, *QUESTIONS[1]])
        request.result()
        assert request.tokens == expected[1] and request.usage.tokensFromDisk == len(SYSTEM)


def test_adapters_do_not_mix(plain: Model, cache: PromptCache, tmp_path: Path) -> None:
    from dataclasses import replace

    spec = replace(tiny_models.LLAMA, quant="F32")
    tiny_models.write_lora(tmp_path / "lora.gguf", spec)
    adapter, prompt = Adapter.loraInit(plain, tmp_path / "lora.gguf"), [*SYSTEM, *QUESTIONS[2]]
    with engine(plain, None) as served:
        adapted = ask(served, prompt, adapters=[(adapter, 1.0)])
        adapted.result()
        bare = ask(served, prompt)
        bare.result()
    assert adapted.tokens != bare.tokens
    with engine(plain, cache) as served:
        ask(served, SYSTEM, adapters=[(adapter, 1.0)]).result()
        assert cache.flush(60)
    for adapters, expected, from_disk in (((), bare, 0), ([(adapter, 1.0)], adapted, 120), ([(adapter, 0.5)], None, 0)):
        with engine(plain, cache) as served:
            request = ask(served, prompt, adapters=adapters)
            request.result()
            assert request.usage.tokensFromDisk == from_disk
            assert expected is None or request.tokens == expected.tokens
            assert cache.flush(60)


def test_damage_while_requests_run(plain: Model, cache: PromptCache, expected: list[list[int]]) -> None:
    store(plain, cache, SYSTEM)
    (file,) = Path(cache.path).glob("*.prompt")
    good = file.read_bytes()
    for bad in (good[:-1] + b"?", good[: len(good) // 2]):
        cache.clear()
        file.write_bytes(bad)
        with engine(plain, cache, keepPrefixes=False) as served:
            requests = [ask(served, [*SYSTEM, *question]) for question in QUESTIONS]
            assert [request.result() is not None and request.tokens for request in requests] == expected
            assert requests[0].usage.tokensFromDisk == 0
            assert cache.flush(60) and not file.exists()
    assert cache.totals.damaged == 2


def test_a_state_that_the_context_refuses(
    plain: Model, cache: PromptCache, expected: list[list[int]], unified: bool | None, monkeypatch: Any
) -> None:
    """Whatever llama.cpp does with it, running requests go on as they would have."""
    store(plain, cache, SYSTEM, kvUnified=unified)
    read, bad = Folder.read, []

    def broken(self: Folder, *arguments: Any) -> bytearray | None:
        data = read(self, *arguments)
        if data is not None:
            data[8:] = b"\xff" * (len(data) - 8)
            bad.append(data)
        return data

    monkeypatch.setattr(Folder, "read", broken)
    other = [9 + (11 * k) % 290 for k in range(90)]
    alone = write_alone(plain, other, 40)
    with engine(plain, cache, kvUnified=unified) as served:
        first = ask(served, other, 40)
        next(iter(first))
        request = ask(served, [*SYSTEM, *QUESTIONS[0]])
        request.result()
        first.result()
    assert bad and request.tokens == expected[0] and first.tokens == alone
    assert request.usage.tokensFromDisk == 0 and cache.totals.used == 0


def test_a_stored_prompt_that_is_larger_than_the_engine(plain: Model, cache: PromptCache) -> None:
    store(plain, cache, SYSTEM * 4, nCtx=1024)
    prompt = [*SYSTEM, *SYSTEM[:10], 5]
    expected = write_alone(plain, prompt, 8)
    for unified in (True, False):
        with engine(plain, cache, nCtx=256, nSeqMax=1, kvUnified=unified) as served:
            request = ask(served, prompt)
            request.result()
        assert request.tokens == expected and request.usage.tokensFromDisk == 0


def test_kept_prefixes_make_room(plain: Model, cache: PromptCache, expected: list[list[int]]) -> None:
    """Those of earlier requests fill the cells; what is read from disk takes their place."""
    store(plain, cache, SYSTEM)
    for unified in (True, False):
        with engine(plain, cache, nCtx=512, nSeqMax=2, kvUnified=unified) as served:
            for k in range(5):
                ask(served, [(token + 13 * k) % 350 + 3 for token in SYSTEM], 4).result()
            request = ask(served, [*SYSTEM, *QUESTIONS[3]])
            request.result()
        assert request.tokens == expected[3] and request.usage.tokensFromDisk == len(SYSTEM)
        assert cache.flush(60)


def test_two_engines_share_a_folder(plain: Model, tmp_path: Path, expected: list[list[int]]) -> None:
    """Each with an object of its own, at the same time, in little room."""
    errors: list[BaseException] = []
    caches = [PromptCache(tmp_path, minTokens=32, maxBytes=400_000) for _ in range(2)]

    def work(cache: PromptCache) -> None:
        try:
            for round in range(3):
                with engine(plain, cache) as served:
                    junk = [ask(served, [(token + 17 * round) % 350 + 3 for token in SYSTEM], 2)]
                    requests = [ask(served, [*SYSTEM, *question]) for question in QUESTIONS]
                    assert [request.result() is not None and request.tokens for request in requests] == expected
                    junk[0].result()
                    assert cache.flush(60)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(cache.totals.damaged == cache.totals.failed == 0 for cache in caches)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 400_000


@pytest.mark.parametrize("kind", ["window", "hybrid", "recurrent"])
def test_memories_that_cannot_go_back(kind: str, cache: PromptCache, tmp_path: Path) -> None:
    """The beginning that prompts share is stored at the second, and used from the third on."""
    path, shared = tmp_path / "model.gguf", [3 + (5 * k) % 250 for k in range(300)]
    if kind == "hybrid":
        tiny_archs.write_hybrid(path)
    else:
        tiny_archs.write(path, "gemma3" if kind == "window" else "mamba2", n_layer=6 if kind == "window" else 2)
    with Model.load(path) as model:
        for k in range(4):
            prompt = [*shared, *range(10 * k + 5, 10 * k + 25)]
            texts = []
            for stored in (None, cache):
                with engine(model, stored, nSeqMax=2) as served:
                    other = ask(served, [*range(3, 90)], 30)
                    request = ask(served, prompt)
                    request.result()
                    texts.append((request.tokens, other.result()))
                assert cache.flush(60)
            assert texts[0] == texts[1], k
            assert request.usage.tokensFromDisk == (300 if k >= 2 else 0), k
