"""Error messages for invalid arguments: "expected a Model, got int", "nCtx must be between 1 and 4096, got 0".

Pure Python: nothing here needs the extension.
"""

from __future__ import annotations

import operator

from llama_cffi.errors import NativeMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SHOWN = 200  # characters of a value in a message


def expected(kind: str, value: object, hint: str = "", name: str = "") -> TypeError:
    """Return the TypeError for a value of the wrong type.

    `kind` has an article ("a Model"), `hint` is the next step, `name` is that of the argument.
    """
    subject = f"{name}: " if name else ""
    part = getattr(type(value), "_PARTS", {}).get(kind)  # an LLM has what is expected
    hint = f"pass llm.{part}" if part else hint
    advice = f": {hint}" if hint else ""
    return TypeError(f"{subject}expected {kind}, got {type(value).__name__}{advice}")


def shown(value: object) -> str:
    """Return a value for a message: at most 200 characters, and without what its own __str__ raises."""
    try:
        text = str(value)
    except Exception:  # such as ValueError, for an int of more than 4,300 digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def out_of_range(name: str, value: object, low: object, high: object, hint: str = "") -> ValueError:
    """Return the ValueError for a number outside of [low, high]. `hint` is the next step, or what else is allowed."""
    advice = f": {hint}" if hint else ""
    return ValueError(f"{name} must be between {low} and {high}, got {shown(value)}{advice}")


def integer(value: int, low: int, high: int, name: str, hint: str = "") -> int:
    """Return `value` as an int in [low, high], so that C cannot truncate it. Raises TypeError or ValueError."""
    try:
        number = operator.index(value)
    except Exception:  # an object may raise anything
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not low <= number <= high:
        raise out_of_range(name, number, low, high, hint)
    return number


def require_integers(**values: object) -> None:
    """Raise TypeError for the first value that is not an integer: after C has refused one of them."""
    from numbers import Integral

    for name, value in values.items():
        if not isinstance(value, Integral):
            raise expected("an integer", value, name=name) from None


def enum_member(kind: Any, value: object, name: str) -> Any:
    """Return `value` as a member of an enumeration. Raises ValueError for what is none, and for its COUNT."""
    try:
        found = kind(value)
    except ValueError:
        found = None
    if found is None or found.name == "COUNT":
        names = ", ".join(member.name for member in kind if member.name != "COUNT")
        raise ValueError(f"{name} must be one of {kind.__name__}.{{{names}}}, got {value!r}")
    return found


def boolean(value: bool, name: str) -> bool:
    """Return `value` as a bool. Raises TypeError for anything but True, False, 1 and 0."""
    try:
        known = value in (True, False)
    except Exception:  # the comparison of an array has no truth value
        known = False
    if not known:
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def number(value: float, name: str, unit: str = "") -> float:
    """Return `value` as a float: infinity if it is an int too large for one. Raises TypeError.

    `unit` is that of the number (" of seconds").
    """
    try:
        if isinstance(value, (str, bytes, bytearray)):
            raise TypeError
        return float(value)
    except OverflowError:
        return float("inf" if value > 0 else "-inf")
    except Exception:  # also ValueError: objects have any __float__
        raise TypeError(f"{name} must be a number{unit}, got {value!r}") from None


def no_such_token(token: object, n_vocab: int) -> IndexError:
    """Return the IndexError for a number that is not a token of a vocabulary of `n_vocab` tokens."""
    return IndexError(f"token must be between 0 and {n_vocab - 1}, the last of the vocabulary, got {token}")


def no_threads(what: str, advice: str, operation: str) -> NativeMemoryError:
    """Return the error for threads that could not be started when they were needed."""
    return NativeMemoryError(
        f"{what}: {advice}, or raise the limit of threads (ulimit -u, or pids.max of the control group) or of memory "
        "for their stacks (ulimit -v)",
        operation=operation,
    )


def function_or_none(value: Any, name: str) -> Any:
    """Return `value`. Raises TypeError unless it is a function or None."""
    if value is not None and not callable(value):
        raise expected("a function or None", value, name=name)
    return value
