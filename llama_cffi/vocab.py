"""The vocabulary: text to tokens and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from llama_cffi._buffers import (
    OutBuffer,
    Text,
    Tokens,
    out_buffer,
    require_together,
    text_prefix,
    token_array,
)
from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import VocabType
from llama_cffi.errors import NativeError
from llama_cffi.tokens import Token

if TYPE_CHECKING:
    from llama_cffi._handle import Handle

_PIECE = 64  # bytes: nearly every token is shorter


class Vocab:
    """A model's vocabulary. Lives as long as the model, keeps it alive, and may be used from any thread.

    Maps to `llama_vocab`.
    """

    __slots__ = ("_model", "_nTokens", "_pointer", "_type")

    def __init__(self, model: Handle) -> None:
        """Not for users: `model.vocab` makes it."""
        self._model = model
        self._pointer = lib.llama_model_get_vocab(model._c)
        self._nTokens = lib.llama_vocab_n_tokens(self._pointer)
        self._type = VocabType(lib.llama_vocab_type(self._pointer))

    @property
    def _c(self) -> Any:
        if self._model._pointer is None:
            self._model._refuse()
        return self._pointer

    @property
    def nTokens(self) -> int:
        """How many tokens there are.

        Maps to `llama_vocab_n_tokens`.
        """
        return self._nTokens

    @property
    def type(self) -> VocabType:
        """The kind of tokenizer; `NONE` for a model without one.

        Maps to `llama_vocab_type`.
        """
        return self._type

    @property
    def bos(self) -> Token:
        """The beginning-of-sequence token, or TOKEN_NULL.

        Maps to `llama_vocab_bos`.
        """
        return lib.llama_vocab_bos(self._c)

    @property
    def eos(self) -> Token:
        """The end-of-sequence token, or TOKEN_NULL.

        Maps to `llama_vocab_eos`.
        """
        return lib.llama_vocab_eos(self._c)

    def isEog(self, token: Token) -> bool:
        """Whether a token ends the generation (end of sequence, end of turn, ...).

        Maps to `llama_vocab_is_eog`.
        """
        return lib.llama_vocab_is_eog(self._c, token)

    @overload
    def tokenToPiece(self, token: Token, *, lstrip: int = 0, special: bool = False) -> str: ...
    @overload
    def tokenToPiece(
        self, token: Token, buf: OutBuffer, length: int, lstrip: int = 0, special: bool = False
    ) -> int: ...
    def tokenToPiece(
        self,
        token: Token,
        buf: OutBuffer | None = None,
        length: int | None = None,
        lstrip: int = 0,
        special: bool = False,
    ) -> str | int:
        """The text of one token.

        Without `buf` and `length`: a str; bytes that are no UTF-8 on their own become U+FFFD (a character may be
        spread over several tokens: to stream text, use the form with a buffer and an incremental decoder).
        With them: writes at most `length` bytes of UTF-8, without a closing NUL, and returns their number; a negative
        number is minus the length that is needed. `lstrip` is how many leading spaces to leave out, `special` whether
        control tokens are spelled out. Raises IndexError for a token that the vocabulary does not have.

        Maps to `llama_token_to_piece`.
        """
        self._check(token)
        self._require_tokenizer()
        if require_together(buf, length, "buf and length"):
            assert length is not None
            array = out_buffer(buf, "char", length, "buf", "length")
            return lib.llama_token_to_piece(self._c, token, array, length, lstrip, special)
        return self._piece(token, lstrip, special).decode("utf-8", "replace")

    def _piece(self, token: Token, lstrip: int = 0, special: bool = False) -> bytes:
        """The bytes of one token that was checked."""
        size = _PIECE
        while True:
            buffer = ffi.new("char[]", size)
            n = lib.llama_token_to_piece(self._c, token, buffer, size, lstrip, special)
            if n >= 0:
                return bytes(ffi.buffer(buffer, n))
            size = -n

    def _check(self, token: Token) -> None:
        if not 0 <= token < self._nTokens:
            raise IndexError(f"token {token} is not in the vocabulary, which goes from 0 to {self._nTokens - 1}")

    def _require_tokenizer(self) -> None:
        if self._type == VocabType.NONE:
            raise NativeError("this model carries no tokenizer: give token numbers to the batch instead of text")

    def __repr__(self) -> str:
        return f"<Vocab {self._type.name}, {self._nTokens} tokens>"


@overload
def tokenize(
    vocab: Vocab, text: Text, textLen: int | None = None, *, addSpecial: bool = True, parseSpecial: bool = False
) -> list[Token]: ...
@overload
def tokenize(
    vocab: Vocab,
    text: Text,
    textLen: int | None,
    tokens: OutBuffer,
    nTokensMax: int,
    addSpecial: bool = True,
    parseSpecial: bool = False,
) -> int: ...
def tokenize(
    vocab: Vocab,
    text: Text,
    textLen: int | None = None,
    tokens: OutBuffer | None = None,
    nTokensMax: int | None = None,
    addSpecial: bool = True,
    parseSpecial: bool = False,
) -> list[Token] | int:
    """Convert text to tokens.

    `textLen` counts bytes of UTF-8; None takes all. `addSpecial` lets the model add its beginning and end tokens,
    `parseSpecial` reads control tokens in the text (leave it off for text that you do not trust).
    Without `tokens` and `nTokensMax`: returns the tokens as a list. With them: writes at most `nTokensMax` tokens
    (32-bit integers) and returns their number; a negative number is minus the number that is needed.
    Raises UnicodeError for bytes that are no UTF-8, ValueError for a length beyond the text or the buffer.

    Maps to `llama_tokenize`.
    """
    data = text_prefix(text, textLen, "text", "textLen")
    if not isinstance(text, str) or textLen is not None:
        data.decode("utf-8")  # llama.cpp throws on some malformed sequences and misreads others
    vocab._require_tokenizer()
    if require_together(tokens, nTokensMax, "tokens and nTokensMax"):
        assert nTokensMax is not None
        array = out_buffer(tokens, "int32_t", nTokensMax, "tokens", "nTokensMax")
        return lib.llama_tokenize(vocab._c, data, len(data), array, nTokensMax, addSpecial, parseSpecial)
    size = len(data) // 3 + 16  # a token is rarely shorter than three bytes
    while True:
        array = ffi.new("int32_t[]", size)
        n = lib.llama_tokenize(vocab._c, data, len(data), array, size, addSpecial, parseSpecial)
        if n >= 0:
            return list(ffi.unpack(array, n))
        if n == -(1 << 31):
            raise ValueError("the text has more than 2,147,483,647 tokens: tokenize it in pieces")
        size = -n


@overload
def detokenize(
    vocab: Vocab,
    tokens: Tokens,
    nTokens: int | None = None,
    *,
    removeSpecial: bool = False,
    unparseSpecial: bool = False,
) -> str: ...
@overload
def detokenize(
    vocab: Vocab,
    tokens: Tokens,
    nTokens: int | None,
    text: OutBuffer,
    textLenMax: int,
    removeSpecial: bool = False,
    unparseSpecial: bool = False,
) -> int: ...
def detokenize(
    vocab: Vocab,
    tokens: Tokens,
    nTokens: int | None = None,
    text: OutBuffer | None = None,
    textLenMax: int | None = None,
    removeSpecial: bool = False,
    unparseSpecial: bool = False,
) -> str | int:
    """Convert tokens to text.

    `nTokens` counts tokens; None takes all. `removeSpecial` drops the beginning and end tokens, `unparseSpecial`
    spells control tokens out. Without `text` and `textLenMax`: returns a str, with U+FFFD for bytes that are no UTF-8.
    With them: writes at most `textLenMax` bytes of UTF-8, without a closing NUL, and returns their number; a negative
    number is minus the length that is needed. Raises IndexError for a token that the vocabulary does not have.

    Maps to `llama_detokenize`.
    """
    array, n = token_array(tokens, nTokens)
    bad = lib.shim_first_outside(array, n, vocab.nTokens)
    if bad >= 0:
        vocab._check(array[bad])
    if require_together(text, textLenMax, "text and textLenMax"):
        assert textLenMax is not None
        out = out_buffer(text, "char", textLenMax, "text", "textLenMax")
        return lib.llama_detokenize(vocab._c, array, n, out, textLenMax, removeSpecial, unparseSpecial)
    size = 8 * n + 16
    while True:
        out = ffi.new("char[]", size)
        written = lib.llama_detokenize(vocab._c, array, n, out, size, removeSpecial, unparseSpecial)
        if written >= 0:
            return bytes(ffi.buffer(out, written)).decode("utf-8", "replace")
        size = -written
