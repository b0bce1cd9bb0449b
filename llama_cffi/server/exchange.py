"""One HTTP request at work: it reads the body, owns the engine's requests, sends the answer, and ends when the client
goes away, when its time is over, or when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.types import Message, Receive, Scope, Send

from llama_cffi.server import parameters
from llama_cffi.server.errors import ApiError, of_exception
from llama_cffi.server.parameters import Body
from llama_cffi.server.record import Record

if TYPE_CHECKING:
    from llama_cffi.engine.request import RequestUsage
    from llama_cffi.server.served import ServedModel
    from llama_cffi.server.state import ServerState

B = TypeVar("B", bound=Body)
R = TypeVar("R", bound="Cancellable")
T = TypeVar("T")

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SMALL = 1 << 15  # bytes of a body that the event loop parses itself
_LAST_WORDS = 1.0  # seconds to send an error to a client that may not read


class Cancellable(Protocol):
    """A request of an engine, as far as it matters here."""

    usage: RequestUsage

    def cancel(self) -> None: ...


class Exchange:
    """A request and its answer. Handlers call its methods; what it owns is cancelled and released at its end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.server: ServerState = scope["app"].state.server
        self.record: Record = scope["llama_cffi.record"]
        self._send_part: Send = scope["llama_cffi.send"]  # without what the application wraps around the head
        self.work: asyncio.Task[None] | None = None
        self.failure: ApiError | None = None
        self.gone = False
        self.started = False  # the head of the answer was sent
        self._complete = False
        self._watcher: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._jobs: list[Cancellable] = []
        self._closed = False
        self._places: list[tuple[ServedModel, int]] = []
        self._ignored: list[str] = []

    # The request

    async def body(self, kind: type[B]) -> B:
        """Read and check the body. From then on the client's going away cancels the work."""
        self._require_json()
        try:
            data = await asyncio.wait_for(self._read(), self.server.limits.bodySeconds)
        except asyncio.TimeoutError:
            seconds = self.server.limits.bodySeconds
            raise ApiError(408, f"the body did not arrive in {seconds:g} seconds", code="timeout") from None
        self._watcher = asyncio.ensure_future(self._watch())
        strict = self.server.settings.strict
        if len(data) <= _SMALL:
            found, self._ignored = parameters.read(kind, data, strict)
        else:
            found, self._ignored = await self.in_pool(lambda: parameters.read(kind, data, strict))
        return found

    def _require_json(self) -> None:
        """Refuse other types: a page of a foreign origin can send those without being asked by CORS."""
        for name, value in self.scope["headers"]:
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                text = "compressed bodies are not supported: send it without Content-Encoding"
                raise ApiError(415, text, code="unsupported_media_type")
        for name, value in self.scope["headers"]:
            if name == b"content-type":
                kind = value.split(b";")[0].strip().lower()
                if kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json")):
                    return
                break
        text = "the body must be JSON: send the header Content-Type: application/json"
        raise ApiError(415, text, code="unsupported_media_type")

    async def _read(self) -> bytes:
        limit, parts, size = self.server.limits.maxBody, [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise ApiError(413, f"the body has more than {limit} bytes, the limit of this server", code="too_large")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._complete:  # servers say so after each answer
            return
        self.gone = True
        if self.work is not None:
            self.work.cancel()

    # Work

    def admit(self, served: ServedModel, texts: int = 1) -> None:
        """Reserve places for texts of a model until the end. Raises ApiError if the queue is full."""
        self.server.admission.enter(served, texts)
        self._places.append((served, texts))

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Call `work` on a thread of the pool, so that the event loop goes on."""
        return await self.server.in_pool(work)

    def own(self, job: R) -> R:
        """Cancel a request of the engine at the end, whatever happens. Threads of the pool may call this."""
        with self._lock:
            if not self._closed:
                self._jobs.append(job)
                return job
        job.cancel()
        raise ApiError(499, "the client has gone")

    @property
    def closed(self) -> bool:
        """True if the exchange has ended, so that work for it on another thread is of no use."""
        return self._closed

    def fail(self, error: ApiError) -> None:
        """End the work with an error."""
        self.failure = self.failure or error
        if self.work is not None:
            self.work.cancel()

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.cancel()
            self.record.count(job.usage)
        for served, texts in self._places:
            self.server.admission.leave(served, texts)
        self._places = []
        if self._watcher is not None:
            self._watcher.cancel()

    # The answer

    async def json(self, document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer as JSON."""
        data = encoded(document)
        await self._head(status, b"application/json", {**(headers or {}), "content-length": str(len(data))})
        await self._finish(data)

    async def text(self, text: str, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer as text of a content type."""
        data = text.encode("utf-8", "replace")
        await self._head(200, kind.encode(), {**(headers or {}), "content-length": str(len(data))})
        await self._finish(data)

    async def begin_events(self) -> None:
        """Begin an answer of server-sent events."""
        self.record.stream = True
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        await self._head(200, b"text/event-stream; charset=utf-8", headers)

    def event(self, document: Any, name: str | None = None) -> Awaitable[None]:
        """Send an event. A client that does not read holds up this exchange alone: the engine goes on."""
        return self._part(_event(document, name))

    def text_event(self, frame: TextFrame, text: str) -> Awaitable[None]:
        """Send an event that differs in a text from others."""
        return self._part(frame.event(text))

    def _part(self, data: bytes) -> Awaitable[None]:
        self.record.first_byte()
        self.record.sent += len(data)
        return self._send_part({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self, done: bool = True) -> None:
        """End the events, with OpenAI's mark."""
        await self._finish(b"data: [DONE]\n\n" if done else b"")

    async def _head(self, status: int, kind: bytes, headers: Mapping[str, str]) -> None:
        named = {**headers}
        if self._ignored:
            named["x-ignored-parameters"] = ", ".join(map(_header_word, self._ignored))
        rows = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in named.items()]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *rows]})

    async def _finish(self, data: bytes) -> None:
        self.record.first_byte()
        self._complete = True
        message: Message = {"type": "http.response.body", "body": data, "more_body": False}
        await self._send(message)

    async def send_error(self, error: ApiError) -> None:
        """Send an error: as the answer, or as the last event of one that has begun."""
        self.record.error = error.code or error.kind
        if self._complete or self.gone:
            return
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            if not self.started:
                await asyncio.wait_for(self.json(error.document(), error.status, error.headers), _LAST_WORDS)
            else:
                await asyncio.wait_for(self._error_event(error), _LAST_WORDS)

    async def _error_event(self, error: ApiError) -> None:
        await self.event(error.document(), "error" if self.record.named_events else None)
        await self._finish(b"")


def encoded(document: Any) -> bytes:
    """Return JSON as bytes; characters that UTF-8 cannot hold become "?"."""
    return _JSON.encode(document).encode("utf-8", "replace")


def _event(document: Any, name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + encoded(document) + b"\n\n"


class TextFrame:
    """An event without one text in it. Each text is put into the JSON that was encoded once."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        """`make` returns the document with a text."""
        mark = uuid.uuid4().hex
        self._before, self._after = _event(make(mark)).split(b'"' + mark.encode() + b'"')

    def event(self, text: str) -> bytes:
        """Return the event with a text."""
        return self._before + encode_basestring(text).encode("utf-8", "replace") + self._after


def _header_word(name: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() and c != "," else "?" for c in name)


class Endpoint:
    """An ASGI application for one path: runs a handler, and answers its exceptions."""

    def __init__(self, handle: Callable[[Exchange], Awaitable[None]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        with _registered(exchange):
            work = exchange.work = asyncio.ensure_future(self._handle(exchange))
            seconds = exchange.server.limits.seconds
            try:
                done, _ = await asyncio.wait({work}, timeout=seconds)
                if not done:
                    text = f"the request took more than {seconds:g} seconds, the limit of this server"
                    exchange.fail(ApiError(504, text, code="timeout"))
                    await asyncio.wait({work})
            except asyncio.CancelledError:  # uvicorn ends its tasks
                work.cancel()
                raise
            finally:
                exchange._close()
            await _answer_failure(exchange, work)


@contextlib.contextmanager
def _registered(exchange: Exchange) -> Iterator[None]:
    exchanges = exchange.server.exchanges
    exchanges.add(exchange)
    try:
        yield
    finally:
        exchanges.discard(exchange)


async def _answer_failure(exchange: Exchange, work: asyncio.Task[None]) -> None:
    error: BaseException | None = exchange.failure
    if not work.cancelled():
        raised = work.exception()
        error = error if error is not None and raised is not None else raised
    elif error is None and not exchange.gone:
        error = ApiError(503, "the request was cancelled", code="cancelled")
    if exchange.gone:
        exchange.record.gone = True
    elif error is not None:
        await exchange.send_error(of_exception(error, exchange.record.id))
