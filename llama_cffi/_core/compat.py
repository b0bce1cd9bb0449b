"""What other versions of llama.cpp lack, and how the facade says so.

`_generated/absent.py` is empty for the version that the facade was written for.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn, TypeVar

from llama_cffi._core.ffi import PIN
from llama_cffi._generated.absent import ABSENT, WRITTEN_FOR
from llama_cffi.errors import UnavailableError

E = TypeVar("E", bound=IntEnum)


def has(name: str) -> bool:
    """Whether this llama.cpp has a function, a type, a constant or a `struct.field` that the facade knows."""
    return name not in ABSENT


def is_pinned_version() -> bool:
    """Whether this is the llama.cpp that the facade was written for. Of any other, only the public headers are known:
    what the facade knows of the insides of that one must not make it less careful.
    """
    return bool(PIN == WRITTEN_FOR)


def require(name: str) -> None:
    """Raise UnavailableError where this llama.cpp lacks what `has` asks for."""
    if name in ABSENT:
        raise_unavailable(name, ABSENT[name])


def member(kind: type[E], name: str) -> E | None:
    """An enumerator that other versions lack: None there, which no value equals."""
    found: E | None = kind.__members__.get(name)
    return found


def raise_unavailable(name: str, versions: str) -> NoReturn:
    """Raise the error for something that only other versions have."""
    raise UnavailableError(
        f"{name}: {PIN} lacks it, and llama-cpp-python {versions} has it: build this package from that "
        "(`make upgrade VERSION=...` in its source tree)"
    )
