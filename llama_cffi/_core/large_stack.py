"""Calls that need more stack than a thread may have: llama.cpp and std::regex recurse for every character of a text."""

from __future__ import annotations

import os
from collections.abc import Callable

from llama_cffi._core.ownership import large_stack
from llama_cffi.errors import NativeMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")


# Instrumented builds have larger frames: tests/sanitizers sets this.
_SCALE = int(os.environ.get("LLAMA_CFFI_STACK_SCALE", "1"))

# Bytes of stack for each byte of text.
TOKENIZER_STACK_PER_BYTE = 1024 * _SCALE  # std::regex in tokenizers: measured 895 for superbpe, 325 for all others
TRIGGER_STACK_PER_BYTE = 1024 * _SCALE  # std::regex in the search for a grammar's trigger: measured 607
PATTERN_STACK = (1 << 20) * _SCALE  # bytes: std::regex parses a pattern

TRIGGER_ANY_STACK = 256 // _SCALE  # bytes of text that can be searched on a stack of any size

_HEADROOM = 1 << 20  # bytes for the frames below and above the call


def on_large_stack(call: Callable[[], T], size: int, leave: bool = False) -> T:
    """Run `call` on a new thread with `size` bytes of stack; return what it returns and raise what it raises.

    A signal handler that raises (Ctrl-C) is heard when `call` has ended, which uses what the caller has acquired.
    If it does not, pass `leave`: then the exception ends the waiting, but not the call.
    """
    try:
        return large_stack(call, -(-(size + _HEADROOM) // 4096) * 4096, leave)  # whole pages
    except MemoryError as error:
        if error.args:
            raise  # of `call`
        raise NativeMemoryError(f"out of memory for a stack of {size + _HEADROOM} bytes: shorten the text") from error
