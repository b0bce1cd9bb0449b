"""Scores of given texts and perplexity: as computed with numpy from the logits of plain decodes."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    Context,
    ContextFullError,
    Engine,
    Generation,
    Model,
    Perplexity,
    QueueFullError,
    Sampler,
    Score,
    choose,
    perplexity,
    score,
    tokenize,
)
from llama_cffi.generation import log_probs
from llama_cffi.generation.score import ScoredTokens
from tests import tiny_archs, tiny_models
from tests.engine.conftest import exact, running
from tests.engine.test_prompt_log_probs import direct

SHEEP = " ".join(f"The {n}th of {n * n} sheep jumps over the fence, and {n % 7} others look on." for n in range(40))
# Of SHEEP, by llama-perplexity of the pinned llama.cpp with this model, 32-bit keys and values and no flash attention.
LLAMA_PERPLEXITY = {64: (180561.2685, 15946.22433), 65: (176226.4782, 15954.81654), 128: (193035.9495, 17519.72959)}

Source = Context | Engine


@pytest.fixture(params=["context", "engine", "engine, small batches"])
def source(request: pytest.FixtureRequest, plain: Model) -> Iterator[Source]:
    if request.param == "context":
        with Context.initFromModel(plain, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx:
            yield ctx
    else:
        size = {"nBatch": 16, "nSeqMax": 3} if "small" in request.param else {"nBatch": 256}
        with running(plain, **size) as engine:
            yield engine


def _expected(model: Model, tokens: list[int], first: int) -> list[float]:
    rows = direct(model, tokens)
    return [float(rows[i - 1][tokens[i]]) for i in range(first, len(tokens))]


def _check(model: Model, found: Score, tokens: list[int], first: int) -> None:
    assert found.tokens == tokens[first:]
    assert list(found.logProbs) == pytest.approx(_expected(model, tokens, first), abs=1e-3)
    assert found.pieces == [model.vocab.tokenToPiece(token, special=True) for token in tokens[first:]]


# One text


def test_every_token_of_a_text_is_scored(plain: Model, source: Source) -> None:
    text = "The quick brown fox jumps, naïvely."
    found = score(source, text)
    _check(plain, found, tokenize(plain.vocab, text), 1)  # after BOS
    assert found.nBytes == len(text.encode()) == len(text) + 1
    assert "".join(found.pieces).startswith(" The quick brown fox") and "�" not in "".join(found.pieces)
    assert found.sum == pytest.approx(sum(found.logProbs)) and found.mean == pytest.approx(np.mean(found.logProbs))
    assert found.perplexity == pytest.approx(math.exp(-np.asarray(found.logProbs).mean()))
    assert np.asarray(found.logProbs).dtype == np.float64


def test_a_context_is_not_scored(plain: Model, source: Source) -> None:
    context, text = "The quick brown fox " * 8, "jumps over the dog"
    before, whole = (tokenize(plain.vocab, part) for part in (context, context + text))
    first = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    for _ in range(2):  # the second time with a prefix in the KV cache
        found = score(source, text, context)
        _check(plain, found, whole, first)
        assert found.nBytes == len(text)
    assert first >= len(before) - 1, "the space at the end of the context is a part of the first word"


def test_tokens_are_taken_as_they_are(plain: Model, source: Source) -> None:
    tokens = tokenize(plain.vocab, "one two three four")
    bos = plain.vocab.bos
    assert tokens[0] == bos
    _check(plain, score(source, tokens), tokens, 1)
    _check(plain, score(source, tokens[1:]), tokens, 1)  # BOS is put before
    _check(plain, score(source, tokens[3:], tokens[:3]), tokens, 3)
    _check(plain, score(source, tokens[3:], tokens[1:3]), tokens[1:], 2)  # and not before a context
    assert score(source, tokens[2:3], tokens[:2]).nBytes == len(plain.vocab._piece(tokens[2], special=True))


def test_a_token_across_the_end_of_the_context_is_scored(plain: Model) -> None:
    vocab = plain.vocab
    for context, text in (("The qui", "ck"), ("a", "bc"), ("x ", "y"), ("T", "he")):
        found = ScoredTokens.check(vocab, text, context)
        assert found.tokens == tokenize(vocab, context + text)
        assert 1 <= found.first < len(found.tokens)
        scored = "".join(vocab.tokenToPiece(token) for token in found.tokens[found.first :])
        assert scored.endswith(text)
        assert found.tokens[: found.first] == tokenize(vocab, context)[: found.first]


@pytest.mark.parametrize("name", ["mamba2", "gemma3", "rwkv7"])
def test_memories_of_every_kind(tmp_path: Path, name: str) -> None:
    with Model.load(tiny_archs.write(tmp_path / "model.gguf", name)) as model:
        tokens = list(range(5, 45))
        expected = direct(model, tokens)
        with Context.initFromModel(model, exact(nCtx=256, nThreads=1, nThreadsBatch=1)) as ctx:
            for first in (30, 10, 39, 30):
                found = score(ctx, tokens[first:], tokens[:first])
                wanted = [expected[i - 1][tokens[i]] for i in range(first, 40)]
                assert list(found.logProbs) == pytest.approx(wanted, abs=1e-3), first
        with running(model, nCtx=1024) as engine:
            firsts = (30, 10, 39, 30)
            many = engine.score([tokens[first:] for first in firsts], [tokens[:first] for first in firsts])
            for first, found in zip(firsts, many, strict=True):
                wanted = [expected[i - 1][tokens[i]] for i in range(first, 40)]
                assert list(found.logProbs) == pytest.approx(wanted, abs=1e-3), first


def test_a_model_that_adds_no_bos_starts_from_its_eos(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(plain.vocab)
    monkeypatch.setattr(kind, "getAddBos", lambda self: False)
    tokens = tokenize(plain.vocab, "some words", addSpecial=False)
    found = ScoredTokens.check(plain.vocab, "some words", "")
    assert (found.tokens, found.first, found.start_added) == ([plain.vocab.bos, *tokens], 1, True)
    assert ScoredTokens.check(plain.vocab, " words", "some").tokens == tokens
    monkeypatch.setattr(kind, "bos", -1)
    assert ScoredTokens.check(plain.vocab, "some words", "").tokens == [plain.vocab.eos, *tokens]
    assert ScoredTokens.check(plain.vocab, [plain.vocab.eos, *tokens], "").first == 1
    monkeypatch.setattr(kind, "eos", -1)
    with pytest.raises(ValueError, match="BOS.*context"):
        ScoredTokens.check(plain.vocab, "some words", "")


# Many texts


def test_many_at_once_are_as_one_by_one(plain: Model) -> None:
    texts = [f"number {k} " + "and so on " * (k % 5) for k in range(30)]
    with Context.initFromModel(plain, exact(nCtx=512, nThreads=1, nThreadsBatch=1)) as ctx, running(plain) as engine:
        many = engine.score(texts, "This is ")
        for text, found in zip(texts, many, strict=True):
            alone = score(ctx, text, "This is ")
            assert found.tokens == alone.tokens and found.nBytes == alone.nBytes
            assert list(found.logProbs) == pytest.approx(list(alone.logProbs), abs=1e-3)
        pairs = engine.score(["b", "d"], ["a ", "c "])
        assert [found.sum for found in pairs] == pytest.approx([score(ctx, "b", "a ").sum, score(ctx, "d", "c ").sum])
        assert engine.score([]) == []


def test_texts_with_one_context_share_its_cells(plain: Model) -> None:
    context = "The quick brown fox jumps over the lazy dog. " * 6
    with running(plain, kvUnified=True) as engine:
        engine.score(["one"], context)
        before = engine.totals.reusedTokens
        engine.score(["two", "three", "four"], context)
        n = len(tokenize(plain.vocab, context))
        assert engine.totals.reusedTokens - before >= 3 * (n - 3)


def test_beside_requests_that_generate(plain: Model) -> None:
    with running(plain) as engine:
        request = engine.submit("Once upon a time", sampler=Sampler.initGreedy(), maxTokens=40)
        found = engine.score(["The quick brown fox"] * 9)
        assert len(request.result(60)) > 0 and len(request.tokens) == 40
        for each in found:
            _check(plain, each, tokenize(plain.vocab, "The quick brown fox"), 1)


def test_a_short_queue_is_enough(plain: Model, gate: Any) -> None:
    with running(plain, nSeqMax=2, maxWaiting=0) as engine:
        assert len(engine.score([f"text {k}" for k in range(9)])) == 9
        gate.at = 0
        held = [engine.submit("x", sampler=gate.sampler(), maxTokens=1)]
        assert gate.reached.wait(30)
        held.append(engine.submit("x", maxTokens=1))
        with pytest.raises(QueueFullError):
            engine.score(["one"])
        gate.opened.set()
        for request in held:
            request.result(30)


def test_an_error_cancels_the_rest(plain: Model) -> None:
    with running(plain, nCtx=256, nSeqMax=2) as engine:
        with pytest.raises(ContextFullError):
            engine.score(["a b c " * 20, "short", "word " * 600])
        for request in engine.requests():
            request.result(30)
        assert engine.requests() == [] and len(engine.score(["again"])) == 1


def test_threads_score_with_one_engine(plain: Model) -> None:
    found: dict[int, list[Score]] = {}
    with running(plain) as engine:
        work = [
            threading.Thread(target=lambda k=k: found.update({k: engine.score([f"thread {k} {n}" for n in range(5)])}))
            for k in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(60)
    for k in range(4):
        for n in range(5):
            _check(plain, found[k][n], tokenize(plain.vocab, f"thread {k} {n}"), 1)


# Continuations


@pytest.mark.parametrize(("normalize", "divide"), [("none", "one"), ("token", "tokens"), ("byte", "bytes")])
def test_the_best_continuation(plain: Model, source: Source, normalize: Any, divide: str) -> None:
    prompt, texts = "The quick brown", [" fox", " elephant that jumps over everything", " é", " dog and cat"]
    found = choose(source, prompt, texts, normalize=normalize)
    values = []
    first = len(tokenize(plain.vocab, prompt))
    for text, each in zip(texts, found.scores, strict=True):
        _check(plain, each, tokenize(plain.vocab, prompt + text), first)
        by = {"one": 1, "tokens": len(each.tokens), "bytes": len(text.encode())}[divide]
        values.append(sum(_expected(plain, tokenize(plain.vocab, prompt + text), first)) / by)
    assert found.values == pytest.approx(values, abs=1e-2) and found.index == int(np.argmax(values))


def test_continuations_are_compared_from_the_same_token_on(plain: Model, source: Source) -> None:
    found = choose(source, "The qu", ["ick", " it", "een"])
    starts = {
        len(tokenize(plain.vocab, "The qu" + text)) - len(each.tokens)
        for text, each in zip(["ick", " it", "een"], found.scores, strict=True)
    }
    assert len(starts) == 1, "one is scored after fewer tokens than another"


def test_a_nan_is_never_the_best(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    sums = iter([math.nan, -5.0, math.nan, -4.0])
    monkeypatch.setattr(Score, "sum", property(lambda self: next(sums)))
    assert choose(source, "a", [" b", " c", " d", " e"]).index == 3


# Perplexity


@pytest.mark.parametrize("size", LLAMA_PERPLEXITY)
def test_the_number_of_llama_perplexity(source: Source, size: int) -> None:
    found = perplexity(source, SHEEP, nCtx=size)
    value, error = LLAMA_PERPLEXITY[size]
    assert found.value == pytest.approx(value, rel=1e-3) and found.error == pytest.approx(error, rel=1e-3)


def _by_chunks(model: Model, tokens: list[int], size: int) -> list[float]:
    found = []
    for i in range(len(tokens) // size):
        chunk = [model.vocab.bos, *tokens[i * size + 1 : (i + 1) * size]]
        found += _expected(model, chunk, size // 2 + 1)
    return found


@pytest.mark.parametrize("size", [3, 32, 51])
def test_chunks(plain: Model, source: Source, size: int) -> None:
    tokens = tokenize(plain.vocab, SHEEP[:400])
    log_probs = _by_chunks(plain, tokens, size)
    calls: list[tuple[int, int, Perplexity]] = []
    found = perplexity(source, SHEEP[:400], nCtx=size, progress=lambda *args: calls.append(args))
    assert (found.nTokens, found.nWindows) == (len(log_probs), len(tokens) // size)
    assert found.nTokens == found.nWindows * (size - size // 2 - 1)
    assert found.logProb == pytest.approx(sum(log_probs), abs=1e-2)
    assert found.value == pytest.approx(math.exp(-np.mean(log_probs)), rel=1e-3)
    spread = np.std(log_probs) / math.sqrt(len(log_probs) - 1)
    assert found.error == pytest.approx(found.value * spread, rel=1e-3)
    assert [call[:2] for call in calls] == [(i + 1, found.nWindows) for i in range(found.nWindows)]
    assert calls[-1][2] == found
    assert perplexity(source, tokens, nCtx=size).value == pytest.approx(found.value, rel=1e-3)


@pytest.mark.parametrize(("size", "stride"), [(32, 8), (32, 31), (32, 32), (33, 1), (400, 100), (3, 2)])
def test_a_sliding_window_counts_every_token_once(plain: Model, source: Source, size: int, stride: int) -> None:
    tokens = tokenize(plain.vocab, SHEEP[:120])
    log_probs, end = [], 1
    for start in range(0, len(tokens), stride):  # as Hugging Face's documentation describes it
        stop = min(start + size, len(tokens))
        log_probs += _expected(plain, tokens[start:stop], max(1, end - start))
        end = stop
        if stop == len(tokens):
            break
    found = perplexity(source, SHEEP[:120], nCtx=size, stride=stride)
    assert found.nTokens == len(log_probs)
    if stride < size:
        assert found.nTokens == len(tokens) - 1
    assert found.logProb == pytest.approx(sum(log_probs), abs=2e-2)


def test_progress_may_stop_it(source: Source) -> None:
    def stop(done: int, total: int, so_far: Perplexity) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perplexity(source, SHEEP, nCtx=32, progress=stop)
    gc.collect()
    if isinstance(source, Engine):
        for request in source.requests():
            request.result(30)
    assert perplexity(source, SHEEP[:300], nCtx=32).nWindows > 2


def test_logits_are_never_all_in_memory(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "_ROW_BYTES", 8 * 4 * plain.vocab.nTokens)
    compute, most = Context._compute, [0]

    def counted(ctx: Context, batch: Batch, encode: bool) -> Any:
        most.append(sum(flag != 0 for flag in list(batch._arrays["logits"])[: batch.nTokens]))
        return compute(ctx, batch, encode)

    monkeypatch.setattr(Context, "_compute", counted)
    with Context.initFromModel(plain, exact(nCtx=256, nThreads=1, nThreadsBatch=1)) as ctx:
        assert perplexity(ctx, SHEEP, nCtx=128).value == pytest.approx(LLAMA_PERPLEXITY[128][0], rel=1e-3)
    assert max(most) == 8


# Wrong arguments


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda s: score(s, ""), ValueError, "text"),
        (lambda s: score(s, "", "context"), ValueError, "text.*context"),
        (lambda s: score(s, []), ValueError, "text"),
        (lambda s: score(s, b"a"), TypeError, "text.*bytes.*decode"),
        (lambda s: score(s, 5), TypeError, "text.*int"),
        (lambda s: score(s, [-1]), ValueError, "text.*31999.*-1"),
        (lambda s: score(s, "a", [1]), TypeError, "context.*list"),
        (lambda s: score(s, [5], "a"), TypeError, "context.*str"),
        (lambda s: score(s, [5], [40000]), ValueError, "context.*40000"),
        (lambda s: score(s, "word " * 3000), ContextFullError, "tokens"),
        (lambda s: choose(s, "a", []), ValueError, "continuations"),
        (lambda s: choose(s, "a", "b"), TypeError, "continuations.*str"),
        (lambda s: choose(s, "a", [" b", ""]), ValueError, r"continuations\[1\]"),
        (lambda s: choose(s, "a", [" b"], normalize="char"), ValueError, "normalize.*'byte'.*'char'"),
        (lambda s: perplexity(s, "short"), ValueError, r"text.*512.*got \d"),
        (lambda s: perplexity(s, SHEEP, nCtx=2), ValueError, "nCtx.*3.*got 2"),
        (lambda s: perplexity(s, SHEEP, nCtx=5000), ValueError, "nCtx.*got 5000"),
        (lambda s: perplexity(s, SHEEP, nCtx=64, stride=65), ValueError, "stride.*64.*got 65"),
        (lambda s: perplexity(s, SHEEP, nCtx=64, stride=0), ValueError, "stride.*got 0"),
        (lambda s: perplexity(s, "", nCtx=64, stride=8), ValueError, "text.*got 1"),
        (lambda s: perplexity(s, b"a"), TypeError, "text.*bytes"),
        (lambda s: perplexity(s, SHEEP, nCtx=64, progress=5), TypeError, "progress.*int"),
        (lambda s: score("model.gguf", "a"), TypeError, "source.*str"),
        (lambda s: choose(None, "a", ["b"]), TypeError, "source.*None"),
    ],
)
def test_wrong_arguments(source: Source, call: Callable[[Any], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(source)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("text",), TypeError, "texts.*str"),
        ((5,), TypeError, "texts.*int"),
        ((["a", ""],), ValueError, r"texts\[1\]"),
        ((["a"], ["b", "c"]), ValueError, "context.*2.*1"),
        ((["a"], 5), TypeError, "context.*int"),
    ],
)
def test_wrong_lists_of_texts(plain: Model, arguments: Any, error: type[Exception], says: str) -> None:
    with running(plain) as engine, pytest.raises(error, match=says):
        engine.score(*arguments)


def test_models_that_cannot_score(tmp_path: Path) -> None:
    for write, says in ((tiny_models.write_bert, "decoder"), (tiny_models.write_t5, "encoder")):
        with Model.load(write(tmp_path / "model.gguf")) as model:
            with Context.initFromModel(model, Context.Params(nCtx=64, nThreads=1)) as ctx:
                with pytest.raises(ValueError, match=says):
                    score(ctx, [5, 6], [7])
                with pytest.raises(ValueError, match=says):
                    perplexity(ctx, [5] * 40, nCtx=32)
            with pytest.raises(ValueError, match="decoder"):
                Engine(model)


def test_a_generation_after_a_score_writes_the_same(plain: Model) -> None:
    with Context.initFromModel(plain, exact(nCtx=256, nThreads=1, nThreadsBatch=1)) as ctx:
        first = Generation(ctx, "Once upon", sampler=Sampler.initGreedy(), maxTokens=9).result()
        score(ctx, " a time", "Once upon")
        assert Generation(ctx, "Once upon", sampler=Sampler.initGreedy(), maxTokens=9).result() == first
