"""The ASGI application: its routes, and what stands before them: keys, hosts, sizes, the access log."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_cffi._core.checks import expected
from llama_cffi.engine.engine import Engine
from llama_cffi.server import access_log, admission, chat, completions, native, responses, vectors
from llama_cffi.server.errors import ApiError, of_exception, shutting_down
from llama_cffi.server.exchange import Endpoint, Exchange, encoded
from llama_cffi.server.record import Record
from llama_cffi.server.served import Models, ServedModel
from llama_cffi.server.settings import Limits, Settings
from llama_cffi.server.state import ServerState

PAGE = Path(__file__).with_name("page.html")
# The page has its scripts and styles in itself, and talks to this server alone.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_WHILE_DRAINING = frozenset({"/health", "/v1/health", "/metrics"})

_POST = {
    "/v1/chat/completions": chat.completions,
    "/v1/completions": completions.completions,
    "/v1/responses": responses.responses,
    "/v1/embeddings": vectors.embeddings,
    "/v1/rerank": vectors.rerank,
    "/rerank": vectors.rerank,
    "/tokenize": native.tokens,
    "/detokenize": native.text,
    "/apply-template": native.template,
}
_GET = {
    "/health": native.health,
    "/v1/health": native.health,
    "/v1/models": native.models,
    "/models": native.models,
    "/v1/models/{name:path}": native.model,
    "/slots": native.slots,
    "/metrics": native.metrics,
}


def create_app(
    served: Engine | ServedModel | Mapping[str, Engine | ServedModel],
    *,
    apiKeys: Sequence[str] = (),
    limits: Limits | None = None,
    strict: bool = False,
    page: bool = True,
    corsOrigins: Sequence[str] = (),
    allowedHosts: Collection[str] = (),
) -> Starlette:
    """Make an ASGI application that answers by OpenAI's protocol.

    `served` is an engine, a `ServedModel`, or a mapping of names to them. You close them, after the application has
    ended. `apiKeys` are the keys of which a request must have one; without any, every request is answered. `strict`
    refuses requests with unknown parameters, which are otherwise ignored and named in `X-Ignored-Parameters`.
    `page` False leaves out the page for people at `/`. `corsOrigins` are the origins whose pages may call the server
    from a browser. `allowedHosts` are the names in `Host` headers that are answered; empty means all.

    Raises TypeError and ValueError for wrong arguments.
    """
    if isinstance(apiKeys, str) or not all(isinstance(key, str) for key in apiKeys):
        raise expected("a list of keys", apiKeys, "write [key] for one", "apiKeys")
    if any(not key.strip() for key in apiKeys):
        raise ValueError("apiKeys: a key must not be empty")
    settings = Settings(
        limits=limits or Limits(),
        api_keys=tuple(key.strip().encode("utf-8", "surrogateescape") for key in apiKeys),  # as bytes of argv
        strict=strict,
        page=page,
        allowed_hosts=frozenset(host.lower() for host in allowedHosts),
    )
    state = ServerState(Models(served), settings)
    routes = [Route(path, Endpoint(handle), methods=["POST"]) for path, handle in _POST.items()]
    routes += [Route(path, Endpoint(handle), methods=["GET"]) for path, handle in _GET.items()]
    if page and PAGE.exists():
        routes.append(Route("/", Endpoint(_page), methods=["GET"]))
    middleware = [Middleware(Gate, state=state)]
    if corsOrigins:
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=list(corsOrigins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-API-Key"],
                expose_headers=["X-Request-Id", "X-Ignored-Parameters", "Retry-After"],
            ),
        )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await state.stop(0)
        state.close()

    handlers = {HTTPException: _refused}
    app = Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.router.default = _not_found
    app.state.server = state
    return app


async def _page(exchange: Exchange) -> None:
    """Send the page for people."""
    text = await exchange.in_pool(lambda: PAGE.read_text(encoding="utf-8"))
    await exchange.text(text, "text/html; charset=utf-8", _PAGE_HEADERS)


async def _refused(request: Request, error: Exception) -> NoReturn:
    """Answer what Starlette refuses, such as a wrong method, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    text = f"{request.method} is not allowed here" if error.status_code == 405 else error.detail
    raise ApiError(error.status_code, text, code="method_not_allowed", headers=error.headers)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1000})
        return
    path = scope["path"]
    raise ApiError(404, f"there is no path {path[:100]!r}: see /v1/models and the documentation", code="not_found")


class Gate:
    """Checks the head of each request, answers what no endpoint answers, and logs and counts the outcome."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # of a mount in another application
        record = Record(scope["method"], scope["path"], client[0] if client else "", _route(path))
        scope["llama_cffi.record"] = record
        scope["llama_cffi.send"] = send

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            else:
                record.sent += len(message.get("body", b""))
            await send(message)

        try:
            try:
                if self._state.draining and path not in _WHILE_DRAINING:
                    raise shutting_down()
                admission.check(scope, path, self._state.settings)
                await self._app(scope, receive, noted)
            except Exception as error:
                await _answer(of_exception(error, record.id), record, noted)
        finally:
            if not record.status:
                record.status, record.gone = 499, True
            self._state.metrics.add(record)
            access_log.write(record)


def _route(path: str) -> str:
    """Return the path for metrics, of which there must not be too many."""
    if path in _POST or path in _GET or path == "/":
        return path
    return "/v1/models/" if path.startswith("/v1/models/") else "other"


async def _answer(error: ApiError, record: Record, send: Send) -> None:
    record.error = error.code
    if record.status:  # an answer has begun
        return
    data = encoded(error.document())
    headers = {**error.headers, "content-type": "application/json", "content-length": str(len(data))}
    rows = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": rows})
    await send({"type": "http.response.body", "body": data})
