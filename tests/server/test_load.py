"""The server under load and abuse: clients that go away, that do not read, that are too many; and its end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from llama_cffi import ChatTemplate, Engine, Model
from llama_cffi.server import Limits, ServedModel
from tests.chat.test_answers import TEMPLATE
from tests.server.serving import ASK, Running, is_idle, part_of, running, wait_for
from tests.server.storm import storm

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
LONG = {"messages": ASK, "max_tokens": 900, "stream": True, "temperature": 0}


@contextmanager
def small(tiny: Model, **limits: Any) -> Iterator[Running]:
    """A server with two sequences."""
    with Engine(tiny, nCtx=2048, nSeqMax=2, nThreads=1) as engine:
        with running(
            {"tiny": ServedModel(engine, template=ChatTemplate(tiny, TEMPLATE))}, limits=Limits(**limits)
        ) as made:
            yield made


def _load(server: Running) -> tuple[int, int]:
    engine = part_of(server, "tiny").engine
    assert engine is not None
    return engine.load.running, engine.load.waiting


def _read_some(connection: socket.socket, size: int = 200) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(4096)
        assert part
        data += part
    return data


@pytest.mark.parametrize("stage", ["nothing", "head", "half the body", "body", "first bytes", "stream"])
def test_a_client_goes_away(server: Running, stage: str) -> None:
    data = json.dumps(LONG).encode()
    with server.connect() as connection:
        if stage == "nothing":
            pass
        elif stage == "head":
            connection.sendall(HEAD[:60])
        elif stage == "half the body":
            connection.sendall(HEAD + b"%d\r\n\r\n" % len(data) + data[:40])
            wait_for(lambda: server.state.exchanges)
        else:
            connection.sendall(HEAD + b"%d\r\n\r\n" % len(data) + data)
            if stage == "body":
                wait_for(lambda: _load(server)[0])
            elif stage == "first bytes":
                _read_some(connection, 10)
            else:
                _read_some(connection, 3000)
    wait_for(lambda: is_idle(server), 5)


def test_a_client_that_goes_away_frees_its_place_within_a_step(server: Running) -> None:
    engine = part_of(server, "tiny").engine
    assert engine is not None
    connection = server.send(CHAT, {**LONG, "stream": False, "max_tokens": 3000})
    wait_for(lambda: _load(server)[0] == 1)
    time.sleep(0.1)
    connection.close()
    before = time.monotonic()
    wait_for(lambda: _load(server)[0] == 0, 5)
    assert time.monotonic() - before < 1.5
    server.ok(TEXT, prompt="a", max_tokens=1)


def test_slow_readers_hold_up_nobody(tiny: Model) -> None:
    with small(tiny) as server, ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(server.connect())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            data = json.dumps({**LONG, "max_tokens": 30}).encode()
            connection.sendall(HEAD + b"%d\r\n\r\n" % len(data) + data)
        wait_for(lambda: sum(_load(server)) > 0)
        assert server.client.get("/health").json() == {"status": "ok"}
        # The engine writes all texts, although nobody reads them, and then the next one.
        found = server.ok(CHAT, messages=ASK, max_tokens=4)
        assert found["usage"]["completion_tokens"] == 4
        wait_for(lambda: _load(server) == (0, 0))
    assert not server.state.exchanges


def test_a_full_queue_is_a_429(tiny: Model) -> None:
    with small(tiny, maxWaiting=1) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(server.send(CHAT, LONG))
        wait_for(lambda: part_of(server, "tiny").open == 3)
        wait_for(lambda: sum(_load(server)) == 3)
        rows = server.client.get("/slots").json()[0]["requests"]
        assert len(rows) == 3 and {"waiting"} < {row["state"] for row in rows} and rows[0]["seconds"] > 0
        answer = server.post(CHAT, messages=ASK)
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert server.post(CHAT, messages=ASK, n=4).status_code == 400
        stack.close()
        wait_for(lambda: is_idle(server))
        assert server.ok(CHAT, messages=ASK, max_tokens=1)


def test_requests_have_a_time_limit(tiny: Model) -> None:
    with small(tiny, seconds=0.4, bodySeconds=0.2) as server:
        engine = part_of(server, "tiny").engine
        assert engine is not None
        assert server.error(504, CHAT, messages=ASK, max_tokens=1900)["code"] == "timeout"
        events = server.events(CHAT, messages=ASK, max_tokens=1900)
        assert events[-1]["error"]["code"] == "timeout" and len(events) > 2
        with server.connect() as connection:
            connection.sendall(HEAD + b"100\r\n\r\n{")
            assert b" 408 " in _read_some(connection, 20)
        wait_for(lambda: is_idle(server), 5)


def test_an_engine_that_closes_is_a_503(tiny: Model) -> None:
    with small(tiny) as server:
        engine = part_of(server, "tiny").engine
        assert engine is not None
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(server.post, CHAT, messages=ASK, max_tokens=900)
            stream = pool.submit(server.events, CHAT, messages=ASK, max_tokens=900)
            wait_for(lambda: _load(server)[0] == 2)
            engine.close()
            assert whole.result().status_code == 503 and whole.result().json()["error"]["code"] == "model_closed"
            assert stream.result()[-1]["error"]["code"] == "model_closed"
        assert server.error(503, CHAT, messages=ASK)["code"] == "model_closed"


def test_the_end_lets_requests_finish_and_refuses_new_ones(tiny: Model) -> None:
    with small(tiny) as server, ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url) as other:
        assert other.get("/health").status_code == 200
        running_one = pool.submit(server.events, CHAT, messages=ASK, max_tokens=150, temperature=0)
        wait_for(lambda: _load(server)[0] == 1)
        server.server.handle_exit(15, None)
        refused = other.post(CHAT, json={"messages": ASK})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
        assert "retry-after" in refused.headers and other.get("/health").status_code == 503
        events = running_one.result()
        assert events[-1] == "[DONE]" and events[-2]["choices"][0]["finish_reason"] == "length"


def test_the_end_has_a_deadline(tiny: Model) -> None:
    with small(tiny) as server, ThreadPoolExecutor(1) as pool:
        server.server._seconds = 0.2
        running_one = pool.submit(server.events, CHAT, messages=ASK, max_tokens=1900)
        wait_for(lambda: _load(server)[0] == 1)
        server.server.handle_exit(15, None)
        assert running_one.result()[-1]["error"]["code"] == "shutting_down"


def test_garbage_on_the_wire(server: Running) -> None:
    for data in (b"\x16\x03\x01\x02\x00" * 50, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"\x00" * 5000):
        with server.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert server.client.get("/health").status_code == 200


def test_many_short_requests(tiny: Model) -> None:
    """A slice of `make serve-storm`."""
    with Engine(tiny, nCtx=4096, nSeqMax=8, nThreads=1) as engine:
        with running({"tiny": engine}, limits=Limits(maxWaiting=500)) as server:
            found = storm(server, requests=300, clients=8, cancels=60)
            assert found.answered == 300 and found.wrong == 0 and found.cancelled == 60
            wait_for(lambda: is_idle(server))
            assert threading.active_count() < 40
