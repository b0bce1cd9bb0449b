"""Files of stored prompts: the tokens, and the state of a sequence that holds them.

A file begins with a fixed header (`_HEADER`): magic, version of the format, lengths of the three parts that follow, and
two digests. Then come the head (JSON), the tokens, and the cells of each cache. Lengths are compared with the size of
the file, and all bytes with the digests, before anything is used.
"""

from __future__ import annotations

import json
import os
import struct
from array import array
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from llama_cffi._core.atomic_write import atomic_write
from llama_cffi._core.files import open_regular
from llama_cffi.context import sequence_state
from llama_cffi.context.sequence_state import SequenceState

if TYPE_CHECKING:
    from io import BufferedReader
    from typing import Any

    from llama_cffi._core.base_types import SeqId

_MAGIC = b"LCFFPRMT"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ32s32s")  # magic, version, bytes of head, tokens and state, two digests
_MAX_HEAD = 1 << 10
_MAX_TOKENS = 1 << 28  # bytes
_MAX_CACHES = 16  # a head has some 1,000 bytes then
_BLOCK = 1 << 20


class DamagedError(Exception):
    """A file that is not a stored prompt of this format, or is not complete."""


class Entry(NamedTuple):
    """A stored prompt, without its state."""

    name: str  # of the file
    key: str  # the digest of the identity
    tokens: array[int]
    least: int  # a prefix of at least this many tokens can be used; all of them can be in any case
    magic: bytes
    sizes: list[int]  # bytes of the cells of each cache


def entry_name(key: str, tokens: array[int]) -> str:
    """Return the name of the file for these tokens."""
    return f"{key[:32]}-{sha256(tokens).hexdigest()[:32]}.prompt"


def write_entry(folder: str, key: str, tokens: array[int], least: int, state: SequenceState) -> int:
    """Write a stored prompt. Returns the size of the file. Raises OSError."""
    head = json.dumps(
        {"key": key, "least": least, "magic": state.magic.hex(), "sizes": [len(cells) for cells in state.caches]}
    ).encode()
    hashed = sha256()
    for cells in state.caches:
        hashed.update(cells)
    sizes = len(head), 4 * len(tokens), sum(map(len, state.caches))
    start = _HEADER.pack(_MAGIC, _VERSION, *sizes, _head_digest(sizes, head, tokens), hashed.digest())
    with atomic_write(os.path.join(folder, entry_name(key, tokens))) as scratch:
        with open(scratch, "wb", opener=open_private) as file:
            parts: list[bytes | memoryview] = [start, head, tokens.tobytes(), *state.caches]
            for part in parts:
                file.write(part)
    return len(start) + sum(sizes)


def entry_size(tokens: array[int], state: SequenceState) -> int:
    """Return about how many bytes a stored prompt takes."""
    return _HEADER.size + _MAX_HEAD + 4 * len(tokens) + sum(map(len, state.caches))


def read_entry(folder: str, name: str) -> Entry:
    """Read a stored prompt without its state. Raises OSError, or DamagedError."""
    with closing(_open(folder, name)) as file:
        return _read_head(file, name)[0]


def read_state(folder: str, wanted: Entry, seq: SeqId, n_streams: int) -> bytearray:
    """Return the state of a stored prompt, for a sequence of a context with `n_streams` streams of cells.

    Raises OSError, DamagedError, and MemoryError.
    """
    with closing(_open(folder, wanted.name)) as file:
        entry, digest = _read_head(file, wanted.name)
        if entry.key != wanted.key or entry.tokens != wanted.tokens:
            raise DamagedError("it is another prompt now")
        data, caches = sequence_state.blank(seq, n_streams, entry.magic, entry.sizes)
        hashed = sha256()
        for cells in caches:
            for start in range(0, len(cells), _BLOCK):
                part = cells[start : start + _BLOCK]
                if file.readinto(part) != len(part):
                    raise DamagedError("it is too short")
                hashed.update(part)
        if hashed.digest() != digest:
            raise DamagedError("the digest of the state differs")
    return data


def _open(folder: str, name: str) -> BufferedReader:
    file = open_regular(os.path.join(folder, name))
    if os.fstat(file.fileno()).st_uid != os.geteuid():
        file.close()
        raise PermissionError(f"{name} belongs to another user")
    return file


def _read_head(file: BufferedReader, name: str) -> tuple[Entry, bytes]:
    """Return what comes before the state, and the digest of the state."""
    start, size = file.read(_HEADER.size), os.fstat(file.fileno()).st_size
    if len(start) != _HEADER.size:
        raise DamagedError("it is too short")
    magic, version, n_head, n_tokens, n_state, head_digest, state_digest = _HEADER.unpack(start)
    if magic == _MAGIC and version != _VERSION:
        raise OSError(f"{name} has version {version} of the format")
    if magic != _MAGIC or n_head > _MAX_HEAD or not 0 < n_tokens <= _MAX_TOKENS or n_tokens % 4:
        raise DamagedError("it is not a stored prompt")
    if _HEADER.size + n_head + n_tokens + n_state != size:
        raise DamagedError("it has another size")
    head, tokens = file.read(n_head), array("i")
    tokens.frombytes(file.read(n_tokens)[: n_tokens // 4 * 4])
    if _head_digest((n_head, n_tokens, n_state), head, tokens) != head_digest:
        raise DamagedError("the digest of the tokens differs")
    try:
        found: dict[str, Any] = json.loads(head)
        key, least, sizes = str(found["key"]), int(found["least"]), [int(size) for size in found["sizes"]]
        entry = Entry(name, key, tokens, least, bytes.fromhex(found["magic"]), sizes)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"its head has another form: {error}") from None
    whole = sum(sizes) == n_state and all(size > 0 for size in sizes) and 0 < len(sizes) <= _MAX_CACHES
    if not whole or len(entry.magic) not in (0, 4) or name != entry_name(key, tokens):
        raise DamagedError("its parts do not belong together")
    return entry, state_digest


def _head_digest(sizes: tuple[int, int, int], head: bytes, tokens: array[int]) -> bytes:
    hashed = sha256(repr(sizes).encode())
    hashed.update(head)
    hashed.update(tokens)
    return hashed.digest()


def open_private(path: str, flags: int) -> int:
    """An opener of files that nobody else can read."""
    return os.open(path, flags, 0o600)
