"""Failures of llama.cpp's RPC client, which it knows as assertions: here they are errors that say what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

_HINT = "python -m llama_cffi rpc-worker"


class _Failure(NamedTuple):
    """What ggml-rpc.cpp says, what that means, and what helps. `{}` is the endpoint."""

    pattern: re.Pattern[str]
    reason: str
    advice: str


_FAILURES = (
    _Failure(
        re.compile(r"Remote RPC server (?:(\S+:\d+) )?crashed"),
        "the worker at {} ended, or the connection to it was lost",
        f"what it held is gone. Close the contexts and models that use it, start it again (`{_HINT}`), and load anew",
    ),
    _Failure(
        re.compile(r"Failed to connect to (\S+)"),
        "there is no worker at {} any more",
        f"start it again (`{_HINT}`), or load with devices= without its devices",
    ),
    _Failure(
        re.compile(r"RPC handshake failed for (\S+)"),
        "the worker at {} speaks another version of the RPC protocol",
        "install the same llama_cffi on both machines",
    ),
    _Failure(
        re.compile(r"An RPC connection belongs to the process that this one was forked from"),
        "the connection to the worker belongs to the process that this one was forked from",
        "load models after the fork, or start processes by multiprocessing's 'spawn' method",
    ),
)


def remote_failure(message: str) -> tuple[str, str] | None:
    """What an assertion of ggml-rpc.cpp means and what helps, where it is no mistake in a program; else None."""
    for failure in _FAILURES:
        if match := failure.pattern.search(message):
            return failure.reason.format(*match.groups("the other end")), failure.advice
    return None
