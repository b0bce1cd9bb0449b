"""`Mtmd.Chunks` and `Mtmd.Chunk`: a prompt as pieces of tokens, images and sounds."""

from __future__ import annotations

from collections.abc import Iterator

from llama_cffi._core.arguments import optional_text
from llama_cffi._core.base_types import Pos, Token
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import own
from llama_cffi._generated import enums
from llama_cffi.errors import NativeError
from llama_cffi.generation.projector import PromptChunks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi._generated.enums import MtmdChunkKind


_FREE_NOTHING = id  # a function of C: a chunk that belongs to others is freed with them


class Chunk(Handle):
    """A piece of a prompt: tokens of text, or an image or a sound that is ready to be encoded.

    It belongs to its `Chunks`; `copy` makes one that does not.

    Maps to `mtmd_input_chunk`.
    """

    __slots__ = ("_serial",)

    _KIND = "chunk"
    _MADE_BY = "Mtmd.Context.tokenize(text, media) makes them"

    _serial: int  # of the Mtmd.Context that made it

    @property
    def kind(self) -> MtmdChunkKind:
        """Text, image or audio.

        Maps to `mtmd_input_chunk_get_type`.
        """
        return enums.MtmdChunkKind(lib.mtmd_input_chunk_get_type(self._c))

    @property
    def tokens(self) -> list[Token] | None:
        """The tokens of a text; None for an image or a sound.

        Maps to `mtmd_input_chunk_get_tokens_text`.
        """
        n = ffi.new("size_t *")
        with self._pinned() as pointer:
            array = lib.mtmd_input_chunk_get_tokens_text(pointer, n)
            if lib.mtmd_input_chunk_get_type(pointer) != enums.MtmdChunkKind.TEXT:
                return None
            return list(ffi.unpack(array, n[0])) if n[0] else []

    @property
    def nTokens(self) -> int:
        """The number of tokens, or of embeddings of an image or a sound: cells of the KV cache.

        Maps to `mtmd_input_chunk_get_n_tokens`.
        """
        return lib.mtmd_input_chunk_get_n_tokens(self._c)

    @property
    def nPos(self) -> Pos:
        """The number of positions. Of models with M-RoPE, an image has fewer positions than tokens.

        Maps to `mtmd_input_chunk_get_n_pos`.
        """
        return lib.mtmd_input_chunk_get_n_pos(self._c)

    @property
    def id(self) -> str | None:
        """The `Bitmap.id` of an image or a sound; None for a text.

        Maps to `mtmd_input_chunk_get_id`.
        """
        with self._pinned() as pointer:
            return optional_text(lib.mtmd_input_chunk_get_id(pointer))

    def copy(self) -> Chunk:
        """Return a copy that does not belong to `Chunks`.

        Maps to `mtmd_input_chunk_copy`.
        """
        with self._pinned() as pointer:
            owned = own(lib.mtmd_input_chunk_free, lib.mtmd_input_chunk_copy, pointer)
        if owned.pointer is None:
            raise NativeError("llama.cpp could not copy the chunk", operation="mtmd_input_chunk_copy")
        made = Chunk.__new__(Chunk)
        made._serial = self._serial
        made._open(owned)
        return made

    def free(self) -> None:
        """Free a copy, or end the use of a chunk of `Chunks`. Freeing twice is harmless.

        Maps to `mtmd_input_chunk_free`.
        """
        Chunk._require(self)
        self.close()

    def _describe(self) -> str:
        return f"{self.kind.name}, {self.nTokens} tokens"


class Chunks(PromptChunks):
    """The chunks of a prompt, in order: a sequence of `Chunk`. It does not depend on the bitmaps it was made of.

    Maps to `mtmd_input_chunks`.
    """

    __slots__ = ("_serial",)

    _KIND = "list of chunks"
    _MADE_BY = "Mtmd.Context.tokenize(text, media) makes one"

    _serial: int  # of the Mtmd.Context that made it

    def size(self) -> int:
        """Return the number of chunks; the same as `len(chunks)`.

        Maps to `mtmd_input_chunks_size`.
        """
        return lib.mtmd_input_chunks_size(self._c)

    def get(self, idx: int) -> Chunk:
        """Return a chunk; the same as `chunks[idx]`. Raises IndexError.

        Maps to `mtmd_input_chunks_get`.
        """
        n = self.size()
        if not hasattr(idx, "__index__"):
            raise expected("an integer", idx, name="idx")
        index = idx + n if idx < 0 else idx
        if not 0 <= index < n:
            raise IndexError(f"idx must be between 0 and {n - 1}, the last chunk, got {idx}")
        with self._pinned() as pointer:
            made = Chunk.__new__(Chunk)
            made._serial = self._serial
            made._open(own(_FREE_NOTHING, lib.mtmd_input_chunks_get, pointer, index), parent=self)
        return made

    @property
    def nTokens(self) -> int:
        """The number of tokens of all chunks: cells of the KV cache.

        Maps to `mtmd_helper_get_n_tokens`.
        """
        return lib.mtmd_helper_get_n_tokens(self._c)

    @property
    def nPos(self) -> Pos:
        """The number of positions of all chunks.

        Maps to `mtmd_helper_get_n_pos`.
        """
        return lib.mtmd_helper_get_n_pos(self._c)

    def free(self) -> None:
        """Free the chunks. Freeing twice is harmless.

        Maps to `mtmd_input_chunks_free`.
        """
        Chunks._require(self)
        self.close()

    def __len__(self) -> int:
        return self.size()

    def __getitem__(self, idx: int) -> Chunk:
        return self.get(idx)

    def __iter__(self) -> Iterator[Chunk]:
        return iter([self.get(index) for index in range(self.size())])

    def _describe(self) -> str:
        return f"of {self.size()}, {self.nTokens} tokens"
