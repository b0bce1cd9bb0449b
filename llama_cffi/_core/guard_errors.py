"""Errors of guarded calls: which Python exception a failed call into llama.cpp raises.

The extension catches the failure and calls `raise_guarded`. When an RPC worker is lost, llama.cpp fails an assertion;
that becomes an RpcError with the next step.
"""

from __future__ import annotations

import weakref

from llama_cffi import errors
from llama_cffi._core.compat import raise_unavailable
from llama_cffi._core.ffi import lib
from llama_cffi._core.native_log import native_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Protocol

    from llama_cffi._core.ownership import Lock

    class Suspect(Protocol):
        """A handle that a failed call may have left half-changed."""

        _busy: Lock

        def _invalidate(self, why: str) -> None: ...
        def _allow_only_close(self, why: str) -> None: ...


# Address of a C object -> its handle. In the Python callbacks of a WeakValueDictionary, Ctrl-C would be lost.
handles_by_address: dict[int, weakref.ref[Suspect]] = {}


def find_handle(address: int) -> Suspect | None:
    """Return the handle of a C object."""
    reference = handles_by_address.get(address)
    return None if reference is None else reference()


# Called with the message of each assertion that fails: `Ggml.setAbortCallback`.
on_assertion: Callable[[str], object] | None = None

_HINT = "python -m llama_cffi rpc-worker"


# Messages of ggml-rpc.cpp, each with its reason in plain words and the next step. `{}` stands for the endpoint.
_FAILURES = (
    (
        r"Remote RPC server (?:(\S+:\d+) )?crashed",
        "the worker at {} ended, or the connection to it was lost",
        f"its data is lost. Close the contexts and models that use it, restart it (`{_HINT}`), and load them again",
    ),
    (
        r"Failed to connect to (\S+)",
        "the worker at {} cannot be reached any more",
        f"restart it (`{_HINT}`), or load without its devices (devices=)",
    ),
    (
        r"RPC handshake failed for (\S+)",
        "the worker at {} uses another version of the RPC protocol",
        "install the same llama_cffi on both machines",
    ),
    (
        r"An RPC connection belongs to the process that this one was forked from",
        "the connection to the worker belongs to the process that this one was forked from",
        "load models after the fork, or start processes by multiprocessing's 'spawn' method",
    ),
)


def remote_failure(message: str) -> tuple[str, str] | None:
    """The reason and the next step for an assertion that ggml-rpc.cpp fails when a worker is lost; None for others."""
    import re  # only a failed call needs it

    for pattern, reason, advice in _FAILURES:
        if match := re.search(pattern, message):
            return reason.format(*match.groups("the other end")), advice
    return None


def raise_guarded(kind: int, operation: str, message: str, suspects: tuple[int, ...]) -> NoReturn:
    """Raise the exception for a failed guarded call. Called by the extension (`_shim/raise.cpp`).

    `suspects` are the addresses of the C objects that the call may have written to: their handles refuse further use.
    """
    log = native_log()
    if kind == lib.SHIM_UNAVAILABLE:
        raise errors.UnavailableError(_unavailable(operation, message))
    if kind == lib.SHIM_ABSENT:
        raise_unavailable(operation, message)
    if kind == lib.SHIM_CLOSED:
        raise errors.ClosedError(f"{operation}: its object was freed before the call, maybe by another thread")
    if kind == lib.SHIM_BUSY:
        raise errors.BusyError(f"{operation}: a call further up the stack uses the object: free it after that call")
    if kind == lib.SHIM_GRAMMAR:
        made = not operation.startswith("llama_sampler_init_grammar")
        raise errors.GrammarError(message if made else f"cannot parse this grammar: {message}", operation=operation)
    handles = [handle for handle in map(find_handle, suspects) if handle is not None]
    if kind == lib.SHIM_ASSERT and (failure := remote_failure(message)) is not None:
        reason, advice = failure
        for handle in handles:
            handle._allow_only_close(f"{reason} during {operation}; close it, and make a new one")
        raise errors.RpcError(f"{operation}: {reason}: {advice}", operation=operation, log=log)
    for handle in handles:
        handle._invalidate(f"a failed call of {operation} may have left it half-changed; make a new one")
    if kind == lib.SHIM_ASSERT:
        if on_assertion is not None:
            on_assertion(message)
        raise errors.NativeAssertionError(
            f"{operation}: an assertion of llama.cpp failed: {message}", operation=operation, log=log
        )
    if kind == lib.SHIM_NO_MEMORY:
        raise errors.NativeMemoryError(f"{operation}: out of memory ({message})", operation=operation, log=log)
    raise errors.NativeError(f"{operation}: {message}", operation=operation, log=log)


_LOADERS = {
    "cpu": "call Ggml.Backend.cpuLoad() first",
    "rpc": "call Ggml.Rpc.load() first",
    "vulkan": "call Ggml.Backend.vkLoad() first (in a build made with GGML_USE_VULKAN=1)",
}

NO_MTMD = (
    "this build has no library for images and sound (libmtmd-cffi.so), or the library lacks this function: build with "
    "the pinned llama.cpp (unset LLAMA_CPP_SOURCE and LLAMA_CFFI_PREFIX)"
)


def _unavailable(operation: str, module: str) -> str:
    if module == "mtmd":
        return f"{operation}: {NO_MTMD}"
    loader = _LOADERS.get(module, f"load the {module} backend module first")
    return f"{operation} is part of the {module} backend module, which is not loaded or does not contain it: {loader}"
