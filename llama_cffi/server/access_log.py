"""The access log: one line of JSON for each request, without its text."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from time import perf_counter
from typing import Any

from llama_cffi.server.record import Record

logger = logging.getLogger("llama_cffi.server.access")


def write(record: Record) -> None:
    """Log a request that has ended."""
    if not logger.isEnabledFor(logging.INFO):
        return
    now = perf_counter()
    row: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.time, timezone.utc).isoformat(timespec="milliseconds"),
        "id": record.id,
        "client": record.client,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "bytes": record.sent,
        "ms": round(1000 * (now - record.started), 1),
    }
    if record.first is not None:
        row["first_byte_ms"] = round(1000 * (record.first - record.started), 1)
    if record.model is not None:
        row["model"] = record.model
        row["stream"] = record.stream
        row["prompt_tokens"] = record.prompt_tokens
        row["cached_tokens"] = record.cached_tokens
        row["generated_tokens"] = record.generated_tokens
    if record.error is not None:
        row["error"] = record.error
    if record.gone:
        row["gone"] = True
    logger.info("%s", json.dumps(row))


def to_stderr() -> None:
    """Send the access log to stderr, a line of JSON for each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
