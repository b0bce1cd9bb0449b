"""States as bytes and files. What is read is checked, because llama.cpp trusts most of what a state contains."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import open_regular
from llama_cffi._core.native_log import native_log
from llama_cffi.context.memory import POSITION_LIMIT
from llama_cffi.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATE_HEADER_SIZE = 12  # bytes: magic, version, number of tokens


def filled(written: int) -> int:
    """Return the length of a state that was written; raise StateError for 0, which means failure."""
    if written == 0:
        raise StateError("the state could not be written: the buffer needs ctx.stateSize bytes", log=native_log())
    return written


# The next four make several C calls with the same exclusive use of the context.


def whole_state(pointer: Any) -> bytes:
    """Return the state of a context."""
    size = lib.llama_state_get_size(pointer)
    buffer = ffi.new("uint8_t[]", size)
    return bytes(ffi.buffer(buffer, filled(lib.llama_state_get_data(pointer, buffer, size))))


def whole_sequence(pointer: Any, seq: int, flags: int) -> bytes:
    """Return the state of a sequence."""
    size = lib.llama_state_seq_get_size_ext(pointer, seq, flags)
    buffer = ffi.new("uint8_t[]", size)
    return bytes(ffi.buffer(buffer, filled(lib.llama_state_seq_get_data_ext(pointer, buffer, size, seq, flags))))


def restore_state(pointer: Any, array: Any, n: int, n_seq: int) -> int:
    """Restore the state of a context, or raise StateError and clear it. Returns the number of bytes read."""
    read: int = lib.llama_state_set_data(pointer, array, n)
    log = native_log()
    problem = _position_problem(pointer, range(n_seq))
    if read == 0 or problem:
        lib.llama_memory_clear(lib.llama_get_memory(pointer), True)
        raise StateError(f"the state {problem or 'does not fit this context'}; the context is empty now", log=log)
    return read


def restore_sequence(pointer: Any, array: Any, n: int, seq: int, flags: int) -> int:
    """Restore the state of a sequence, or raise StateError and clear it. Returns the number of bytes read."""
    read: int = lib.llama_state_seq_set_data_ext(pointer, array, n, seq, flags)
    log = native_log()
    problem = _position_problem(pointer, [seq])
    if read == 0 or problem:
        memory, cleared = lib.llama_get_memory(pointer), f"sequence {seq}"
        lib.llama_memory_seq_rm(memory, seq, -1, -1)
        if _position_problem(pointer, [seq]):  # llama.cpp cannot remove negative positions, or the last one
            lib.llama_memory_clear(memory, True)
            cleared = "the context"
        raise StateError(f"the state {problem or 'does not fit this context'}; {cleared} is empty now", log=log)
    return read


def _position_problem(pointer: Any, seqs: Iterable[int]) -> str:
    """Return what is wrong with the positions of sequences, or "". llama.cpp does not check those of a state."""
    memory = lib.llama_get_memory(pointer)
    for seq in seqs:
        low, high = lib.llama_memory_seq_pos_min(memory, seq), lib.llama_memory_seq_pos_max(memory, seq)
        if (low, high) != (-1, -1) and not 0 <= low <= high < POSITION_LIMIT:  # both are -1 for an empty one
            return f"has positions {low} to {high} in sequence {seq}, out of range"
    return ""


def read_file(path: bytes, magic: int, version: int) -> tuple[list[Token], memoryview]:
    """Return the tokens of a state file, and the bytes after them.

    It is read rather than mapped: the process would die if a mapped file shrank.
    """
    with open_regular(path) as stream:
        data = stream.read()
    if len(data) < STATE_HEADER_SIZE:
        raise StateError(f"the file is too short for a state: {len(data)} bytes")
    view = memoryview(data)
    found_magic, found_version, n_tokens = view[:STATE_HEADER_SIZE].cast("I")
    if found_magic != magic:
        raise StateError(f"not a state file of this kind: expected magic {magic:#x}, got {found_magic:#x}")
    if found_version != version:
        raise StateError(f"the file must have version {version} of the format for this llama.cpp, got {found_version}")
    end = STATE_HEADER_SIZE + 4 * n_tokens
    if end > len(data):
        raise StateError(f"the file is too short for the {n_tokens} tokens that it claims to have")
    return view[STATE_HEADER_SIZE:end].cast("i").tolist(), view[end:]
