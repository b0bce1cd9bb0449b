"""What can go wrong, as exceptions. Every text ends with what to do about it."""

from __future__ import annotations


class LlamaError(Exception):
    """The base of every error of this package. Wrong arguments raise ValueError, TypeError or IndexError instead."""


class NativeError(LlamaError):
    """A call into llama.cpp failed.

    `operation` is the C function, `code` its return value where it has one, `log` what llama.cpp logged during the
    call: it returns NULL and logs the reason.
    """

    def __init__(self, message: str, *, operation: str = "", code: int | None = None, log: str = "") -> None:
        self.operation = operation
        self.code = code
        self.log = log
        tail = "".join(f"\n  {line}" for line in log.splitlines()[-8:])
        super().__init__(message + (f"\nllama.cpp logged:{tail}" if tail else ""))


class NativeAssertionError(NativeError):
    """An assertion of llama.cpp failed. The objects that the call could write to refuse further use."""


class NativeMemoryError(NativeError, MemoryError):
    """llama.cpp could not allocate memory."""


class UnavailableError(LlamaError, NotImplementedError):
    """This llama.cpp, or this build of it, lacks what was asked for."""


class ClosedError(LlamaError, ValueError):
    """The object was freed, or its owner was."""


class BusyError(LlamaError, RuntimeError):
    """The object is in use by another call: on another thread, or further up on this one."""


class ForkError(LlamaError, RuntimeError):
    """The process was forked after llama.cpp had computed in its parent, whose threads it does not have."""


class RpcError(NativeError, ConnectionError):
    """A worker of llama.cpp's RPC cannot be reached, does not fit, or was lost."""


class ModelLoadError(NativeError, OSError):
    """A model could not be loaded."""


class ContextError(NativeError):
    """A context could not be created."""


class StateError(NativeError, ValueError):
    """A saved state could not be taken over, or the state could not be saved."""


class AdapterError(NativeError, OSError):
    """An adapter could not be loaded."""


class GrammarError(NativeError, ValueError):
    """A grammar, or the pattern that triggers it, cannot be read."""


class DecodeError(NativeError):
    """`encode` or `decode` refused the batch or failed. `code` is what llama.cpp returned."""


class ContextFullError(DecodeError):
    """The context has no room for the batch: free some of it, or make it larger."""
