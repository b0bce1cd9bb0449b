"""Who gets in: places in the queue, API keys, hosts, and the size of bodies."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.types import Scope

from llama_cffi.server.errors import ApiError, too_busy

if TYPE_CHECKING:
    from llama_cffi.server.metrics import Metrics
    from llama_cffi.server.served import ServedModel
    from llama_cffi.server.settings import Limits, Settings

# Open without a key: they tell nothing about models and texts.
OPEN_PATHS = frozenset({"/", "/health", "/v1/health"})
_LONGEST_WAIT = 60


class Admission:
    """Counts the texts of each model and the open requests. Only the event loop uses it."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self.open = 0

    def enter(self, served: ServedModel, texts: int) -> None:
        """Reserve places for texts of a model. Raises ApiError (429) if there are none."""
        most = served.slots + self._limits.maxWaiting
        if texts > most:
            text = f"a request for {texts} texts is too large for this server, which holds {most} at once"
            raise ApiError(400, text, code="too_many_texts")
        if self.open >= self._limits.maxRequests:
            raise too_busy(f"{self.open} requests are open, the limit of this server: try again later", 1)
        if served.open + texts > most:
            wait = self._metrics.typical_seconds() * max(served.open / served.slots, 1)
            text = f"{served.open} texts run or wait, the limit of this server: try again later"
            raise too_busy(text, max(1, min(_LONGEST_WAIT, round(wait))))
        served.open += texts
        self.open += 1

    def leave(self, served: ServedModel, texts: int) -> None:
        """Give the places back."""
        served.open -= texts
        self.open -= 1


def check(scope: Scope, path: str, settings: Settings) -> None:
    """Check the head of a request: its key, its host, and the length of its body. Raises ApiError.

    `path` is the path within the application.
    """
    headers = {name: value for name, value in scope["headers"]}
    if settings.allowed_hosts and _host(headers.get(b"host", b"")) not in settings.allowed_hosts:
        text = "this server answers only to its own names: start it with --allow-host NAME to add one"
        raise ApiError(403, text, code="host_not_allowed")
    if settings.api_keys and path not in OPEN_PATHS and not _has_key(headers, settings.api_keys):
        text = "a valid API key is required: send the header Authorization: Bearer KEY"
        raise ApiError(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > settings.limits.maxBody:
        text = f"the body has more than {settings.limits.maxBody} bytes, the limit of this server"
        raise ApiError(413, text, code="too_large")


def _has_key(headers: dict[bytes, bytes], keys: Iterable[bytes]) -> bool:
    """Compare with every key in constant time, so that the time tells nothing about them."""
    kind, _, given = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"bearer":
        given = headers.get(b"x-api-key", b"")
    found = False
    for key in keys:
        found |= hmac.compare_digest(given.strip(), key)
    return found


def _host(value: bytes) -> str:
    """Return the name in a Host header, without its port."""
    text = value.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]
