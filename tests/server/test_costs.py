"""What a token of a streamed answer costs, in counts: parses, encodings of JSON, wakeups of the event loop."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llama_cffi import AnswerFormat, ChatTemplate, Engine, Model
from llama_cffi.engine import scheduler
from llama_cffi.server import ServedModel, exchange
from tests.server.serving import ASK, Running, running

TOKENS, CLIENTS = 48, 4
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CONSTANT = 12  # events and steps of a request that do not come with each token


@pytest.fixture(scope="module")
def engine(exact_model: Model) -> Iterator[Engine]:
    with Engine(exact_model, nCtx=2048, nSeqMax=CLIENTS, nThreads=1, keepPrefixes=False) as made:
        yield made


@pytest.fixture(scope="module")
def plain(engine: Engine) -> Iterator[Running]:
    """A server whose template has neither thoughts nor tools."""
    with running({"tiny": ServedModel(engine, template=ChatTemplate(engine.model, "chatml"))}) as found:
        yield found


def _body(path: str, number: int = 0) -> dict[str, Any]:
    given = {"messages": ASK} if path == CHAT else {"prompt": "What is it like in Bern?"}
    return {**given, "max_tokens": TOKENS, "seed": number, "stream_options": {"include_usage": True}}


def _count(monkeypatch: pytest.MonkeyPatch, counts: Counter[str], where: Any, name: str) -> None:
    call = getattr(where, name)

    def counted(*args: Any) -> Any:
        counts[name] += 1
        return call(*args)

    monkeypatch.setattr(where, name, counted)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_token_is_neither_parsed_nor_encoded_with_its_document(
    plain: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.events(path, **_body(path))
    counts: Counter[str] = Counter()
    _count(monkeypatch, counts, AnswerFormat, "pieces")
    _count(monkeypatch, counts, exchange, "encoded")
    events = plain.events(path, **_body(path))
    assert events[-2]["usage"]["completion_tokens"] > CONSTANT < len(events)
    marks = sum(mark in json.dumps(events) for mark in (">", "]"))
    assert counts["pieces"] <= CONSTANT + marks and counts["encoded"] <= CONSTANT


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_step_wakes_the_event_loop_once_for_all_clients(
    plain: Running, engine: Engine, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()
    _count(monkeypatch, counts, scheduler, "wake_up")
    before = engine.totals
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(plain.events, path, **_body(path, number)) for number in range(CLIENTS)]
        tokens = sum(found.result()[-2]["usage"]["completion_tokens"] for found in asked)
    after = engine.totals
    assert after.generatedTokens - before.generatedTokens == tokens > CLIENTS * CONSTANT
    assert counts["wake_up"] <= after.steps - before.steps + CONSTANT


def test_a_text_in_a_frame_is_the_encoded_document() -> None:
    frame = exchange.TextFrame(lambda text: {"a": [{"text": text, "b": None}], "c": "text"})
    for text in ("", "a", 'quotes " and \\', "\n\t\x00\u2028", "\u00e9\U0001f600", "half \ud83d", "{}"):
        whole = exchange.encoded({"a": [{"text": text, "b": None}], "c": "text"})
        assert frame.event(text) == b"data: " + whole + b"\n\n"
