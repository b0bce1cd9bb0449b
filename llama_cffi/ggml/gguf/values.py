"""Values of GGUF metadata: their types, how a file stores them, and which type a Python value gets."""

from __future__ import annotations

import operator
import struct

from llama_cffi._core.checks import expected
from llama_cffi._generated.enums import GgufType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    MetaScalar: TypeAlias = "bool | int | float | str"
    MetaValue: TypeAlias = "MetaScalar | list[bool] | list[int] | list[float] | list[str]"

MAX_STRING = 1 << 30  # bytes, and items of an array: ggml reads no longer ones
ENCODING = ("utf-8", "surrogateescape")  # bytes that are not UTF-8 survive a round trip

# Type -> the format of `struct`; numbers are stored in the byte order of this machine, as ggml reads them.
FORMATS = {
    GgufType.UINT8: "B",
    GgufType.INT8: "b",
    GgufType.UINT16: "H",
    GgufType.INT16: "h",
    GgufType.UINT32: "I",
    GgufType.INT32: "i",
    GgufType.FLOAT32: "f",
    GgufType.BOOL: "?",
    GgufType.UINT64: "Q",
    GgufType.INT64: "q",
    GgufType.FLOAT64: "d",
}
SIZES = {kind: struct.calcsize(f"={code}") for kind, code in FORMATS.items()}
_FLOATS = (GgufType.FLOAT32, GgufType.FLOAT64)
_SCALARS = (GgufType.UINT32, GgufType.INT32, GgufType.UINT64, GgufType.INT64)  # for an int, the first that fits
_ITEMS = (GgufType.INT32, GgufType.UINT32, GgufType.INT64, GgufType.UINT64)  # for a list of ints
# Kind and size of the items of a buffer -> type.
_OF_BUFFER = {
    ("i" if code.islower() else "u", SIZES[kind]): kind
    for kind, code in FORMATS.items()
    if kind not in (*_FLOATS, GgufType.BOOL)
} | {("f", 4): GgufType.FLOAT32, ("f", 8): GgufType.FLOAT64, ("b", 1): GgufType.BOOL}


class Value:
    """A value as a file stores it.

    `data` holds the bytes of the number or string; of an array, those of all items, each string after its length.
    """

    __slots__ = ("count", "data", "itemType", "type")

    def __init__(self, type: GgufType, data: bytes | memoryview, itemType: GgufType | None = None, count: int = 1):
        self.type, self.data, self.itemType, self.count = type, data, itemType, count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.parts() == other.parts() and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]

    def parts(self) -> tuple[GgufType, GgufType | None, int]:
        """Type, type of the items, number of items."""
        return self.type, self.itemType, self.count

    def head(self) -> bytes:
        """What a file stores before the data."""
        if self.itemType is not None:
            return struct.pack("=iiQ", self.type, self.itemType, self.count)
        if self.type == GgufType.STRING:
            return struct.pack("=iQ", self.type, len(self.data))
        return struct.pack("=i", self.type)

    def python(self, limit: int | None = None) -> Any:
        """The value for Python; of an array a list, of its first `limit` items."""
        if self.type == GgufType.STRING:
            return str(self.data, *ENCODING)
        if self.itemType is None:
            return struct.unpack(f"={FORMATS[self.type]}", self.data)[0]
        count = self.count if limit is None else min(limit, self.count)
        if self.itemType == GgufType.STRING:
            return _texts(self.data, count)
        code = FORMATS[self.itemType]
        return list(struct.unpack_from(f"={count}{code}", self.data))


def _texts(data: bytes | memoryview, count: int) -> list[str]:
    length, at, found = struct.Struct("=Q").unpack_from, 0, []
    for _ in range(count):
        end = at + 8 + length(data, at)[0]
        found.append(str(data[at + 8 : end], *ENCODING))
        at = end
    return found


def encode(value: Any, name: str, type: GgufType | None, item_type: GgufType | None, old: Value | None) -> Value:
    """Return a Python value as a file stores it.

    Without a type, the value gets that of `old` if it fits it, else one of its own. Raises TypeError or ValueError.
    """
    if type is None and item_type is None and old is not None:
        try:
            return _encode(value, name, old.type, old.itemType)
        except (TypeError, ValueError):
            pass
    return _encode(value, name, type, item_type)


def _encode(value: Any, name: str, kind: GgufType | None, item: GgufType | None) -> Value:
    kind = kind if kind is None else _type(kind, "type")
    item = item if item is None else _type(item, "itemType")
    if item == GgufType.ARRAY:
        raise ValueError("itemType must not be ARRAY: ggml reads no arrays of arrays")
    if kind not in (None, GgufType.ARRAY):
        if item is not None:
            raise ValueError(f"itemType is for arrays, and type is {kind.name}: leave one of them out")
        return _scalar(value, name, kind)
    if isinstance(value, (str, bytes)) or _is_number(value):
        if kind is not None or item is not None:
            raise expected("a list of items", value, "write [value] for one item", name)
        return _scalar(value, name, _scalar_type(value, name))
    return _array(value, name, item)


def _type(value: Any, name: str) -> GgufType:
    try:
        kind = GgufType(value)
    except ValueError:
        kind = GgufType.COUNT
    if kind == GgufType.COUNT:
        raise ValueError(f"{name} must be a Ggml.GgufType, such as GgufType.UINT32, got {value!r}")
    return kind


def _is_number(value: Any) -> bool:
    """Return True for bool, int, float and numpy's scalars."""
    return isinstance(value, (bool, int, float)) or (hasattr(value, "dtype") and getattr(value, "shape", None) == ())


def _scalar_type(value: Any, name: str) -> GgufType:
    if isinstance(value, (str, bytes)):
        return GgufType.STRING
    if hasattr(value, "dtype"):
        return _buffer_type(value.dtype, name)
    if isinstance(value, bool):
        return GgufType.BOOL
    return GgufType.FLOAT32 if isinstance(value, float) else _fitting((value,), _SCALARS, name)


def _fitting(numbers: Sequence[int], kinds: Sequence[GgufType], name: str) -> GgufType:
    low, high = min(numbers), max(numbers)
    for kind in kinds:
        if _limits(kind)[0] <= low and high <= _limits(kind)[1]:
            return kind
    raise ValueError(f"{name} must be between {-(1 << 63)} and {(1 << 64) - 1}, got {low if low < 0 else high}")


def _limits(kind: GgufType) -> tuple[int, int]:
    bits = 8 * SIZES[kind]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if FORMATS[kind].islower() else (0, (1 << bits) - 1)


def _scalar(value: Any, name: str, kind: GgufType) -> Value:
    if kind == GgufType.STRING:
        return Value(kind, _text(value, name))
    return Value(kind, _pack([value], name, kind))


def _text(value: Any, name: str) -> bytes:
    if not isinstance(value, (str, bytes)):
        raise expected("a str or bytes", value, name=name)
    data = value.encode(*ENCODING) if isinstance(value, str) else value
    if b"\0" in data:
        raise ValueError(f"{name} must not contain a NUL character: llama.cpp would end it there")
    if len(data) > MAX_STRING:
        raise ValueError(f"{name} must have at most {MAX_STRING} bytes, got {len(data)}")
    return data


def _pack(items: Sequence[Any], name: str, kind: GgufType) -> bytes:
    """Return numbers in the format of a file. Raises TypeError or ValueError for one that the type cannot hold."""
    if kind == GgufType.BOOL:
        bad = next((item for item in items if not _is_number(item) or item not in (0, 1)), None)
        if bad is not None:
            raise TypeError(f"{name} must be True or False, got {bad!r}")
    elif kind not in _FLOATS:
        try:
            items = [operator.index(item) for item in items]
        except TypeError:
            bad = next(item for item in items if not hasattr(item, "__index__"))
            raise TypeError(f"{name} must be an integer for the type {kind.name}, got {bad!r}") from None
        low, high = _limits(kind)
        bad = next((item for item in items if not low <= item <= high), None)
        if bad is not None:
            raise ValueError(f"{name} must be between {low} and {high} for the type {kind.name}, got {bad}")
    try:
        return struct.pack(f"={len(items)}{FORMATS[kind]}", *items)
    except OverflowError:
        raise ValueError(f"{name} must contain numbers that {kind.name} can hold: use FLOAT64") from None
    except (struct.error, TypeError):
        bad = next((item for item in items if not _is_number(item)), items)
        raise TypeError(f"{name} must be a number for the type {kind.name}, got {bad!r}") from None


def _array(value: Any, name: str, item: GgufType | None) -> Value:
    if not isinstance(value, (list, tuple)):
        buffer = _buffer(value, name)
        kind = _buffer_type(buffer.dtype, name)
        if item in (None, kind):
            return Value(GgufType.ARRAY, buffer.tobytes(), kind, len(buffer))
        value = buffer.tolist()
    if len(value) > MAX_STRING:
        raise ValueError(f"{name} must have at most {MAX_STRING} items, got {len(value)}")
    kind = _item_type(value, name) if item is None else item
    if kind == GgufType.STRING:
        texts = [_text(text, f"{name}[{i}]") for i, text in enumerate(value)]
        data = b"".join(part for text in texts for part in (struct.pack("=Q", len(text)), text))
    else:
        data = _pack(value, name, kind)
    return Value(GgufType.ARRAY, data, kind, len(value))


def _item_type(items: Sequence[Any], name: str) -> GgufType:
    if not items:
        raise ValueError(f"{name} is empty, so its type is unknown: pass itemType, such as GgufType.INT32")
    if isinstance(items[0], (str, bytes)):
        return GgufType.STRING
    if all(isinstance(item, bool) for item in items):
        return GgufType.BOOL
    if all(isinstance(item, (bool, int)) for item in items):
        return _fitting(items, _ITEMS, name)
    if all(isinstance(item, (bool, int, float)) for item in items):
        return GgufType.FLOAT32
    kinds = {_scalar_type(item, name) for item in items if _is_number(item)}
    if len(kinds) == 1 and all(map(_is_number, items)):
        return kinds.pop()
    raise TypeError(f"{name} must contain numbers only or strings only, got {str(items)[:80]}")


def _buffer(value: Any, name: str) -> Any:
    """Return a buffer as a numpy array of one dimension, in the byte order of this machine."""
    import numpy as np

    try:
        array = np.asarray(memoryview(value))
    except (TypeError, ValueError, BufferError, NotImplementedError):
        kinds = "a bool, int, float, str, or a list or an array of one of them"
        raise expected(kinds, value, name=name) from None
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got {array.ndim}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _buffer_type(dtype: Any, name: str) -> GgufType:
    kind = _OF_BUFFER.get((dtype.kind, dtype.itemsize))
    if kind is None:
        raise TypeError(f"{name} must have items of a type that GGUF knows, got {dtype}")
    return kind
