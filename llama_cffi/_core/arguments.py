"""Arguments that C reads or writes: text, paths, arrays, out buffers. One rule for each, and one wording of errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

from llama_cffi._core.ffi import ffi

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

StrOrBytes: TypeAlias = str | bytes
StrPath: TypeAlias = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
# A cffi array, or anything with the buffer protocol: bytearray, array.array, a numpy array.
OutBuffer: TypeAlias = "Buffer | Any"
# A boolean parameter; C code, and the specification's examples, write 0 and 1 as well.
BoolLike: TypeAlias = bool | Literal[0, 1]
TokenSequence: TypeAlias = "Sequence[int] | Buffer"

# What memoryview calls elements that may be read as a C type. Raw bytes may be anything.
_FORMATS = {"int32_t": ("i", "l"), "char": ("b", "c"), "uint8_t": (), "float": ("f",), "size_t": ("L", "Q")}
_RAW = ("B", "b", "c")

new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
"""`ffi.new` for memory that C fills before it is read."""


def text_bytes(text: StrOrBytes, what: str) -> bytes:
    """Text as UTF-8."""
    if isinstance(text, str):
        return text.encode("utf-8")
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise TypeError(f"{what} is str or bytes, not {type(text).__name__}")


def text_prefix(text: StrOrBytes, length: int | None, what: str, length_name: str) -> bytes:
    """Text as UTF-8, cut to `length` bytes where that is given: C's pair of pointer and length."""
    data = text_bytes(text, what)
    if length is None:
        return data
    if not 0 <= length <= len(data):
        raise ValueError(f"{length_name} is {length}, but {what} has {len(data)} bytes of UTF-8: pass None for all")
    return data[:length]


def c_string(text: StrOrBytes, what: str) -> bytes:
    """Text that ends at its first NUL in C, and therefore must hold none."""
    data = text_bytes(text, what)
    if b"\0" in data:
        raise ValueError(f"{what} holds a NUL character, where C would end it")
    return data


def path_bytes(path: StrPath, what: str = "path") -> bytes:
    """A file's path as the operating system spells it."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"{what} is str, bytes or os.PathLike, not {type(path).__name__}")
    data = os.fsencode(path)
    if b"\0" in data:
        raise ValueError(f"{what} holds a NUL character: {path!r}")
    if not data:
        raise ValueError(f"{what} is empty")
    return data


def out_buffer(buffer: OutBuffer, ctype: str, count: int, what: str, count_name: str) -> Any:
    """A buffer for C to write `count` elements to, as a C array."""
    if isinstance(buffer, ffi.CData):
        array = _cdata_array(buffer, ctype, what)
        room = len(array)
    else:
        array, room = _from_buffer(buffer, ctype, what, writable=True)
    if not 0 <= count <= room:
        raise ValueError(f"{count_name} is {count}, but {what} has room for {room}")
    return array


def _cdata_array(buffer: Any, ctype: str, what: str) -> Any:
    kind = ffi.typeof(buffer)
    if kind.kind != "array" or ffi.sizeof(kind.item) != ffi.sizeof(ctype):
        raise TypeError(f"{what} is an array of {ctype}, not {kind.cname}: a pointer does not say how long it is")
    return buffer


def _from_buffer(buffer: Any, ctype: str, what: str, writable: bool) -> tuple[Any, int]:
    """A pointer to the elements of a buffer, which keeps it, and how many there are."""
    try:
        view = memoryview(buffer)
    except TypeError:
        raise TypeError(
            f"{what} is a buffer (bytearray, array.array, numpy array), not {type(buffer).__name__}"
        ) from None
    if writable and view.readonly:
        raise TypeError(f"{what} is read-only, and C writes to it: pass a bytearray or a writable array")
    size = ffi.sizeof(ctype)
    if view.format not in _RAW and (view.format not in _FORMATS[ctype] or view.itemsize != size):
        raise TypeError(f"{what} holds elements of format {view.format!r}, but C wants {ctype}")
    if not view.c_contiguous:
        raise ValueError(f"{what} is not contiguous: pass a copy")
    # CPython before 3.13 dies of collecting a cycle in which a cffi array looks through a memoryview; the frames of a
    # kept exception make such cycles. So C gets a pointer that keeps the memoryview, and looks through nothing.
    with ffi.from_buffer(f"{ctype}[]", view, require_writable=writable) as array:
        return ffi.gc(ffi.cast(f"{ctype} *", array), lambda _, kept=view: None), len(array)


def read_buffer(buffer: Any, ctype: str, count: int | None, what: str, count_name: str) -> tuple[Any, int]:
    """A buffer to be read by C, or a sequence of numbers, as a C array; and how many of its elements count."""
    if isinstance(buffer, ffi.CData):
        array = _cdata_array(buffer, ctype, what)
        room = len(array)
    elif isinstance(buffer, (list, tuple)):
        array, room = ffi.new(f"{ctype}[]", buffer), len(buffer)
    else:
        array, room = _from_buffer(buffer, ctype, what, writable=False)
    return array, _counted(count, room, what, count_name)


def _counted(count: int | None, room: int, what: str, count_name: str) -> int:
    n = room if count is None else count
    if not 0 <= n <= room:
        raise ValueError(f"{count_name} is {n}, but {what} has {room} elements")
    return n


def meta_text(call: Callable[[Any, int], int], buffer: OutBuffer | None, size: int | None) -> str | int | None:
    """Metadata as text: `call(buffer, size)` writes it and returns its length, or a negative number for none."""
    if require_together(buffer, size, "buf and bufSize"):
        assert size is not None
        return call(out_buffer(buffer, "char", size, "buf", "bufSize"), size)
    length = call(ffi.NULL, 0)
    if length < 0:
        return None
    out = ffi.new("char[]", length + 1)
    call(out, length + 1)
    return bytes(ffi.buffer(out, length)).decode("utf-8", "replace")


def token_array(
    tokens: TokenSequence, count: int | None, what: str = "tokens", count_name: str = "nTokens"
) -> tuple[Any, int]:
    """Tokens to be read by C, as a C array, and how many of them count."""
    if isinstance(tokens, ffi.CData):
        array = _cdata_array(tokens, "int32_t", what)
        room = len(array)
    elif isinstance(tokens, (list, tuple)):
        try:
            array, room = ffi.new("int32_t[]", tokens), len(tokens)
        except (TypeError, OverflowError) as error:
            raise type(error)(f"{what} holds something that is no token: {error}") from None
    elif isinstance(tokens, int):
        raise TypeError(f"{what} is a sequence of tokens: write [{tokens}] for one")
    elif (
        isinstance(tokens, Sequence)
        and not isinstance(tokens, (bytes, bytearray, memoryview, str))
        and not _has_buffer(tokens)
    ):
        return token_array(list(tokens), count, what, count_name)
    elif isinstance(tokens, str):
        raise TypeError(f"{what} is a sequence of tokens, not text: call tokenize() first")
    else:
        array, room = _from_buffer(tokens, "int32_t", what, writable=False)
    return array, _counted(count, room, what, count_name)


def _has_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def require_together(buffer: object, length: int | None, names: str) -> bool:
    """Whether an out buffer was given. It and its length come together, or not at all."""
    if (buffer is None) != (length is None):
        raise TypeError(f"{names} belong together: pass both, or leave both out")
    return buffer is not None


def optional_text(pointer: Any) -> str | None:
    """A copy of a C string; None for NULL."""
    return None if pointer == ffi.NULL else bytes(ffi.string(pointer)).decode("utf-8", "replace")
