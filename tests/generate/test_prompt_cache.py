"""The prompt cache on disk: what comes back is exact, and nothing is used that does not belong to it or is damaged."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
import warnings
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Adapter,
    Batch,
    ChatSession,
    Context,
    FlashAttnType,
    Generation,
    Ggml,
    Model,
    PromptCache,
    Sampler,
)
from llama_cffi.context import sequence_state
from llama_cffi.generation.prompt_cache import cache as cache_module
from llama_cffi.generation.prompt_cache.entry import DamagedError, read_entry, read_state
from llama_cffi.generation.prompt_cache.folder import Folder
from tests import tiny_archs, tiny_models
from tests.generate.conftest import Kind

F32 = replace(tiny_models.LLAMA, quant="F32")
SYSTEM = [3 + (7 * k) % 300 for k in range(100)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_llama(tmp_path_factory.mktemp("stored") / "f32.gguf", spec=F32)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with Model.load(path) as model:
        yield model


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are remembered for files that were written just now, too."""
    monkeypatch.setattr("llama_cffi.generation.prompt_cache.identity._SETTLED_NS", -(10**12))


@pytest.fixture
def cache(tmp_path: Path) -> PromptCache:
    return PromptCache(tmp_path / "prompts", minTokens=32)


def context(model: Model, **params: Any) -> Context:
    kind = Ggml.Type.F32
    defaults = {"nCtx": 512, "nThreads": 1, "nThreadsBatch": 1, "typeK": kind, "typeV": kind}
    return Context.initFromModel(model, Context.Params(**{**defaults, **params}))


def write(ctx: Context, tokens: list[int], cache: PromptCache | None = None, n: int = 12) -> tuple[list[int], int]:
    """The likeliest tokens, and how many of the prompt came from disk."""
    with Sampler.initGreedy() as greedy:
        text = Generation(ctx, tokens, sampler=greedy, maxTokens=n, promptCache=cache)
        text.result()
    return text.tokens, text.usage.tokensFromDisk


def write_anew(model: Model, tokens: list[int], cache: PromptCache | None = None, **params: Any) -> Any:
    with context(model, **params) as ctx:
        return write(ctx, tokens, cache)


def store(model: Model, tokens: list[int], cache: PromptCache, **params: Any) -> None:
    before = cache.totals.written
    write_anew(model, tokens, cache, **params)
    assert cache.flush(60) and cache.totals.written == before + 1


def files(cache: PromptCache) -> list[Path]:
    return sorted(Path(cache.path).glob("*.prompt"))


# What comes back


def _logits(model: Model, prompt: list[int], cache: PromptCache | None, before: list[int], **params: Any) -> Any:
    """Of the first token, in a context that holds the tokens `before` already."""
    with context(model, **params) as ctx:
        if before:
            write(ctx, before, None, 1)
        tokens, from_disk = write(ctx, prompt, cache, 1)
        return np.array(ctx.getLogitsIth(-1), copy=True), tokens, from_disk


def test_logits_and_text_are_the_same(model: Model, cache: PromptCache) -> None:
    """To the last bit those of a prefix in memory; up to rounding those of a prompt that is decoded at once."""
    prompt, before = [*SYSTEM, 5, 6], [*SYSTEM, 9, 9, 9]
    for params in ({}, {"flashAttnType": FlashAttnType.DISABLED}):
        store(model, before, cache, **params)
        found, tokens, from_disk = _logits(model, prompt, cache, [], **params)
        assert from_disk == len(SYSTEM)
        expected, same, _ = _logits(model, prompt, None, before, **params)
        np.testing.assert_array_equal(found, expected)
        assert tokens == same
        assert write_anew(model, prompt, cache, **params)[0] == write_anew(model, prompt, **params)[0]
    np.testing.assert_allclose(found, _logits(model, prompt, None, [], **params)[0], rtol=0, atol=1e-5)


def test_the_state_on_disk_is_that_of_the_sequence(model: Model, cache: PromptCache) -> None:
    store(model, SYSTEM, cache)
    (file,) = files(cache)
    entry = read_entry(cache.path, file.name)
    with context(model) as ctx:
        ctx.decode(Batch.getOne(SYSTEM))
        state = ctx.stateSeqGetData(seqId=0)
    assert entry.tokens.tolist() == SYSTEM and bytes(read_state(cache.path, entry, 0, 1)) == state


def test_sequences_and_layouts_share_files(model: Model, cache: PromptCache) -> None:
    expected, _ = write_anew(model, SYSTEM)
    store(model, SYSTEM, cache, nSeqMax=3, nCtx=768, kvUnified=False)
    for params in ({}, {"nSeqMax": 2, "kvUnified": False}, {"nSeqMax": 3, "kvUnified": True}):
        for seq in range(params.get("nSeqMax", 1)):
            with context(model, **params) as ctx, Sampler.initGreedy() as greedy:
                text = Generation(ctx, SYSTEM, sampler=greedy, maxTokens=12, seqId=seq, promptCache=cache)
                text.result()
            assert text.tokens == expected and text.usage.tokensFromDisk == len(SYSTEM) - 1, (params, seq)


def test_prompts_of_every_kind_of_memory(kind: Kind, tmp_path: Path) -> None:
    """A state that cannot go back is stored where prompts part, and 8 tokens before their ends."""
    cache = PromptCache(tmp_path, minTokens=32)
    first = [3 + (5 * k) % 250 for k in range(600)]
    prompts = [first, [*first[:-3], 7, 8, 9], [*first[:500], *range(7, 27)], [*first[:500], 9, 9], [*first[:40], 9, 9]]
    whole, part = [0, 592, 0, 500, 0], [0, 597, 500, 500, 40]
    for k, prompt in enumerate(prompts):
        with kind.context() as ctx:
            plain, _ = write(ctx, prompt)
        with kind.context() as ctx:
            found, from_disk = write(ctx, prompt, cache)
        assert found == plain, (kind.name, k)
        if kind.name != "mrope":  # positions of several numbers
            assert from_disk == (part if kind.name == "llama" else whole)[k], (kind.name, k)
        assert cache.flush(60)


def test_a_hybrid_model(tmp_path: Path) -> None:
    with Model.load(tiny_archs.write_hybrid(tmp_path / "hybrid.gguf", 16)) as model:
        cache = PromptCache(tmp_path / "prompts", minTokens=32)
        store(model, SYSTEM, cache, swaFull=False)
        for prompt, from_disk in ((SYSTEM, 92), ([*SYSTEM[:80], 5, *range(9)], 0), ([*SYSTEM[:80], 6, 7], 80)):
            plain, _ = write_anew(model, prompt, swaFull=False)
            assert write_anew(model, prompt, cache, swaFull=False) == (plain, from_disk)
            assert cache.flush(60)


def test_a_chat_with_a_memory_that_cannot_go_back(tmp_path: Path) -> None:
    """The system prompt that conversations share is stored at the second, and used from the third on."""
    with Model.load(tiny_archs.write_hybrid(tmp_path / "hybrid.gguf")) as model:
        cache = PromptCache(tmp_path / "prompts", minTokens=32)
        for k in range(4):
            texts = []
            for stored in (None, cache):
                with context(model) as ctx, Sampler.initGreedy() as greedy:
                    session = ChatSession(ctx, template="chatml", system="Be brief. " * 9, promptCache=stored)
                    answer = session.send(f"{'abcd'[k]} question", sampler=greedy, maxTokens=6)
                    texts.append(answer.result())
            assert texts[0] == texts[1]
            assert (answer.usage.tokensFromDisk >= 60) is (k >= 2), (k, answer.usage)
            assert cache.flush(60)


def test_a_conversation_goes_on_in_another_context(model: Model, cache: PromptCache) -> None:
    def talk(turns: range, messages: list[dict[str, Any]], stored: PromptCache | None) -> tuple[list[Any], int]:
        with context(model) as ctx:
            session = ChatSession(ctx, template="chatml", promptCache=stored, system="Be brief. " * 4)
            session.messages[1:] = messages
            for turn in turns:
                with Sampler.initGreedy() as greedy:
                    answer = session.send(f"Question number {turn}", sampler=greedy, maxTokens=6)
                    answer.result()
            return session.messages[1:], answer.usage.tokensFromDisk

    messages, _ = talk(range(2), [], cache)
    assert messages == talk(range(2), [], None)[0] and cache.flush(60)
    found, from_disk = talk(range(2, 3), messages, cache)
    assert found == talk(range(2, 3), messages, None)[0] and from_disk >= 32


def test_a_path_is_a_cache_too(model: Model, tmp_path: Path) -> None:
    with context(model) as ctx:
        session = ChatSession(ctx, template="chatml", promptCache=tmp_path)
        assert isinstance(session.promptCache, PromptCache) and session.promptCache.path == str(tmp_path)
    assert PromptCache._of(os.fsencode(tmp_path)).path == str(tmp_path)
    for wrong in (1, None, object()):
        with pytest.raises(TypeError, match=r"promptCache.*PromptCache"):
            PromptCache._of(wrong)  # type: ignore[arg-type]


def test_prompts_that_cost_little_are_not_written(model: Model, cache: PromptCache) -> None:
    write_anew(model, SYSTEM[:31], cache)
    store(model, SYSTEM, cache)
    write_anew(model, [*SYSTEM, *range(10, 41)], cache)  # 31 tokens more
    assert cache.flush(60) and len(files(cache)) == 1
    assert write_anew(model, SYSTEM[:32], cache)[1] == 0, "31 tokens are not worth it"
    assert write_anew(model, SYSTEM[:33], cache)[1] == 32


def test_a_prompt_replaces_the_shorter_one_that_it_begins_with(model: Model, cache: PromptCache) -> None:
    store(model, SYSTEM, cache)
    store(model, [*SYSTEM, *range(10, 60)], cache)
    assert len(files(cache)) == 1 and write_anew(model, [*SYSTEM, 4], cache)[1] == 100
    store(model, [*SYSTEM, *range(10, 60), *range(3, 300)], cache)  # which is much longer
    assert len(files(cache)) == 2


def test_tokens_that_are_none_are_not_written(model: Model, cache: PromptCache) -> None:
    """Negative numbers stand for images."""
    with context(model) as ctx:
        from llama_cffi.generation.prompt_cache.identity import Identity

        ctx.decode(Batch.getOne(SYSTEM))
        assert cache._place(Identity(ctx, ()), ctx, array("i", [*SYSTEM, -2, -3, 5]), 0) == len(SYSTEM)
        assert cache._place(Identity(ctx, ()), ctx, array("i", [-2, *SYSTEM]), 0) == 0
        cache._offer(Identity(ctx, ()), ctx, 0, array("i", [-1, *SYSTEM[1:]]))
        assert cache.flush(60) and not files(cache)
        cache._offer(Identity(ctx, ()), ctx, 0, array("i", SYSTEM))
        assert cache.flush(60) and len(files(cache)) == 1


def test_a_copy_of_a_stream_that_waits(model: Model, cache: PromptCache) -> None:
    """The next decode makes it, of what was there before: nothing is read into a stream until then."""
    store(model, SYSTEM, cache)
    other = SYSTEM[::-1]
    expected = [write_anew(model, [*other, 5])[0], write_anew(model, SYSTEM)[0]]
    with context(model, nSeqMax=2, kvUnified=False) as ctx:
        for from_disk in (0, 99):
            ctx.getMemory().clear()
            write(ctx, other, None, 1)
            if not from_disk:
                ctx.getMemory().seqCopy(0, 1)
            assert write(ctx, SYSTEM, cache) == (expected[1], from_disk)
            if not from_disk:
                batch = Batch.init(1)
                batch.extend([5], len(other), (1,), "last")
                ctx.decode(batch)
                with Sampler.initGreedy() as greedy:
                    assert greedy.sample(ctx, -1) == expected[0][0]


def test_a_folder_that_was_removed(model: Model, cache: PromptCache) -> None:
    shutil.rmtree(cache.path)
    store(model, SYSTEM, cache)
    assert write_anew(model, SYSTEM, cache)[1] == 99
    shutil.rmtree(cache.path)
    assert write_anew(model, SYSTEM, cache)[1] == 0 and cache.flush(60) and len(files(cache)) == 1


# What does not belong to it


def _same_but(model: Model, path: Path, folder: Path) -> dict[str, Callable[[Callable[[Context], int]], int]]:
    """Ways to compute with something else; each calls a function with a context."""

    def params(**fields: Any) -> Callable[[Callable[[Context], int]], int]:
        def use(run: Callable[[Context], int]) -> int:
            with context(model, **fields) as ctx:
                return run(ctx)

        return use

    # The same metadata, size and names of tensors.
    other = tiny_models.write_llama(folder / "other.gguf", spec=replace(F32, seed=F32.seed + 1))
    assert other.stat().st_size == path.stat().st_size

    def other_model(run: Callable[[Context], int]) -> int:
        with Model.load(other) as loaded, context(loaded) as ctx:
            return run(ctx)

    def overridden(run: Callable[[Context], int]) -> int:
        chosen = Model.Params(kvOverrides={"llama.rope.freq_base": 5000.0})
        with Model.load(path, chosen) as loaded, context(loaded) as ctx:
            return run(ctx)

    def steered(run: Callable[[Context], int]) -> int:
        with context(model) as ctx:
            size = model.nEmbd * (model.nLayer - 1)
            ctx.setAdapterCvec(np.ones(size, np.float32), size, model.nEmbd, 1, model.nLayer - 1)
            return run(ctx)

    def both_ways(run: Callable[[Context], int]) -> int:
        with context(model) as ctx:
            ctx.setCausalAttn(False)
            return run(ctx)

    return {
        "typeK": params(typeK=Ggml.Type.F16),
        "typeV": params(typeV=Ggml.Type.F16),
        "flashAttnType": params(flashAttnType=FlashAttnType.DISABLED),
        "ropeFreqBase": params(ropeFreqBase=5000.0),
        "ropeFreqScale": params(ropeFreqScale=0.5),
        "model": other_model,
        "kvOverrides": overridden,
        "control vector": steered,
        "attention": both_ways,
    }


def test_nothing_of_another_model_or_context_is_used(
    model: Model, path: Path, cache: PromptCache, tmp_path: Path
) -> None:
    store(model, SYSTEM, cache)

    def run(ctx: Context) -> int:
        return write(ctx, SYSTEM, cache, 1)[1]

    for name, use in _same_but(model, path, tmp_path).items():
        assert use(run) == 0, name
        assert cache.flush(60)
        assert use(run) == (0 if name in ("control vector", "attention") else 99), f"{name}: its own is"
    copy = shutil.copyfile(path, tmp_path / "copy.gguf")
    with Model.load(copy) as same:
        Generation(context(same), SYSTEM, maxTokens=1, promptCache=cache).result()
        assert cache.flush(60)
        assert write_anew(same, SYSTEM, cache)[1] == 99, "a copy has the same contents"


def test_adapters_are_told_apart_by_content_and_scale(model: Model, cache: PromptCache, tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "one.gguf", F32)
    tiny_models.write_lora(tmp_path / "two.gguf", F32, seed=3)
    shutil.copyfile(tmp_path / "one.gguf", tmp_path / "copy.gguf")
    one, two, copy = (Adapter.loraInit(model, tmp_path / f"{name}.gguf") for name in ("one", "two", "copy"))

    def run(*adapters: tuple[Adapter, float], stored: PromptCache | None = cache) -> tuple[list[int], int]:
        with context(model) as ctx:
            for adapter, scale in adapters:
                ctx.setAdapterLora(adapter, scale)
            return write(ctx, SYSTEM, stored)

    run((one, 1.0))
    assert cache.flush(60)
    for other in ((), ((two, 1.0),), ((one, 0.5),), ((one, 1.0), (two, 1.0))):
        assert run(*other) == (run(*other, stored=None)[0], 0), other
        assert cache.flush(60)
    assert run((copy, 1.0))[1] in (0, 99) and cache.flush(60)  # 0 if its digest was not known yet
    for same in (((one, 1.0),), ((copy, 1.0),), ((one, 1.0), (two, 0.0))):
        assert run(*same) == (run((one, 1.0), stored=None)[0], 99)


def test_a_file_that_changes_under_its_name(path: Path, tmp_path: Path, cache: PromptCache) -> None:
    """A model that was replaced after it had been loaded is not known; one of the same size and time is another."""
    file = shutil.copyfile(path, tmp_path / "model.gguf")
    other = tiny_models.write_llama(tmp_path / "other.gguf", spec=replace(F32, seed=F32.seed + 1)).read_bytes()
    with Model.load(file) as loaded, pytest.warns(RuntimeWarning, match=r"model\.gguf was changed") as caught:
        os.replace(shutil.copyfile(path, tmp_path / "new.gguf"), file)
        for prompt in (SYSTEM, [*SYSTEM, 5]):
            write_anew(loaded, prompt, cache)
            assert cache.flush(60) and not files(cache)
    assert len(caught) == 1
    with Model.load(file) as loaded:
        store(loaded, SYSTEM, cache)
    times = file.stat()
    file.write_bytes(other)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    fresh = PromptCache(cache.path, minTokens=32)
    with Model.load(file) as loaded:
        assert write_anew(loaded, SYSTEM, fresh) == (write_anew(loaded, SYSTEM)[0], 0)


def test_digests_of_files_are_remembered_and_checked(
    path: Path, cache: PromptCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model.load(path) as model:
        store(model, SYSTEM, cache)
    (memo,) = Path(cache.path).glob("*.digest")
    read: list[object] = []
    digest = cache_module.file_digest
    monkeypatch.setattr(cache_module, "file_digest", lambda source: read.append(source) or digest(source))

    def from_disk() -> int:
        stored = PromptCache(cache.path, minTokens=32)
        with Model.load(path) as model:
            found = write_anew(model, SYSTEM, stored)[1]
        assert stored.flush(60)
        return int(found)

    assert from_disk() == 99 and not read
    good = memo.read_bytes()
    for bad in (b"", good[:-1], bytes([good[0] ^ 1]) + good[1:], good[::-1], b"\xff" * len(good), good + b"0"):
        memo.write_bytes(bad)
        assert from_disk() in (0, 99) and len(read) == 1, bad  # the file may be read again before it is needed
        read.clear()
        assert memo.read_bytes() == good


def test_the_digest_of_a_file_that_may_still_change_is_not_remembered(
    model: Model, cache: PromptCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in the same moment would not change its times."""
    monkeypatch.setattr("llama_cffi.generation.prompt_cache.identity._SETTLED_NS", 10**15)
    store(model, SYSTEM, cache)
    assert not list(Path(cache.path).glob("*.digest"))


# Damage


def test_a_damaged_file_is_never_used(model: Model, cache: PromptCache) -> None:
    store(model, SYSTEM, cache)
    (file,) = files(cache)
    good, (expected, _) = file.read_bytes(), write_anew(model, SYSTEM)
    chance = random.Random(21)
    places = {*range(0, 100), *(chance.randrange(len(good)) for _ in range(150)), len(good) - 1}
    damaged = [good[:at] + bytes([good[at] ^ (1 << chance.randrange(8))]) + good[at + 1 :] for at in places]
    damaged += [good[:n] for n in (0, 1, 7, 8, 99, 100, 101, len(good) // 2, len(good) - 1)]
    damaged += [good + b"\0", b"\0" * len(good), good[:200] + bytes(len(good) - 200), good[4096:] + good[:4096]]
    with context(model) as ctx:
        for bad in damaged:
            file.write_bytes(bad)
            fresh = PromptCache(cache.path, minTokens=32)
            ctx.getMemory().clear()
            assert write(ctx, SYSTEM, fresh) == (expected, 0)
            assert fresh.flush(60) and fresh.totals.used == 0
            assert fresh.totals.damaged == 1 or (bad[:8], bad[12:]) == (good[:8], good[12:]), "of another version"
            assert file.read_bytes() == good, "it is written again"


def test_damage_after_the_file_was_found(model: Model, cache: PromptCache) -> None:
    store(model, SYSTEM, cache)
    (file,) = files(cache)
    good, (expected, _) = file.read_bytes(), write_anew(model, SYSTEM)
    assert write_anew(model, SYSTEM, cache) == (expected, 99)
    for count, bad in enumerate((good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b"", good[:300] + bytes(9)), 1):
        file.write_bytes(bad)
        assert write_anew(model, SYSTEM, cache) == (expected, 0)
        assert cache.totals.damaged == count and cache.flush(60) and file.read_bytes() == good
    file.unlink()
    assert write_anew(model, SYSTEM, cache) == (expected, 0) and cache.totals.damaged == 4


def test_files_that_are_something_else(model: Model, cache: PromptCache) -> None:
    """Under the name of a prompt: a folder, a FIFO, another prompt, a link to nothing, a file of somebody else."""
    store(model, SYSTEM, cache)
    (file,) = files(cache)
    good, (expected, _) = file.read_bytes(), write_anew(model, SYSTEM)
    file.unlink()
    store(model, SYSTEM[::-1], cache)
    (other,) = files(cache)
    makers: list[Callable[[], object]] = [file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to("nowhere")]
    makers.append(lambda: file.write_bytes(other.read_bytes()))
    if os.geteuid() == 0:
        makers.append(lambda: (file.write_bytes(good), os.chown(file, 1234, 1234)))
    for make in makers:
        make()
        fresh = PromptCache(cache.path, minTokens=32)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            assert write_anew(model, SYSTEM, fresh) == (expected, 0)
            assert fresh.flush(60)
        file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)


def test_a_state_that_does_not_fit_is_not_used(model: Model, cache: PromptCache) -> None:
    """It is whole, but the context has too few cells."""
    long = SYSTEM * 4
    store(model, long, cache)
    prompt = [*long[:150], 5]
    expected, _ = write_anew(model, prompt, nCtx=256)
    assert write_anew(model, prompt, cache, nCtx=256) == (expected, 0)
    assert write_anew(model, prompt, cache) == (write_anew(model, prompt)[0], 150)


# Room


def test_what_was_not_used_for_the_longest_time_goes(model: Model, tmp_path: Path) -> None:
    prompts = [[token + k for token in SYSTEM] for k in range(6)]
    probe = PromptCache(tmp_path / "probe", minTokens=32)
    store(model, prompts[0], probe)
    size = files(probe)[0].stat().st_size
    cache = PromptCache(tmp_path / "prompts", maxBytes=3 * size + 4000, minTokens=32)

    def present() -> list[int]:
        names = {read_entry(cache.path, file.name).tokens.tolist()[0] for file in files(cache)}
        return [k for k in range(6) if prompts[k][0] in names]

    for k in range(3):
        store(model, prompts[k], cache)
    assert present() == [0, 1, 2]
    assert write_anew(model, prompts[0], cache)[1] == 99  # which makes it the one that was used last
    store(model, prompts[3], cache)
    assert present() == [0, 2, 3] and cache.totals.removed == 1
    other = PromptCache(cache.path, maxBytes=cache.maxBytes, minTokens=32)
    assert write_anew(model, prompts[2], other)[1] == 99
    store(model, prompts[4], cache)
    assert present() == [2, 3, 4]
    tiny = PromptCache(cache.path, maxBytes=size // 2, minTokens=32)
    write_anew(model, prompts[5], tiny)
    assert tiny.flush(60) and present() == [2, 3, 4], "one that does not fit alone removes nothing"
    for file in files(cache):  # a clock that was wrong
        os.utime(file, (2**33, 2**33))
    store(model, prompts[5], cache)
    assert len(present()) == 3 and 5 in present()
    cache.clear()
    assert not os.listdir(cache.path)


def test_files_of_others_in_the_folder_stay(model: Model, tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("notes.txt", "a.prompt", ".llama-cffi", "x.digest")]
    for file in mine:
        file.write_bytes(b"mine")
    cache = PromptCache(tmp_path, maxBytes=1, minTokens=32)
    write_anew(model, SYSTEM, cache)
    Folder(cache.path, 0).make_room(0)
    cache.clear()
    assert cache.flush(60) and [file.read_bytes() for file in mine] == [b"mine"] * 4


# Threads and limits


def test_a_copy_is_written_while_the_text_goes_on(model: Model, cache: PromptCache, monkeypatch: Any) -> None:
    """The thread that decodes does not wait for the disk, and no thread stays behind."""
    go, write_file = threading.Event(), Folder.write

    def slow(self: Folder, *arguments: Any) -> int:
        assert go.wait(60)
        return write_file(self, *arguments)

    monkeypatch.setattr(Folder, "write", slow)
    expected, _ = write_anew(model, SYSTEM)
    assert write_anew(model, SYSTEM, cache) == (expected, 0)
    assert write_anew(model, SYSTEM, cache) == (expected, 0), "it waits to be written, and is not copied again"
    assert not cache.flush(0.01) and cache.totals.written == 0
    go.set()
    assert cache.flush(60) and cache.totals.written == 1 and cache.totals.failed == 0
    end = time.monotonic() + 10
    while any(thread.name == "llama_cffi-prompt-cache" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_write_that_fails_warns_once(model: Model, cache: PromptCache, monkeypatch: Any) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    writes = Folder.write
    monkeypatch.setattr(Folder, "write", fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(3):
            write_anew(model, [token + k for token in SYSTEM], cache)
            assert cache.flush(60)
    assert [w.category for w in caught if w.category is RuntimeWarning] == [RuntimeWarning]
    assert "No space left" in str(caught[0].message) and cache.totals.failed == 1, "it waits for a minute"
    monkeypatch.setattr(Folder, "write", writes)
    cache._resume = 0.0
    store(model, SYSTEM, cache)
    monkeypatch.setattr(Folder, "write", fails)
    other = PromptCache(cache.path, minTokens=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_anew(model, [*SYSTEM[:50], *SYSTEM[:50]], other)
        assert other.flush(60) and other.totals.failed == 1
    assert write_anew(model, SYSTEM, other)[1] == 99, "it goes on with what it has"


def test_wrong_arguments(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        PromptCache(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        PromptCache(tmp_path / "file" / "below")
    for wrong in ({"maxBytes": -1}, {"minTokens": 0}):
        with pytest.raises(ValueError, match=r"(maxBytes|minTokens).*got"):
            PromptCache(tmp_path / "x", **wrong)
    with pytest.raises(TypeError, match="path"):
        PromptCache(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"timeout.*-1"):
        PromptCache(tmp_path / "x").flush(-1)
    assert (tmp_path / "x").stat().st_mode & 0o077 == 0, "nobody else can read what users wrote"


def test_a_forked_child_begins_without_the_work_of_its_parent(cache: PromptCache, monkeypatch: Any) -> None:
    held = threading.Event()
    cache._add(0, lambda: print(held.wait(60)))
    child = os.fork()
    if child == 0:
        os._exit(0 if cache.flush(5) and cache._thread is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.set()
    assert cache.flush(60)


def test_states_are_copied_once(model: Model) -> None:
    """`read` and `write` of a state do not change it."""
    with context(model) as ctx, context(model) as other:
        ctx.decode(Batch.getOne(SYSTEM))
        state = sequence_state.read(ctx, 0, 1)
        assert state is not None
        sequence_state.write(other, 0, 1, state)
        assert other.stateSeqGetData(seqId=0) == ctx.stateSeqGetData(seqId=0)
        assert sequence_state.read(ctx, 0, 2) is None, "of another number of streams"


def test_damage_is_named(model: Model, cache: PromptCache) -> None:
    store(model, SYSTEM, cache)
    (file,) = files(cache)
    good = file.read_bytes()
    for bad, words in ((good[:50], "too short"), (b"x" + good[1:], "not a stored"), (good + b"1", "size")):
        file.write_bytes(bad)
        with pytest.raises(DamagedError, match=words):
            read_entry(cache.path, file.name)
