"""Errors of the server, in the form of OpenAI's protocol, and how exceptions become them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llama_cffi import errors

logger = logging.getLogger("llama_cffi.server")

_FIELD_TYPES = (dict, list)


class ApiError(Exception):
    """An error to answer a request with. `param` is the field that is wrong, as a path: `messages[0].content`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or _kind_of(status)
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def _kind_of(status: int) -> str:
    if status in (401, 403):
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def unsupported(name: str, why: str) -> ApiError:
    """Return the error for a parameter that is known and that this server does not support."""
    return ApiError(400, f"{name} is not supported: {why}", param=name, code="unsupported_parameter")


def too_busy(message: str, seconds: int) -> ApiError:
    """Return the error for a full queue."""
    return ApiError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})


def shutting_down() -> ApiError:
    """Return the error for requests that come after the server was told to stop."""
    text = "the server is shutting down: send the request again, to another server or later"
    return ApiError(503, text, code="shutting_down", headers={"Retry-After": "5"})


def of_submission(error: Exception, param: str) -> Exception:
    """Return the error for an exception that was raised while a request was submitted: a wrong argument is a 400."""
    if isinstance(error, (ApiError, errors.ClosedError, errors.BusyError)):
        return error
    if isinstance(error, errors.ContextFullError):
        return ApiError(400, str(error), param=param, code="context_length_exceeded")
    if isinstance(error, errors.GrammarError):
        return ApiError(400, str(error), param="grammar", code="invalid_grammar")
    if isinstance(error, errors.UnavailableError):
        return ApiError(400, str(error), code="unsupported_parameter")
    if isinstance(error, (ValueError, TypeError)) and not isinstance(error, errors.NativeError):
        text = str(error)
        # A schema or a grammar may come from several fields; other wrong values than the text are found earlier.
        return ApiError(400, text, param=None if "schema" in text or "grammar" in text else param, code="invalid_value")
    return error


def of_exception(error: BaseException, identity: str) -> ApiError:
    """Return the error that answers a request for an exception. What is not the client's fault is logged by its id."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, errors.QueueFullError):
        return too_busy(str(error), 1)
    if isinstance(error, errors.ContextFullError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, errors.ClosedError):
        return ApiError(503, f"the model was closed: {error}", code="model_closed")
    if isinstance(error, errors.NativeMemoryError):
        logger.error("%s: %s", identity, error)
        return ApiError(503, f"the server has not enough memory for this request (id {identity})", code="out_of_memory")
    logger.error("request %s failed", identity, exc_info=error)
    text = f"the request failed in the server, whose log has the reason under the id {identity}"
    return ApiError(500, text, code="internal_error")


def of_validation(found: Sequence[Mapping[str, Any]], document: Any) -> ApiError:
    """Return the error for what pydantic says about a request's body."""
    # Where several types are allowed, each has errors: the type that was meant has the deepest one, or the fewest.
    counts = Counter(error["loc"][:2] for error in found)
    named = [(_path(error["loc"], document), error) for error in found]
    param, first = max(named, key=lambda pair: (len(pair[0]), -counts[pair[1]["loc"][:2]]))
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        message, code = "this field is required", "missing_required_parameter"
    else:
        code = "invalid_value"
    return ApiError(400, f"{param}: {message}" if param else message, param=param or None, code=code)


def _path(location: Sequence[str | int], document: Any) -> str:
    """Return the field of an error: pydantic's location without the names of the types that it tried."""
    path, here = "", document
    for position, part in enumerate(location):
        if isinstance(here, list) and isinstance(part, int) and part < len(here):
            path, here = f"{path}[{part}]", here[part]
        elif isinstance(here, dict) and (part in here or position == len(location) - 1):
            path, here = f"{path}.{part}" if path else str(part), here.get(part)
        elif not isinstance(here, _FIELD_TYPES):
            break
    return path
