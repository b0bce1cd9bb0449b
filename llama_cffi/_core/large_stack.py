"""Calls that need more stack than a thread may have: llama.cpp and std::regex recurse for every character of a text."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

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
_lock = threading.Lock()  # the size of a new thread's stack is a setting of the process


def on_large_stack(call: Callable[[], T], size: int) -> T:
    """Run `call` on a new thread with `size` bytes of stack; return what it returns and raise what it raises.

    Ctrl-C ends the waiting, but not the call: it must not write to what the caller uses then.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="llama_cffi large stack", daemon=True)
    with _lock:
        before = threading.stack_size(-(-(size + _HEADROOM) // 4096) * 4096)  # whole pages
        try:
            thread.start()
        except RuntimeError as error:
            raise NativeMemoryError(
                f"out of memory for a stack of {size + _HEADROOM} bytes: shorten the text"
            ) from error
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
