"""`Ggml.GgufMetadata`: the metadata of a GGUF file as a mapping that keeps the types of its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

from llama_cffi._core.checks import expected
from llama_cffi._generated.enums import GgufType
from llama_cffi.ggml.gguf.header import ALIGNMENT_KEY, MAX_ALIGNMENT
from llama_cffi.ggml.gguf.values import ENCODING, Value, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.ggml.gguf.values import MetaValue

MAX_KEY = 65535  # bytes, by GGUF's specification


class GgufMetadata(MutableMapping[str, "MetaValue"]):
    """The metadata of a `Ggml.Gguf`: key to bool, int, float, str, or a list of one of them.

    An assignment keeps the type that the key has if the value fits it. A new key gets a type by its value: UINT32 for
    an int (or INT32, UINT64, INT64), FLOAT32 for a float, INT32 for the items of a list of ints. A numpy scalar or
    array has its own type. `set` decides the type.

    Bytes of strings that are not UTF-8 become surrogates, as in names of files, and are written as they were.
    """

    __slots__ = ("_changed", "_values")

    def __init__(self, values: dict[str, Value], changed: Callable[[], object]) -> None:
        """Internal: `Gguf.metadata` is one."""
        self._values, self._changed = values, changed

    def __getitem__(self, key: str) -> Any:
        return self._value(key).python()

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        self._value(key)
        self._changed()
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def set(self, key: str, value: Any, type: GgufType | None = None, itemType: GgufType | None = None) -> None:
        """Set a value and, with `type`, its type; with `itemType` that of the items of a list.

        A key that is there keeps its place. Raises TypeError or ValueError if the type cannot hold the value; bytes are
        a string. `general.alignment` must be a power of two.
        """
        name = f"metadata[{_checked_key(key)!r}]"
        made = encode(value, name, type, itemType, self._values.get(key))
        if key == ALIGNMENT_KEY:
            _check_alignment(made)
        self._changed()
        self._values[key] = made

    def remove(self, key: str) -> None:
        """Remove a value. Raises KeyError if there is none."""
        del self[key]

    def type(self, key: str) -> GgufType:
        """Return the type of a value: `Ggml.GgufType.ARRAY` for a list. Raises KeyError if there is none."""
        return self._value(key).type

    def itemType(self, key: str) -> GgufType | None:
        """Return the type of the items of a list; None if the value is not a list. Raises KeyError if there is none."""
        return self._value(key).itemType

    def length(self, key: str) -> int:
        """Return the number of items of a list, which is not read for this; 1 for any other value."""
        return self._value(key).count

    def first(self, key: str, limit: int) -> Any:
        """Return a value, of a list its first `limit` items: vocabularies are long."""
        return self._value(key).python(max(limit, 0))

    def _value(self, key: str) -> Value:
        if not isinstance(key, str):
            raise expected("a str", key, name="key")
        return self._values[key]

    def __repr__(self) -> str:
        return f"<GgufMetadata of {len(self)} keys>"


def _checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise expected("a str", key, name="key")
    data = key.encode(*ENCODING)
    if not 1 <= len(data) <= MAX_KEY:
        raise ValueError(f"key must have between 1 and {MAX_KEY} bytes of UTF-8, got {len(data)}")
    if b"\0" in data:
        raise ValueError("key must not contain a NUL character: llama.cpp would end it there")
    return key


def _check_alignment(value: Value) -> None:
    number = value.python()
    if value.type != GgufType.UINT32:
        raise TypeError(f"{ALIGNMENT_KEY} must be of type UINT32, got {value.type.name}")
    if not 1 <= number <= MAX_ALIGNMENT or number & (number - 1):
        raise ValueError(f"{ALIGNMENT_KEY} must be a power of two between 1 and {MAX_ALIGNMENT}, got {number}")
