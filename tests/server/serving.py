"""A server on loopback in a thread of the tests' process, and what tests ask it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from llama_cffi.server import ServedModel, create_app
from llama_cffi.server.running import GracefulServer, _listen
from llama_cffi.server.state import ServerState
from tests.chat.test_answers import TEMPLATE, WEATHER

SECONDS = 60
TOOL = {"type": "function", "function": WEATHER}
ASK = [{"role": "user", "content": "What is it like in Bern?"}]
assert TEMPLATE


class Running:
    """A server that runs."""

    def __init__(self, url: str, state: ServerState, server: GracefulServer) -> None:
        self.url, self.state, self.server = url, state, server
        self.client = httpx.Client(base_url=url, timeout=SECONDS)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def ok(self, path: str, **body: Any) -> Any:
        answer = self.post(path, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def error(self, status: int, path: str, **body: Any) -> Any:
        answer = self.post(path, **body)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]

    def events(self, path: str, **body: Any) -> list[Any]:
        """The events of a stream, with "[DONE]" as it is."""
        answer = self.post(path, stream=True, **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def send(self, path: str, body: Any, **headers: str) -> socket.socket:
        """Send a request on a socket of its own, and read nothing."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        rows = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        connection = self.connect()
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        return connection


@contextmanager
def running(served: Any, **options: Any) -> Iterator[Running]:
    """Serve models until the block ends."""
    app = create_app(served, **options)
    listener = _listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="none", lifespan="on", timeout_graceful_shutdown=2
    )
    server = GracefulServer(config, app, 5)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_for(lambda: server.started)
        found = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.server, server)
        yield found
        found.client.close()
    finally:
        server._state.drain()
        thread.join(SECONDS)
        listener.close()
        assert not thread.is_alive()


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def is_idle(server: Running) -> bool:
    """True if nothing is open, in the server and in its engines."""
    loads = [part.engine.load for part in server.state.models.by_name.values() if part.engine is not None]
    opened = [part.open for part in server.state.models.by_name.values()]
    return not server.state.exchanges and not any(opened) and not any(load.running + load.waiting for load in loads)


def part_of(server: Running, name: str) -> ServedModel:
    return server.state.models.by_name[name]
