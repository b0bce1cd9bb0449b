"""Saving and restoring the state of a context: the KV cache of all sequences, or of one."""

from __future__ import annotations

import os

from llama_cffi._core.arguments import (
    OutBuffer,
    StrPath,
    TokenSequence,
    out_buffer,
    path_bytes,
    read_buffer,
    require_together,
    token_array,
)
from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.compat import is_pinned_version, require
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.context.base import ContextBase
from llama_cffi.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, overload
else:
    from llama_cffi._core.stand_ins import overload


class ContextState(ContextBase):
    """Saved states, for contexts of the same model with the same parameters. Restore only states that you saved."""

    @property
    def stateSize(self) -> int:
        """Size of the state in bytes, at present.

        Maps to `llama_state_get_size`.
        """
        size: int = self._run(lib.llama_state_get_size)
        return size

    @overload
    def stateGetData(self) -> bytes: ...
    @overload
    def stateGetData(self, dst: OutBuffer, size: int) -> int: ...
    def stateGetData(self, dst: OutBuffer | None = None, size: int | None = None) -> bytes | int:
        """Return the whole state as bytes; or with `dst` and `size`, write it to that buffer and return its length.

        Raises StateError if the buffer is too small.

        Maps to `llama_state_get_data`.
        """
        from llama_cffi.context import state_io

        if require_together(dst, size, "dst and size"):
            assert size is not None
            return state_io.filled(
                self._run(lib.llama_state_get_data, out_buffer(dst, "uint8_t", size, "dst", "size"), size)
            )
        state: bytes = self._run(state_io.whole_state)
        return state

    def stateSetData(self, src: Any, size: int | None = None) -> int:
        """Restore a state from the first `size` bytes of `src` (None: all). Returns the number of bytes read.

        A state has no logits or embeddings, and those of earlier computations are gone: decode before you sample.

        Raises StateError for a state that does not fit, or has positions outside of 0 to 2**30 - 1; the context is
        empty then.

        Maps to `llama_state_set_data`.
        """
        from llama_cffi.context import state_io

        array, n = read_buffer(src, "uint8_t", size, "src", "size")
        self._check_architecture(array, n)
        self._reserve_outputs(self._limits.n_batch)
        self._memory._changed()

        def restore(context: Any) -> int:
            self._limits.rows = 0  # what was computed before belongs to another text
            return state_io.restore_state(context, array, n, self._nSeqMax)

        read: int = self._run(restore)
        return read

    def _check_architecture(self, array: Any, n: int) -> None:
        """Check the architecture at the start of a state: a wrong length there makes llama.cpp allocate gigabytes."""
        expected = (self._model.metaValStr("general.architecture") or "").encode()
        start = bytes(ffi.buffer(array, min(n, 4 + len(expected))))
        if start != len(expected).to_bytes(4, "little") + expected:
            raise StateError(f"expected a state of a {expected.decode()} model: pass what stateGetData returned")

    # Files: magic, version and tokens, then the state

    def stateSaveFile(self, path: StrPath, tokens: TokenSequence = (), count: int | None = None) -> bool:
        """Write the state, and the tokens that led to it, to a file. Returns True.

        The file is written under another name and then renamed. Raises OSError if it cannot be written.

        Maps to `llama_state_save_file`.
        """
        from llama_cffi._core.atomic_write import atomic_write, require_size
        from llama_cffi.context import state_io

        array, n = token_array(tokens, count, count_name="count")
        target = os.fsdecode(path_bytes(path))
        with atomic_write(target) as scratch:

            def save(context: Any) -> int:
                size = lib.llama_state_get_size(context) + state_io.STATE_HEADER_SIZE + 4 * n
                lib.llama_state_save_file(context, os.fsencode(scratch), array, n)
                return int(size)

            require_size(scratch, target, self._run(save))
        return True

    @overload
    def stateLoadFile(self, path: StrPath) -> list[Token]: ...
    @overload
    def stateLoadFile(
        self, path: StrPath, tokensOut: OutBuffer, cap: int, outCount: OutBuffer | None = None
    ) -> bool: ...
    def stateLoadFile(
        self,
        path: StrPath,
        tokensOut: OutBuffer | None = None,
        cap: int | None = None,
        outCount: OutBuffer | None = None,
    ) -> list[Token] | bool:
        """Restore a state from a file, and return the tokens that were saved with it.

        With `tokensOut` and `cap`, writes at most `cap` tokens there and their number to `outCount` (a buffer for one
        size_t), and returns True. Raises OSError, and StateError for a file that does not fit; see `stateSetData`.

        Maps to `llama_state_load_file`.
        """
        from llama_cffi.context import state_io

        # llama.cpp's own reader accepts a truncated header, so the file is read here.
        tokens, state = state_io.read_file(path_bytes(path), lib.LLAMA_SESSION_MAGIC, lib.LLAMA_SESSION_VERSION)
        if not require_together(tokensOut, cap, "tokensOut and cap"):
            self.stateSetData(state)
            return tokens
        assert cap is not None
        if len(tokens) > cap:
            raise StateError(f"cap must be at least {len(tokens)}, the tokens in the file, got {cap}")
        out = out_buffer(tokensOut, "int32_t", cap, "tokensOut", "cap")
        self.stateSetData(state)
        out[0 : len(tokens)] = tokens
        if outCount is not None:
            out_buffer(outCount, "size_t", 1, "outCount", "its length")[0] = len(tokens)
        return True

    # One sequence

    def stateSeqGetSize(self, seqId: SeqId, flags: int = 0) -> int:
        """Return the size in bytes of a sequence's state. `flags` are LLAMA_STATE_SEQ_FLAGS_*, except ON_DEVICE.

        Maps to `llama_state_seq_get_size` and, with flags, `llama_state_seq_get_size_ext`.
        """
        self._check_seq(seqId)
        size: int = self._run(lib.llama_state_seq_get_size_ext, seqId, _check_flags(flags))
        return size

    @overload
    def stateSeqGetData(self, dst: None = None, size: None = None, seqId: SeqId = 0, flags: int = 0) -> bytes: ...
    @overload
    def stateSeqGetData(self, dst: OutBuffer, size: int, seqId: SeqId, flags: int = 0) -> int: ...
    def stateSeqGetData(
        self, dst: OutBuffer | None = None, size: int | None = None, seqId: SeqId = 0, flags: int = 0
    ) -> bytes | int:
        """Return the state of a sequence as bytes; or with `dst` and `size`, write it there and return its length.

        Raises StateError if the buffer is too small.

        Maps to `llama_state_seq_get_data` and, with flags, `llama_state_seq_get_data_ext`.
        """
        from llama_cffi.context import state_io

        self._check_seq(seqId)
        get = lib.llama_state_seq_get_data_ext
        if require_together(dst, size, "dst and size"):
            assert size is not None
            out = out_buffer(dst, "uint8_t", size, "dst", "size")
            return state_io.filled(self._run(get, out, size, seqId, _check_flags(flags)))
        state: bytes = self._run(state_io.whole_sequence, seqId, _check_flags(flags))
        return state

    def stateSeqSetData(self, src: Any, size: int | None = None, destSeqId: SeqId = 0, flags: int = 0) -> int:
        """Restore the state of a sequence. Returns the number of bytes read.

        Raises StateError for a state that does not fit. The sequence is empty then, or even the context if the state
        has positions that cannot be removed.

        Maps to `llama_state_seq_set_data` and, with flags, `llama_state_seq_set_data_ext`.
        """
        from llama_cffi.context import state_io

        self._check_seq(destSeqId, "destSeqId")
        array, n = read_buffer(src, "uint8_t", size, "src", "size")
        self._memory._changed(destSeqId)
        try:
            read: int = self._run(state_io.restore_sequence, array, n, destSeqId, _check_flags(flags))
        except BaseException:
            self._memory._changed()  # of all: a state that does not fit may clear the whole context
            raise
        return read

    def stateSeqSaveFile(
        self, filepath: StrPath, seqId: SeqId, tokens: TokenSequence = (), count: int | None = None
    ) -> int:
        """Write the state of a sequence, and its tokens, to a file. Returns the size of the file in bytes.

        The file is written under another name and then renamed. Raises OSError if it cannot be written.

        Maps to `llama_state_seq_save_file`.
        """
        self._check_seq(seqId)
        from llama_cffi._core.atomic_write import atomic_write, require_size, write_error

        array, n = token_array(tokens, count, count_name="count")
        target = os.fsdecode(path_bytes(filepath))
        with atomic_write(target) as scratch:
            written: int = self._run(lib.llama_state_seq_save_file, os.fsencode(scratch), seqId, array, n)
            if written == 0:
                raise write_error(scratch, target, "the state could not be written")
            require_size(scratch, target, written)  # C does not notice a full disk at the end
        return written

    def stateSeqLoadFile(self, filepath: StrPath, destSeqId: SeqId) -> list[Token]:
        """Restore the state of a sequence from a file, and return the tokens that were saved with it.

        Raises OSError, and StateError for a file that does not fit; see `stateSeqSetData`.

        Maps to `llama_state_seq_load_file`.
        """
        from llama_cffi.context import state_io

        self._check_seq(destSeqId, "destSeqId")
        name = path_bytes(filepath, "filepath")
        tokens, state = state_io.read_file(name, lib.LLAMA_STATE_SEQ_MAGIC, lib.LLAMA_STATE_SEQ_VERSION)
        prefix = self.stateSeqGetData(None, None, destSeqId)[: self._prefix_size(destSeqId)]
        self.stateSeqSetData(prefix + state, None, destSeqId)
        return tokens

    def _prefix_size(self, seq: SeqId) -> int:
        """Return how many bytes come before a sequence's state in memory, but not in a file."""
        from llama_cffi.context import state_io

        if is_pinned_version():
            return 8  # a magic number and the sequence id
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            name = os.fsencode(os.path.join(folder, "state"))
            written = self._run(lib.llama_state_seq_save_file, name, seq, ffi.NULL, 0)
        return int(lib.llama_state_seq_get_size(self._c, seq) - (written - state_io.STATE_HEADER_SIZE))


def _check_flags(flags: int) -> int:
    if flags == 0:
        return flags
    require("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY")
    if flags & lib.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE:
        raise ValueError("LLAMA_STATE_SEQ_FLAGS_ON_DEVICE is not supported: it keeps the data out of the buffer")
    if flags & ~lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY:
        raise ValueError(f"flags must be LLAMA_STATE_SEQ_FLAGS_*, got {flags:#x}")
    return flags
