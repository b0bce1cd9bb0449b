"""The exceptions of this package. Every message ends with the next step."""

from __future__ import annotations


class LlamaError(Exception):
    """Base class of the exceptions in this module: `except LlamaError` catches every failure of llama.cpp.

    Invalid arguments raise Python's own ValueError, TypeError or IndexError instead. Several classes here also derive
    from a built-in exception, which code that does not know this package can catch: a ModelLoadError is an OSError.
    """


class NativeError(LlamaError):
    """A call into llama.cpp failed.

    `operation` is the name of the C function, `code` its return value (None if it returns nothing to tell), and `log`
    what llama.cpp logged during the call, which is often the reason. The end of the log is part of the message.
    """

    def __init__(self, message: str, *, operation: str = "", code: int | None = None, log: str = "") -> None:
        self.operation = operation
        self.code = code
        self.log = log
        tail = "".join(f"\n  {line}" for line in log.splitlines()[-8:])
        super().__init__(message + (f"\nllama.cpp logged:{tail}" if tail else ""))


class NativeAssertionError(NativeError):
    """An assertion in llama.cpp failed, which without this package would end the process.

    The objects that the call may have written to are closed: using them raises ClosedError. All others keep working.
    """


class NativeMemoryError(NativeError, MemoryError):
    """llama.cpp could not allocate memory, or a call was refused because the free memory is too small for it."""


class UnavailableError(LlamaError, NotImplementedError):
    """A function or a backend does not exist in this version of llama.cpp, or in this build of it."""


class ClosedError(LlamaError, ValueError):
    """The object was freed, or the object that it depends on was. The message says which, and why."""


class BusyError(LlamaError, RuntimeError):
    """The object is in use by another call: on another thread, or further up the stack in a callback.

    One object serves one call at a time: use a lock, or one object for each thread.
    """


class QueueFullError(BusyError):
    """As many requests wait for an engine as it takes: see `maxWaiting` of `Engine`. Submit it again later."""


class ForkError(LlamaError, RuntimeError):
    """This process was forked after llama.cpp had computed in its parent, whose threads it does not share.

    Fork before the first context is created, or start processes by multiprocessing's "spawn" method.
    """


class RpcError(NativeError, ConnectionError):
    """A remote RPC worker cannot be reached, uses another version of the protocol, or was lost during a call."""


class ModelLoadError(NativeError, OSError):
    """A model could not be loaded: the file is damaged, is not a model, or does not fit the parameters.

    A file that does not exist raises FileNotFoundError instead.
    """


class ContextError(NativeError):
    """A context could not be created."""


class StateError(NativeError, ValueError):
    """A state could not be saved, or saved data could not be restored: it is damaged or does not fit the context."""


class AdapterError(NativeError, OSError):
    """A LoRA adapter could not be loaded: the file is damaged, or does not fit the model."""


class GrammarError(NativeError, ValueError):
    """A grammar, or a pattern that triggers it, could not be parsed, or takes too many steps for a token."""


class DecodeError(NativeError):
    """`encode` or `decode` refused the batch, or failed. `code` is the return value of llama.cpp."""


class ContextFullError(DecodeError):
    """The KV cache has no space for the batch: remove tokens or sequences from it, or create a larger context."""
