"""The vocabulary: what each token is, which ones are special, and how text becomes tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from llama_cffi._core.arguments import BoolLike, OutBuffer, out_buffer, require_together
from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import no_such_token
from llama_cffi._core.compat import is_pinned_version
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi._generated.enums import VocabType
from llama_cffi.errors import NativeError
from llama_cffi.vocab.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from llama_cffi._core.handle import Handle

_PIECE = 64  # bytes: nearly every token is shorter

_UNKNOWN: Any = object()

# Tokenizers that begin or end a text where the file says so; BERT's always does, the others never.
_ADDS = (VocabType.SPM, VocabType.BPE, VocabType.UGM)


class Vocab(Uncopyable, SpecialTokens):
    """A model's vocabulary. Lives as long as the model, keeps it alive, and may be used from any thread.

    Maps to `llama_vocab`.
    """

    _KIND = "vocabulary"

    __slots__ = ("_endless", "_goes_on", "_lacks", "_model", "_nTokens", "_pointer", "_pre", "_prefixes", "_type")

    def __init__(self, model: Handle, pre: str, prefixes: bool) -> None:
        """Not for users: `model.vocab` makes it. `pre` names the rule that BPE splits text by, `prefixes` says whether
        SentencePiece may put a space before a text."""
        self._model = model
        self._pointer = lib.llama_model_get_vocab(model._c)
        self._nTokens = lib.llama_vocab_n_tokens(self._pointer)
        self._type = VocabType(lib.llama_vocab_type(self._pointer))
        self._pre, self._prefixes = pre, prefixes
        self._lacks = self._lacking()
        self._endless: bool | None = None  # found out when it is first needed
        self._goes_on: Any = _UNKNOWN

    @property
    def _c(self) -> Any:
        if self._model._pointer is None:
            self._model._raise_closed()
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

    def getText(self, token: Token) -> str:
        """A token as the file spells it: `▁the` or `Ġthe`, `<0x0A>` for a byte. `tokenToPiece` gives its text.

        Raises IndexError for a token that the vocabulary does not have.

        Maps to `llama_vocab_get_text`.
        """
        self._check(token)
        with self._model._pinned():
            return bytes(ffi.string(lib.llama_vocab_get_text(self._pointer, token))).decode("utf-8", "replace")

    def getScore(self, token: Token) -> float:
        """A token's score in its tokenizer, 0 where there are none. Raises IndexError.

        Maps to `llama_vocab_get_score`.
        """
        self._check(token)
        return lib.llama_vocab_get_score(self._c, token)

    def getAttr(self, token: Token) -> int:
        """A sum of `TokenAttr`: `vocab.getAttr(t) & TokenAttr.BYTE`. Raises IndexError.

        Maps to `llama_vocab_get_attr`.
        """
        self._check(token)
        return lib.llama_vocab_get_attr(self._c, token)

    def isControl(self, token: Token) -> bool:
        """Whether a token steers the model and is no text. Raises IndexError.

        Maps to `llama_vocab_is_control`.
        """
        self._check(token)
        return lib.llama_vocab_is_control(self._c, token)

    def isEog(self, token: Token) -> bool:
        """Whether a token ends the generation (end of sequence, end of turn, ...).

        Maps to `llama_vocab_is_eog`.
        """
        return lib.llama_vocab_is_eog(self._c, token)

    @overload
    def tokenToPiece(self, token: Token, *, lstrip: int = 0, special: BoolLike = False) -> str: ...
    @overload
    def tokenToPiece(
        self, token: Token, buf: OutBuffer, length: int, lstrip: int = 0, special: BoolLike = False
    ) -> int: ...
    def tokenToPiece(
        self,
        token: Token,
        buf: OutBuffer | None = None,
        length: int | None = None,
        lstrip: int = 0,
        special: BoolLike = False,
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
        if require_together(buf, length, "buf and length"):
            assert length is not None
            array = out_buffer(buf, "char", length, "buf", "length")
            return lib.llama_token_to_piece(self._c, token, array, length, lstrip, special)
        return self._piece(token, lstrip, special).decode("utf-8", "replace")

    def _piece(self, token: Token, lstrip: int = 0, special: BoolLike = False) -> bytes:
        """The bytes of one token that was checked."""
        size = _PIECE
        while True:
            buffer = ffi.new("char[]", size)
            n = lib.llama_token_to_piece(self._c, token, buffer, size, lstrip, special)
            if n >= 0:
                return bytes(ffi.buffer(buffer, n))
            size = -n

    def _check(self, token: Token) -> None:
        self._require_tokenizer()
        if not 0 <= token < self._nTokens:
            raise no_such_token(token, self._nTokens)

    def _require_tokenizer(self) -> None:
        if self._type == VocabType.NONE:
            raise NativeError("this model carries no tokenizer: give token numbers to the batch instead of text")

    def _require_terminating(self) -> None:
        """Refuse to tokenize where llama.cpp would not come to an end: in RWKV, at a byte that only begins tokens."""
        if self._endless is None:
            self._endless = False
            if self._type == VocabType.RWKV:
                pieces = [self._piece(token, special=True) for token in range(self._nTokens)]
                alone = {piece for piece in pieces if len(piece) == 1}
                self._endless = any(piece[:1] not in alone for piece in pieces if piece)
        if self._endless:
            raise NativeError("this vocabulary has tokens that begin with a byte which is none: it cannot be searched")

    def _cuts(self) -> Any:
        """Which bytes a token may go on with after a newline, to cut long texts at the others; None: texts stay whole.

        For SentencePiece alone, where nothing is put before a text: its pieces would get that too.
        """
        if self._goes_on is _UNKNOWN:
            self._goes_on = None
            if self._type == VocabType.SPM and not self._prefixes and is_pinned_version():
                flags = ffi.new("_Bool[]", 256)
                if lib.shim_after_newline(self._c, flags):
                    self._goes_on = flags
        return self._goes_on

    def _require_special(self) -> None:
        """Refuse to add special tokens that the vocabulary lacks: llama.cpp would end the process."""
        if self._lacks:
            raise NativeError(
                f"this model wants its {self._lacks} token added to a text, but its vocabulary has none: "
                "pass addSpecial=False"
            )

    def __repr__(self) -> str:
        return f"<Vocab {self._type.name}, {self._nTokens} tokens>"

    def _lacking(self) -> str:
        """The special token that the model wants and lacks, if there is one."""
        bert = self._type == VocabType.WPM
        wanted = (
            ("bos", self.bos, bert or (self.getAddBos() and self._type in _ADDS)),
            ("eos", self.eos, self.getAddEos() and self._type in _ADDS),
            ("sep", self.sep, bert),
        )
        return next((name for name, token, add in wanted if add and token == TOKEN_NULL), "")
