"""Calls that need more stack than a thread may have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from llama_cffi.errors import NativeMemoryError

T = TypeVar("T")

_BASE = 1 << 20  # bytes for everything around
_lock = threading.Lock()  # the size of a new thread's stack is a setting of the process


def on_large_stack(call: Callable[[], T], size: int) -> T:
    """Make a call on a thread of its own with `size` bytes of stack. What it raises, this raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="llama_cffi large stack")
    with _lock:
        before = threading.stack_size(-(-(size + _BASE) // 4096) * 4096)  # whole pages
        try:
            thread.start()
        except RuntimeError as error:
            raise NativeMemoryError(f"no memory for a stack of {size + _BASE} bytes: shorten the text") from error
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
