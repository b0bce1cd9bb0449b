"""The gate between computing and loading or freeing adapters; see `_shim/gate.hpp`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llama_cffi._core.ffi import lib
from llama_cffi.errors import BusyError


@contextmanager
def reading() -> Iterator[None]:
    """While a call computes, or makes a context: no adapter is loaded or freed."""
    lib.shim_begin_reading()
    try:
        yield
    finally:
        lib.shim_end_reading()


@contextmanager
def writing() -> Iterator[None]:
    """While an adapter is loaded or freed: nothing computes."""
    if not lib.shim_begin_writing():
        raise BusyError("adapters cannot be loaded or freed inside a callback of a computation: do it before or after")
    try:
        yield
    finally:
        lib.shim_end_writing()
