"""Serve models over HTTP by OpenAI's protocol: `create_app` makes an ASGI application, `serve` runs it.

Needs the extra `server`: starlette, uvicorn and pydantic.
"""

from __future__ import annotations

try:
    import pydantic  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the server needs starlette, uvicorn and pydantic ({error}): pip install starlette uvicorn pydantic httptools"
    ) from error

from llama_cffi.server.app import create_app
from llama_cffi.server.running import is_loopback, log_to_stderr, require_address, serve
from llama_cffi.server.served import ServedModel
from llama_cffi.server.settings import Limits

__all__ = ["Limits", "ServedModel", "create_app", "is_loopback", "log_to_stderr", "require_address", "serve"]
