"""States as bytes and files: what is read is checked, because llama.cpp believes most of what a state says."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.native_log import native_log
from llama_cffi.errors import StateError

STATE_HEADER = struct.Struct("<III")  # magic, version, number of tokens
_POSITIONS = 1 << 30  # more than any model was trained for; and from there, the next batches would overflow


def filled(written: int) -> int:
    """The length of a state that was written; 0 is a failure."""
    if written == 0:
        raise StateError("the state could not be written: the buffer needs ctx.stateSize bytes", log=native_log())
    return written


# Each of these is one use of the context: no other thread's call comes between its parts.


def whole_state(pointer: Any) -> bytes:
    size = lib.llama_state_get_size(pointer)
    buffer = ffi.new("uint8_t[]", size)
    return bytes(ffi.buffer(buffer, filled(lib.llama_state_get_data(pointer, buffer, size))))


def whole_sequence(pointer: Any, seq: int, flags: int) -> bytes:
    size = lib.llama_state_seq_get_size_ext(pointer, seq, flags)
    buffer = ffi.new("uint8_t[]", size)
    return bytes(ffi.buffer(buffer, filled(lib.llama_state_seq_get_data_ext(pointer, buffer, size, seq, flags))))


def restore_state(pointer: Any, array: Any, n: int, n_seq: int) -> int:
    read: int = lib.llama_state_set_data(pointer, array, n)
    log = native_log()
    wrong = _wrong_positions(pointer, range(n_seq))
    if read == 0 or wrong:
        lib.llama_memory_clear(lib.llama_get_memory(pointer), True)
        raise StateError(f"the state {wrong or 'does not fit this context'}; the context is empty now", log=log)
    return read


def take_over_sequence(pointer: Any, array: Any, n: int, seq: int, flags: int) -> int:
    read: int = lib.llama_state_seq_set_data_ext(pointer, array, n, seq, flags)
    log = native_log()
    wrong = _wrong_positions(pointer, [seq])
    if read == 0 or wrong:
        memory, empty = lib.llama_get_memory(pointer), f"sequence {seq}"
        lib.llama_memory_seq_rm(memory, seq, -1, -1)
        if _wrong_positions(pointer, [seq]):  # negative ones, and the last one, cannot be named to be removed
            lib.llama_memory_clear(memory, True)
            empty = "the context"
        raise StateError(f"the state {wrong or 'does not fit this context'}; {empty} is empty now", log=log)
    return read


def _wrong_positions(pointer: Any, seqs: Iterable[int]) -> str:
    """What is wrong with the positions of these sequences: llama.cpp believes those that a state names."""
    memory = lib.llama_get_memory(pointer)
    for seq in seqs:
        low, high = lib.llama_memory_seq_pos_min(memory, seq), lib.llama_memory_seq_pos_max(memory, seq)
        if (low, high) != (-1, -1) and not 0 <= low <= high < _POSITIONS:  # both are -1 where there is nothing
            return f"puts tokens at positions from {low} to {high} of sequence {seq}"
    return ""


def read_file(path: bytes, magic: int, version: int) -> tuple[list[Token], memoryview]:
    """The tokens of a state file, and what follows them. Read whole: a mapped file that shrinks ends the process."""
    with open(path, "rb") as stream:
        data = stream.read()
    if len(data) < STATE_HEADER.size:
        raise StateError("the file is too short for a state")
    found_magic, found_version, n_tokens = STATE_HEADER.unpack_from(data)
    if found_magic != magic:
        raise StateError("this is no state file of this kind")
    if found_version != version:
        raise StateError(f"the file has version {found_version} of the format, but this llama.cpp reads {version}")
    if STATE_HEADER.size + 4 * n_tokens > len(data):
        raise StateError(f"the file says that it holds {n_tokens} tokens, but it is too short for them")
    tokens: Sequence[int] = struct.unpack_from(f"<{n_tokens}i", data, STATE_HEADER.size)
    return list(tokens), memoryview(data)[STATE_HEADER.size + 4 * n_tokens :]
