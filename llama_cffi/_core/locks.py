"""Two reader-writer locks (`_shim/gate.cpp`), which protect what ggml and llama.cpp do not.

`reading` and `writing`: many computations, or one adapter that is loaded or freed.
`listing` and `registering`: many readers of ggml's list of backends and devices (a model load is one), or one change.
"""

from __future__ import annotations

from llama_cffi._core.ffi import lib
from llama_cffi._core.ownership import hold
from llama_cffi.errors import BusyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import NoReturn


def reading() -> AbstractContextManager[None]:
    """Hold while a call computes or a context is created: adapters are not loaded or freed meanwhile."""
    return hold(lib.shim_begin_reading, lib.shim_end_reading)


def writing() -> AbstractContextManager[None]:
    """Hold while an adapter is loaded: nothing computes meanwhile. Raises BusyError inside a callback."""
    return hold(lib.shim_begin_writing, lib.shim_end_writing, _refuse_adapter)


def _refuse_adapter() -> NoReturn:
    raise BusyError("adapters cannot be loaded or freed inside a callback of a computation: do that before or after it")


def listing() -> AbstractContextManager[None]:
    """Hold while ggml's list of backends and devices is read: nothing is added meanwhile."""
    return hold(lib.shim_begin_listing, lib.shim_end_listing)


def registering() -> AbstractContextManager[None]:
    """Hold while a backend is added. Waits for the readers. Raises BusyError if this thread is one of them."""
    return hold(lib.shim_begin_registering, lib.shim_end_registering, _refuse_backend)


def _refuse_backend() -> NoReturn:
    raise BusyError(
        "a backend cannot be loaded inside a callback of a model that is loading: load it before or after that"
    )
