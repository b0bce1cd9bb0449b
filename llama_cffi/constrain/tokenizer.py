"""A vocabulary for llguidance: the bytes of all tokens, the special tokens, and those that end the generation."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import locked
from llama_cffi._generated.enums import TokenAttr
from llama_cffi.constrain.guidance import library, seam
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from llama_cffi._core.handle import Handle

_PIECE_BYTES = 512  # size of the buffer for a token's text; longer ones take another call
_NOT_TEXT = TokenAttr.CONTROL | TokenAttr.UNKNOWN
_LONGEST = 1000  # bytes of a token: llguidance's tree of the vocabulary takes no longer ones
_SEPARATOR = b"\n"  # tokenizers do not join it with the text after it

_tokenizers: weakref.WeakKeyDictionary[Handle, Any] = weakref.WeakKeyDictionary()  # one for each model
_lock = threading.Lock()  # guards _tokenizers


def tokenizer_of(vocab: Vocab) -> Any:
    """Return the llguidance tokenizer of a vocabulary, made once per model: a second for 262,144 tokens."""
    with locked(_lock):
        found = _tokenizers.get(vocab._model)
        if found is None:
            found = _tokenizers[vocab._model] = _make(vocab)
        return found


def _make(vocab: Vocab) -> Any:
    module = library()
    vocab._require_tokenizer()
    pieces, specials, ends = _read(vocab)
    if not ends:
        raise ValueError(
            "this vocabulary has no end-of-generation token (vocab.isEog), so constrained output could not end: "
            "set tokenizer.ggml.eos_token_id in the model file"
        )
    source = _Source(weakref.ref(vocab._model), pieces, specials, ends)
    return seam(lambda: module.LLTokenizer(module.TokenizerWrapper(source), eos_token=ends), "this vocabulary")


def _read(vocab: Vocab) -> tuple[list[bytes], list[Token], list[Token]]:
    """Return the bytes of all tokens, the special tokens, and those of them that end the generation."""
    pieces, specials, ends = [], [], []
    buffer = ffi.new("char[]", _PIECE_BYTES)
    view = ffi.buffer(buffer)
    attr, is_end, to_piece = lib.llama_vocab_get_attr, lib.llama_vocab_is_eog, lib.llama_token_to_piece
    with vocab._model._pinned():
        pointer = vocab._c
        for token in range(vocab.nTokens):
            end = is_end(pointer, token)
            special = end or bool(attr(pointer, token) & _NOT_TEXT)
            size = to_piece(pointer, token, buffer, _PIECE_BYTES, 0, special)
            pieces.append(view[:size] if size >= 0 else piece_or_nothing(vocab._piece(token, 0, special)))
            if special:
                specials.append(token)
            if end:
                ends.append(token)
    return pieces, specials, ends


def piece_or_nothing(piece: bytes) -> bytes:
    """Return the bytes of a token; none for one that is too long for llguidance, which is then never allowed."""
    return piece if len(piece) <= _LONGEST else b""


class _Source:
    """The interface of llguidance to a tokenizer. It lives as long as the model, and must not keep that alive."""

    def __init__(
        self, model: Callable[[], Handle | None], pieces: list[bytes], specials: list[Token], ends: list[Token]
    ) -> None:
        self.tokens, self.special_token_ids = pieces, specials
        self.eos_token_id, self.bos_token_id = ends[0], None
        self._model = model
        self._longest = 0  # bytes of the longest token
        self._by_piece: dict[bytes, Token] = {}  # filled when it is first needed

    def __call__(self, text: bytes) -> list[Token]:
        """Tokenize a text that the grammar requires, as the model would."""
        model = self._model()
        if model is None or model._pointer is None:
            return self._greedy(text)
        try:
            found = tokenize(model.vocab, text, addSpecial=False)  # type: ignore[attr-defined]
            if self._spells(found) == text:
                return found
            # Some tokenizers add a space before a text. So tokenize it after a separator, and drop both.
            found = tokenize(model.vocab, _SEPARATOR + text, addSpecial=False)  # type: ignore[attr-defined]
        except UnicodeError:
            return self._greedy(text)
        for start in range(1, min(4, len(found))):
            if self._spells(found[:start]).strip(b" ") == _SEPARATOR and self._spells(found[start:]) == text:
                return found[start:]
        return self._greedy(text)

    def _spells(self, tokens: list[Token]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)

    def _greedy(self, text: bytes) -> list[Token]:
        """Tokenize greedily: the longest token that fits, again and again, until none does."""
        if not self._by_piece:
            specials = set(self.special_token_ids)
            self._by_piece = {piece: token for token, piece in enumerate(self.tokens) if token not in specials}
            self._longest = max(map(len, self._by_piece), default=0)
        found, place = [], 0
        while place < len(text):
            sizes = range(min(self._longest, len(text) - place), 0, -1)
            size = next((size for size in sizes if text[place : place + size] in self._by_piece), 0)
            if not size:
                break
            found.append(self._by_piece[text[place : place + size]])
            place += size
        return found
