"""Conversion of arguments for C: text, paths, arrays of numbers or tokens, out buffers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from llama_cffi._core.checks import expected, integer, out_of_range
from llama_cffi._core.ffi import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias

    from typing_extensions import Buffer

StrOrBytes: TypeAlias = str | bytes
StrPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
# A cffi array, or anything with the buffer protocol: bytearray, array.array, a numpy array.
OutBuffer: TypeAlias = "Buffer | Any"
# A boolean parameter; C code and the examples of the specification write 0 and 1 too.
BoolLike: TypeAlias = "bool | Literal[0, 1]"
TokenSequence: TypeAlias = "Sequence[int] | Buffer"

# The formats of memoryview elements that match a C type. Raw bytes match every type.
_FORMATS = {
    "int32_t": ("i", "l"),
    "char": ("b", "c"),
    "uint8_t": (),
    "uint16_t": ("H", "e"),
    "float": ("f",),
    "size_t": ("L", "Q"),
}
_RAW = ("B", "b", "c")

new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
"""`ffi.new` for memory that C fills before it is read."""


def text_bytes(text: StrOrBytes, what: str) -> bytes:
    """Return text as UTF-8. Raises TypeError for other types."""
    if isinstance(text, str):
        return text.encode("utf-8")
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise TypeError(f"{what} must be str or bytes, got {type(text).__name__}")


def text_prefix(text: StrOrBytes, length: int | None, what: str, length_name: str) -> bytes:
    """Return text as UTF-8; its first `length` bytes unless that is None. For C's pair of pointer and length."""
    data = text_bytes(text, what)
    if length is None:
        return data
    if not 0 <= length <= len(data):
        hint = f"{what} has {len(data)} bytes of UTF-8, and None means all of them"
        raise out_of_range(length_name, length, 0, len(data), hint)
    return data[:length]


def c_string(text: StrOrBytes, what: str) -> bytes:
    """Return text as UTF-8 without NUL characters, where C would end it."""
    data = text_bytes(text, what)
    if b"\0" in data:
        raise ValueError(f"{what} must not contain a NUL character: C would end it there")
    return data


def path_bytes(path: StrPath, what: str = "path") -> bytes:
    """Return a path in the encoding of the file system."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"{what} must be str, bytes or os.PathLike, got {type(path).__name__}")
    data = os.fsencode(path)
    if b"\0" in data:
        raise ValueError(f"{what} must not contain a NUL character, got {path!r}")
    if not data:
        raise ValueError(f"{what} is empty: name a file")
    return data


HUB_PREFIX = "hf:"


def is_hub_name(path: object) -> bool:
    """Return True if a path names a file on the Hugging Face Hub. Write `./hf:...` for a local file of such a name."""
    return isinstance(path, str) and path.startswith(HUB_PREFIX)


def out_buffer(buffer: OutBuffer, ctype: str, count: int, what: str, count_name: str) -> Any:
    """Return a writable buffer as a C array of at least `count` elements."""
    array, capacity = writable_buffer(buffer, ctype, what)
    if not 0 <= count <= capacity:
        raise out_of_range(count_name, count, 0, capacity, f"{what} has room for {capacity}")
    return array


def writable_buffer(buffer: OutBuffer, ctype: str, what: str) -> tuple[Any, int]:
    """Return a writable buffer as a C array, and the number of its elements."""
    if isinstance(buffer, ffi.CData):
        array = _cdata_array(buffer, ctype, what)
        return array, len(array)
    return _from_buffer(buffer, ctype, what, writable=True)


def byte_buffer(buffer: Any, what: str, writable: bool = False) -> tuple[Any, int]:
    """Return the memory of a buffer with elements of any type as a C array, and its size in bytes."""
    if isinstance(buffer, ffi.CData):
        if ffi.typeof(buffer).kind != "array":
            raise TypeError(f"{what} must be an array, got {ffi.typeof(buffer).cname}: ffi.new('char[]', n) makes one")
        return buffer, ffi.sizeof(buffer)
    return _from_buffer(buffer, "", what, writable)


def _cdata_array(buffer: Any, ctype: str, what: str) -> Any:
    kind = ffi.typeof(buffer)
    if kind.kind != "array" or ffi.sizeof(kind.item) != ffi.sizeof(ctype):
        raise TypeError(f"{what} must be an array of {ctype}, got {kind.cname}: ffi.new('{ctype}[]', n) makes one")
    return buffer


def _from_buffer(buffer: Any, ctype: str, what: str, writable: bool) -> tuple[Any, int]:
    """Return a pointer that keeps a buffer alive, and the number of its elements. Without a type: of its bytes."""
    try:
        view = memoryview(buffer)
    except (TypeError, BufferError, ValueError):  # numpy's objects and dates are the last two
        raise TypeError(
            f"{what} must be a buffer (bytearray, array.array, numpy array), got {type(buffer).__name__}"
        ) from None
    if writable and view.readonly:
        raise TypeError(f"{what} must be writable, got a read-only buffer: pass a bytearray or a writable array")
    if not ctype:
        if "O" in "".join(view.format.split(":")[::2]):  # C would overwrite references; names of fields are in colons
            raise TypeError(f"{what} must have elements without Python objects, got format {view.format!r}")
    elif view.format not in _RAW and (view.format not in _FORMATS[ctype] or view.itemsize != ffi.sizeof(ctype)):
        raise TypeError(f"{what} must have elements of type {ctype}, got format {view.format!r}")
    if not view.c_contiguous:
        raise ValueError(f"{what} must be contiguous: pass a copy")
    # CPython before 3.13 crashes when it collects a reference cycle with a cffi array over a memoryview in it, and the
    # frames of a stored exception form such cycles. So C gets a pointer that keeps the memoryview alive instead.
    kind = ctype or "char"
    with ffi.from_buffer(f"{kind}[]", view, require_writable=writable) as array:
        pointer: Any = ffi.gc(ffi.cast(f"{kind} *", array), {None: view}.get)  # a function of C that keeps it
        return pointer, len(array)


def read_buffer(buffer: Any, ctype: str, count: int | None, what: str, count_name: str) -> tuple[Any, int]:
    """Return a buffer or a sequence of numbers as a C array, and how many of its elements C may read."""
    if isinstance(buffer, ffi.CData):
        array = _cdata_array(buffer, ctype, what)
        length = len(array)
    elif isinstance(buffer, (list, tuple)):
        try:
            array, length = ffi.new(f"{ctype}[]", buffer), len(buffer)
        except TypeError:
            raise TypeError(f"{what} must contain numbers only, got {str(buffer)[:80]}") from None
    else:
        array, length = _from_buffer(buffer, ctype, what, writable=False)
    return array, _checked_count(count, length, what, count_name)


def _checked_count(count: int | None, length: int, what: str, count_name: str) -> int:
    n = length if count is None else integer(count, -(1 << 63), (1 << 63) - 1, count_name)
    if not 0 <= n <= length:
        raise out_of_range(count_name, n, 0, length, f"{what} has {length} elements")
    return n


def meta_text(call: Callable[[Any, int], int], buffer: OutBuffer | None, size: int | None) -> str | int | None:
    """Return a text that `call(buffer, size)` writes, or write it to the caller's buffer and return its length.

    `call` returns the length of the text, or a negative number if it does not exist: then the result is None.
    """
    if require_together(buffer, size, "buf and bufSize"):
        assert size is not None
        return call(out_buffer(buffer, "char", size, "buf", "bufSize"), size)
    length = call(ffi.NULL, 0)
    if length < 0:
        return None
    out = ffi.new("char[]", length + 1)
    call(out, length + 1)
    return bytes(ffi.buffer(out, length)).decode("utf-8", "replace")


def _no_token(tokens: Sequence[Any], what: str, error: Exception) -> Exception:
    """Return the error for a list that cffi does not take for an array of tokens."""
    for token in tokens:
        try:
            ffi.new("int32_t[1]", [token])
        except OverflowError as too_large:
            return OverflowError(f"{what} must contain token numbers only: {too_large}")
        except Exception:
            return expected("token numbers only", token, name=what)
    return error


def token_array(
    tokens: TokenSequence, count: int | None, what: str = "tokens", count_name: str = "nTokens"
) -> tuple[Any, int]:
    """Return tokens as a C array, and how many of them C may read."""
    if isinstance(tokens, ffi.CData):
        array = _cdata_array(tokens, "int32_t", what)
        length = len(array)
    elif isinstance(tokens, (list, tuple)):
        try:
            array, length = ffi.new("int32_t[]", tokens), len(tokens)
        except (TypeError, OverflowError) as error:
            raise _no_token(tokens, what, error) from None
    elif isinstance(tokens, int):
        raise expected("a sequence of tokens", tokens, f"write [{tokens}] for one token", what)
    elif (
        isinstance(tokens, Sequence)
        and not isinstance(tokens, (bytes, bytearray, memoryview, str))
        and not _has_buffer(tokens)
    ):
        return token_array(list(tokens), count, what, count_name)
    elif isinstance(tokens, str):
        raise expected("a sequence of tokens", tokens, "tokenize(model.vocab, text) makes one", what)
    else:
        array, length = _from_buffer(tokens, "int32_t", what, writable=False)
    return array, _checked_count(count, length, what, count_name)


def _has_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def require_together(buffer: object, length: int | None, names: str) -> bool:
    """Return True if an out buffer was given. Raises TypeError if either it or its length is missing."""
    if (buffer is None) != (length is None):
        raise TypeError(f"{names} belong together: pass both, or leave both out")
    return buffer is not None


def optional_text(pointer: Any) -> str | None:
    """Return a copy of a C string; None for NULL."""
    return None if pointer == ffi.NULL else bytes(ffi.string(pointer)).decode("utf-8", "replace")


def int_array(values: Sequence[int], ctype: str, count: int, low: int, high: int, name: str) -> Any:
    """Return a C array of exactly `count` integers in [low, high]."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise expected(f"a sequence of {count} integers", values, name=name)
    numbers = [integer(value, low, high, name) for value in values]
    if len(numbers) != count:
        raise ValueError(f"{name} must have {count} elements, got {len(numbers)}")
    return ffi.new(f"{ctype}[]", numbers)
