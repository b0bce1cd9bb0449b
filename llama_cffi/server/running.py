"""Running the application with uvicorn: sockets, TLS, signals, and an end that lets open requests finish."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from llama_cffi.engine.engine import Engine
from llama_cffi.server import access_log
from llama_cffi.server.app import create_app
from llama_cffi.server.served import ServedModel
from llama_cffi.server.settings import Limits
from llama_cffi.server.state import ServerState

logger = logging.getLogger("llama_cffi.server")

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_UNREAD_MS = 60_000  # after which a connection is closed whose client reads nothing
_BACKLOG = 512
_LAST_SECONDS = 5  # for connections to close


def is_loopback(host: str) -> bool:
    """Return True if a server on this address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(
    served: Engine | ServedModel | Mapping[str, Engine | ServedModel],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    apiKeys: Sequence[str] = (),
    allowedHosts: Collection[str] = (),
    limits: Limits | None = None,
    strict: bool = False,
    page: bool = True,
    corsOrigins: Sequence[str] = (),
    tlsCertificate: str | None = None,
    tlsKey: str | None = None,
    tlsKeyPassword: str | None = None,
    shutdownSeconds: float = 30.0,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve models until SIGTERM or Ctrl-C. `create_app` explains the parameters that both have.

    On the first signal new requests get 503, and open ones have `shutdownSeconds` to finish; a second one ends them at
    once. `ready` is called with the server's URL once it listens; `port` 0 takes a free one. Requests whose `Host`
    header is not a name of this machine or in `allowedHosts` are refused if the address is a loopback address and there
    are no `apiKeys`: pages of strangers could reach the server by DNS otherwise.

    Raises ValueError for an address that others can reach without `apiKeys`, and OSError if the address is in use.
    """
    local = is_loopback(host)
    if not local and not apiKeys:
        raise ValueError(
            f"other machines can reach {host}, so an API key is required: pass apiKeys (--api-key, or the environment "
            "variable LLAMA_CFFI_API_KEY), or listen at 127.0.0.1"
        )
    if local and not apiKeys:
        allowedHosts = [*_LOOPBACK_NAMES, host.lower(), *allowedHosts]
    app = create_app(
        served,
        apiKeys=apiKeys,
        limits=limits,
        strict=strict,
        page=page,
        corsOrigins=corsOrigins,
        allowedHosts=allowedHosts,
    )
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
        ssl_certfile=tlsCertificate,
        ssl_keyfile=tlsKey,
        ssl_keyfile_password=tlsKeyPassword,
        ws="none",
        lifespan="on",
    )
    try:
        server = GracefulServer(config, app, shutdownSeconds)
        if ready is not None:
            name = f"[{host}]" if ":" in host else host
            url = f"{'https' if tlsCertificate else 'http'}://{name}:{listener.getsockname()[1]}"
            server.when_ready = lambda: ready(url)
        server.run(sockets=[listener])
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket. Accepted connections inherit its options. Raises OSError that names the address."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        return _bound(socket.socket(family, kind, protocol), address)
    except OSError as error:
        hint = ": choose another port, or 0 for a free one" if error.errno == errno.EADDRINUSE else ""
        text = f"cannot listen at {host} port {port}: {error.strerror}{hint}"
        raise type(error)(error.errno, text) from error


def require_address(host: str, port: int) -> None:
    """Raise OSError if a server could not listen at an address."""
    _listen(host, port).close()


def _bound(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class GracefulServer(uvicorn.Server):
    """uvicorn's server, which goes on until open requests have ended, and answers new ones with 503 meanwhile."""

    def __init__(self, config: uvicorn.Config, app: Starlette, seconds: float) -> None:
        super().__init__(config)
        self._state: ServerState = app.state.server
        self._seconds = seconds
        self._stopping: asyncio.Task[None] | None = None
        self.when_ready: Callable[[], None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end at the first signal; end at once at the second."""
        if self._state.draining:
            self.should_exit = self.force_exit = True
        self._state.drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell so."""
        await super().startup(sockets)
        if self.started and self.when_ready is not None:
            self.when_ready()

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether a signal came, and whether the last request has ended."""
        if self._state.draining and self._stopping is None:
            logger.info("shutting down: %d requests are open", len(self._state.exchanges))
            self._stopping = asyncio.ensure_future(self._state.stop(self._seconds))
        if self._stopping is not None and self._stopping.done():
            self.should_exit = True
        return await super().on_tick(counter)


def log_to_stderr() -> None:
    """Send the access log and the server's errors to stderr."""
    access_log.to_stderr()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for name, level in (("llama_cffi.server", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logging.getLogger(name).handlers[:] = [handler]  # also if this is called again
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = False
