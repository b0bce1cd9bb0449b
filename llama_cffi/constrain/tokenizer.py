"""A vocabulary as llguidance wants it: the bytes of every token, which ones are no text, and which end the output."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.enums import TokenAttr
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    from llama_cffi._core.handle import Handle

_PIECE = 512  # bytes: longer tokens are read one by one
_NO_TEXT = TokenAttr.CONTROL | TokenAttr.UNKNOWN
_MARK = b"\n"  # no tokenizer joins it to what follows

_made: weakref.WeakKeyDictionary[Handle, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def library() -> Any:
    """The module llguidance."""
    try:
        import llguidance
        import numpy  # noqa: F401  for the masks
    except ImportError as error:
        raise ImportError("constraints need llguidance and numpy: pip install 'llama-cffi[constrain]'") from error
    return llguidance


def tokenizer_of(vocab: Vocab) -> Any:
    """llguidance's view of a vocabulary: made once for a model, in about a second for 262,144 tokens."""
    with _lock:
        found = _made.get(vocab._model)
        if found is None:
            found = _made[vocab._model] = _make(vocab)
        return found


def _make(vocab: Vocab) -> Any:
    module = library()
    vocab._require_tokenizer()
    pieces, hidden, ends = _read(vocab)
    if not ends:
        raise ValueError(
            "this vocabulary has no end-of-generation token (vocab.isEog), so that constrained output could not end: "
            "name one in the file, as tokenizer.ggml.eos_token_id"
        )
    source = _Source(weakref.ref(vocab._model), pieces, hidden, ends)
    return module.LLTokenizer(module.TokenizerWrapper(source), eos_token=ends)


def _read(vocab: Vocab) -> tuple[list[bytes], list[Token], list[Token]]:
    """The bytes of all tokens; those that are no text; and those that end the generation, which are no text either."""
    pieces, hidden, ends = [], [], []
    buffer = ffi.new("char[]", _PIECE)
    view = ffi.buffer(buffer)
    attr, is_end, to_piece = lib.llama_vocab_get_attr, lib.llama_vocab_is_eog, lib.llama_token_to_piece
    with vocab._model._pinned():
        pointer = vocab._c
        for token in range(vocab.nTokens):
            end = is_end(pointer, token)
            special = end or bool(attr(pointer, token) & _NO_TEXT)
            size = to_piece(pointer, token, buffer, _PIECE, 0, special)
            pieces.append(view[:size] if size >= 0 else vocab._piece(token, 0, special))
            if special:
                hidden.append(token)
            if end:
                ends.append(token)
    return pieces, hidden, ends


class _Source:
    """What llguidance asks for. It must not keep the model alive: it is kept for as long as the model lives."""

    def __init__(
        self, model: Callable[[], Handle | None], pieces: list[bytes], hidden: list[Token], ends: list[Token]
    ) -> None:
        self.tokens, self.special_token_ids = pieces, hidden
        self.eos_token_id, self.bos_token_id = ends[0], None
        self._model = model
        self._longest = 0
        self._numbers: dict[bytes, Token] = {}

    def __call__(self, text: bytes) -> list[Token]:
        """How the model would spell a text that the grammar asks for."""
        model = self._model()
        if model is None or model._pointer is None:
            return self._greedy(text)
        try:
            found = tokenize(model.vocab, text, addSpecial=False)  # type: ignore[attr-defined]
            if self._spells(found) == text:
                return found
            # Some tokenizers put a space before a text. What was put before this one goes, with the space.
            found = tokenize(model.vocab, _MARK + text, addSpecial=False)  # type: ignore[attr-defined]
        except UnicodeError:
            return self._greedy(text)
        for start in range(1, min(4, len(found))):
            if self._spells(found[:start]).strip(b" ") == _MARK and self._spells(found[start:]) == text:
                return found[start:]
        return self._greedy(text)

    def _spells(self, tokens: list[Token]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)

    def _greedy(self, text: bytes) -> list[Token]:
        """The longest token, then the longest one of the rest; until no token fits."""
        if not self._numbers:
            hidden = set(self.special_token_ids)
            self._numbers = {piece: token for token, piece in enumerate(self.tokens) if token not in hidden}
            self._longest = max(map(len, self._numbers), default=0)
        found, place = [], 0
        while place < len(text):
            sizes = range(min(self._longest, len(text) - place), 0, -1)
            size = next((size for size in sizes if text[place : place + size] in self._numbers), 0)
            if not size:
                break
            found.append(self._numbers[text[place : place + size]])
            place += size
        return found
