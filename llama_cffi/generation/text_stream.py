"""Tokens to text while they come: whole characters only, up to a stop string."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.generation.stop_strings import StopStrings
from llama_cffi.vocab.vocab import Vocab

_PIECE = 256  # bytes: longer tokens get a larger buffer when they come


class TextStream:
    """Tokens in, text out: whole UTF-8 characters, held back while it may be the start of a stop string.

    What `feed` gives, and `finish` at the end, is together the text of the tokens: each one's `tokenToPiece`, after one
    another. That is the text that goes on after a prompt. (`detokenize` drops the space that some tokenizers put before
    the first word of a text, and with some it tidies the spaces before punctuation.) Each token is looked at once.
    """

    __slots__ = (
        "_buffer",
        "_bytes",
        "_held",
        "_nTokens",
        "_pending",
        "_pointer",
        "_capacity",
        "_special",
        "_stops",
        "_vocab",
        "stopped",
    )

    stopped: str | None
    """The stop string that was found; `feed` returned what stood before it, and gives nothing more."""

    def __init__(self, vocab: Vocab, stop: Sequence[str] = (), special: bool = False) -> None:
        """`stop` is a list of strings that end the text where one of them is complete, the longest of those that end at
        the same character; `special` whether control tokens are spelled out.
        """
        if not isinstance(vocab, Vocab):
            raise TypeError(f"vocab is a Vocab, not {type(vocab).__name__}: pass model.vocab")
        vocab._require_tokenizer()
        self._vocab, self._pointer = vocab, vocab._c  # which the guard knows: a model that was freed is noticed
        self._nTokens = vocab.nTokens
        self._special = bool(special)
        self._stops = StopStrings(stop) or None
        self._grow_buffer(_PIECE)
        self._pending = b""  # the beginning of a character
        self._held = ""  # what may be the beginning of a stop string
        self.stopped = None

    def feed(self, token: Token) -> str:
        """The text that became sure with this token, "" while it waits. Raises IndexError for what is no token."""
        if not 0 <= token < self._nTokens:
            self._vocab._check(token)
        n = lib.llama_token_to_piece(self._pointer, token, self._buffer, self._capacity, 0, self._special)
        if n < 0:
            self._grow_buffer(-n)
            n = lib.llama_token_to_piece(self._pointer, token, self._buffer, self._capacity, 0, self._special)
        data = self._bytes[:n]
        if self._pending:
            data = self._pending + data
        text, used = utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text if self._stops is None else self._up_to_stop(text)

    def finish(self) -> str:
        """The rest, when no more tokens come; U+FFFD for bytes that are no whole character."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        if self._stops is None:
            return text
        sure = self._up_to_stop(text)
        rest, self._held = self._held, ""
        self._stops.state = 0
        return sure + rest

    def _grow_buffer(self, size: int) -> None:
        self._capacity = size
        self._buffer = ffi.new("char[]", size)
        self._bytes = ffi.buffer(self._buffer)

    def _up_to_stop(self, text: str) -> str:
        """What of the text is sure not to be part of a stop string, nor to come after one."""
        assert self._stops is not None
        if self.stopped is not None:
            return ""
        found = self._stops.search(text)
        text = self._held + text
        if found is None:
            sure = len(text) - self._stops.partial
            self._held = text[sure:]
            return text[:sure]
        self.stopped, end = found
        end += len(self._held)
        self._held = ""
        return text[: end - len(self.stopped)]
