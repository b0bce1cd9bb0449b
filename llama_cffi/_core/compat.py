"""Compatibility with other versions of llama.cpp: which functions, types and fields the one in use lacks.

`_generated/absent.py` lists them; it is empty for the version that the facade was written for.
"""

from __future__ import annotations

from enum import IntEnum

from llama_cffi._core.ffi import PIN
from llama_cffi._generated.absent import ABSENT, WRITTEN_FOR
from llama_cffi.errors import UnavailableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeVar

    E = TypeVar("E", bound=IntEnum)


def has(name: str) -> bool:
    """Return True if this llama.cpp contains a function, type, constant or `struct.field` that the facade knows."""
    return name not in ABSENT


def is_pinned_version() -> bool:
    """Return True if this is the version of llama.cpp that the facade was written for.

    Checks that rely on its internals may be skipped only then: of other versions, only the headers are known.
    """
    return bool(PIN == WRITTEN_FOR)


def require(name: str) -> None:
    """Raise UnavailableError if this llama.cpp lacks `name`; see `has`."""
    if name in ABSENT:
        raise_unavailable(name, ABSENT[name])


def member(kind: type[E], name: str) -> E | None:
    """Return an enumerator; None if this llama.cpp lacks it, which compares unequal to all values."""
    found: E | None = kind.__members__.get(name)
    return found


def raise_unavailable(name: str, versions: str) -> NoReturn:
    """Raise the error for something that only other versions contain."""
    raise UnavailableError(
        f"{name}: {PIN} lacks it, but the known versions {versions} have it: build this package from one of them "
        "(`make upgrade VERSION=...` in its source tree)"
    )
