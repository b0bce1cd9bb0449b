"""What a step may raise, and what is a finding."""

from __future__ import annotations

from types import TracebackType

from llama_cffi import ClosedError, GrammarError, LlamaError, NativeAssertionError, NativeMemoryError


class Boom(Exception):
    """What the fuzzer's own callbacks raise."""


# What the facade documents: wrong arguments are the first five, OSError is about files.
FAMILIES = (ValueError, TypeError, IndexError, OverflowError, KeyError, OSError, MemoryError, LlamaError, Boom)


def is_fine(error: BaseException) -> bool:
    """Whether a caller may see such an exception."""
    if isinstance(error, NameError):  # a callback of a step looks for what was deleted
        return last_frame(error.__traceback__)[0] == "<step>"
    if isinstance(error, NotImplementedError) and ("sub-view" in str(error) or "memoryview:" in str(error)):
        return True  # of Python's own memoryview, which has dimensions and formats that it cannot iterate over
    if type(error) is RuntimeError and last_frame(error.__traceback__)[1] == "result":
        return True  # of a Generation that an exception has ended, as its docstring says
    return isinstance(error, FAMILIES) and not reached_native(error)


def reached_native(error: BaseException) -> bool:
    """Whether the guard caught it: a check before the call is missing."""
    if isinstance(error, (GrammarError, NativeMemoryError)):  # the parser of grammars is this package's own
        return False
    if isinstance(error, NativeAssertionError) and error.operation.startswith("ggml_"):
        return False  # ggml's own check of shapes and types: of a constructor in a scratch context, or of a computation
    if isinstance(error, ClosedError) and came_through(error, "together"):
        return False  # another thread freed the object between the check and the call: the guard is the check
    return isinstance(error, NativeAssertionError) or last_frame(error.__traceback__)[1] == "raise_guarded"


def last_frame(trace: TracebackType | None) -> tuple[str, str]:
    """The file and the function that raised."""
    place = ("", "")
    while trace is not None:
        code = trace.tb_frame.f_code
        place = (code.co_filename, code.co_name)
        trace = trace.tb_next
    return place


def came_through(error: BaseException, function: str) -> bool:
    """Return True if the exception came through a function of this name."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == function:
            return True
        trace = trace.tb_next
    return False


def places(error: BaseException) -> list[str]:
    """Where in the package an exception came through, outermost first."""
    found: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/llama_cffi/" in name:
            found.append(f"{name.rsplit('/llama_cffi/', 1)[1]}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}")
        trace = trace.tb_next
    return found


def fingerprint(error: BaseException) -> str:
    """What two findings of the same cause have in common."""
    inside = places(error)
    if reached_native(error):
        lines = [line for line in str(error).splitlines() if line]
        inside = inside[-2:-1]
        return f"{type(error).__name__} at {''.join(inside)}: {lines[0][:160] if lines else ''}"
    return f"{type(error).__name__} at {(inside or ['the step'])[-1]}"
