"""Streaming detokenization: turns tokens into text as they come, in whole characters, up to a stop string."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.generation.stop_strings import StopStrings
from llama_cffi.vocab.vocab import Vocab

_PIECE_BYTES = 256  # a longer token makes the buffer grow


class TextStream:
    """Tokens in, text out. Text is held back until its UTF-8 characters are whole and no stop string can begin in it.

    All texts that `feed` returns, and that of `finish`, are together the text of the tokens: `tokenToPiece` of each.
    That is the text that follows a prompt. (`detokenize` differs: it drops the space that some tokenizers put before
    the first word of a text, and may remove spaces before punctuation.) Each token is processed once.
    """

    __slots__ = (
        "_buffer",
        "_bytes",
        "_capacity",
        "_held",
        "_nTokens",
        "_pending",
        "_pointer",
        "_special",
        "_stops",
        "stopped",
        "vocab",
    )

    stopped: str | None
    """The stop string that was found. `feed` returned the text before it, and returns "" from then on."""

    def __init__(self, vocab: Vocab, stop: Sequence[str] = (), special: bool = False) -> None:
        """`stop` lists strings that end the text. The first one to be complete wins, and of those that end at the same
        character the longest. `special` spells control tokens out.
        """
        if not isinstance(vocab, Vocab):
            raise expected("a Vocab", vocab, "pass model.vocab", "vocab")
        vocab._require_tokenizer()
        self.vocab, self._pointer = vocab, vocab._c  # the guard knows the pointer, and notices that its model was freed
        self._nTokens = vocab.nTokens
        self._special = bool(special)
        self._stops = StopStrings(stop) or None
        self._grow_buffer(_PIECE_BYTES)
        self._pending = b""  # the first bytes of a character
        self._held = ""  # may be the start of a stop string
        self.stopped = None

    def feed(self, token: Token, data: bytes | None = None) -> str:
        """Return the text that this token completed, or "". Raises IndexError for a number that is not a token.

        `data` are the bytes of the token, if they are known already.
        """
        piece: bytes
        if data is not None:
            piece = data
        else:
            if not 0 <= token < self._nTokens:
                self.vocab._check(token)
            n = lib.llama_token_to_piece(self._pointer, token, self._buffer, self._capacity, 0, self._special)
            if n < 0:
                self._grow_buffer(-n)
                n = lib.llama_token_to_piece(self._pointer, token, self._buffer, self._capacity, 0, self._special)
            piece = self._bytes[:n]
        if self._pending:
            piece = self._pending + piece
        text, used = utf_8_decode(piece, "replace", False)
        self._pending = piece[used:]
        return text if self._stops is None else self._until_stop(text)

    def finish(self) -> str:
        """Return the text that is still held back, after the last token. Incomplete characters become U+FFFD."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        if self._stops is None:
            return text
        text = self._until_stop(text)
        rest, self._held = self._held, ""
        self._stops.state = 0
        return text + rest

    def _grow_buffer(self, size: int) -> None:
        self._capacity = size
        self._buffer = ffi.new("char[]", size)
        self._bytes = ffi.buffer(self._buffer)

    def _until_stop(self, text: str) -> str:
        """Return the text up to a stop string, without an end that may be the start of one."""
        assert self._stops is not None
        if self.stopped is not None:
            return ""
        found = self._stops.search(text)
        text = self._held + text
        if found is None:
            end = len(text) - self._stops.partial
            self._held = text[end:]
            return text[:end]
        self.stopped, end = found
        end += len(self._held)
        self._held = ""
        return text[: end - len(self.stopped)]
