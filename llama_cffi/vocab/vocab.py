"""The vocabulary: token texts, scores and attributes, and checks before text is tokenized."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from llama_cffi._core.arguments import BoolLike, OutBuffer, meta_text, out_buffer, require_together
from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected, no_such_token, require_integers
from llama_cffi._core.compat import is_pinned_version, member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi._generated import enums
from llama_cffi.errors import NativeError
from llama_cffi.vocab.special_tokens import SpecialTokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, overload

    from llama_cffi._generated.enums import VocabType
else:
    from llama_cffi._core.stand_ins import overload

_PIECE_BYTES = 64  # nearly every token is shorter
_MAX_WORK = 1 << 36  # steps to tokenize a text

_NOT_COMPUTED: Any = object()


class Vocab(Uncopyable, SpecialTokens):
    """A model's vocabulary. It lives as long as the model and keeps it alive. Any thread may use it.

    Maps to `llama_vocab`.
    """

    _KIND = "vocabulary"
    _MADE_BY = "model.vocab is that of a model"

    __slots__ = (
        "_after_newline",
        "_endless",
        "_longest",
        "_missing",
        "_model",
        "_nTokens",
        "_pointer",
        "_pre",
        "_space_prefix",
        "_type",
    )

    _pre: str  # the name of the rule that a BPE tokenizer splits text by
    _space_prefix: bool  # SentencePiece may put a space before a text
    _missing: str  # a special token that the model adds to texts, but its vocabulary lacks; empty if there is none
    _endless: bool | None  # llama.cpp might not come to an end; None: not computed
    _longest: int  # bytes of the longest token; 0: not computed
    _after_newline: Any  # the cuts of `_cuts`, or _NOT_COMPUTED

    def __init__(self, model: Handle, overrides: Mapping[str, Any]) -> None:
        """Internal: use `model.vocab`. `overrides` replace metadata of the file."""
        if not isinstance(model, Handle):
            raise TypeError(f"Vocab objects are not made by calling the class: {self._MADE_BY}")
        self._model = model
        self._pointer = lib.llama_model_get_vocab(model._c)
        self._nTokens = lib.llama_vocab_n_tokens(self._pointer)
        self._type = enums.VocabType(lib.llama_vocab_type(self._pointer))
        self._pre = str(_metadata(model, "tokenizer.ggml.pre", overrides) or "")
        self._space_prefix = _metadata(model, "tokenizer.ggml.add_space_prefix", overrides) not in ("false", False)
        self._missing = self._missing_special()
        self._endless = None
        self._longest = 0
        self._after_newline = _NOT_COMPUTED

    @property
    def _c(self) -> Any:
        if self._model._pointer is None:
            self._model._raise_closed()
        return self._pointer

    @property
    def nTokens(self) -> int:
        """The number of tokens.

        Maps to `llama_vocab_n_tokens`.
        """
        return self._nTokens

    @property
    def type(self) -> VocabType:
        """The type of tokenizer; `NONE` for a model without one.

        Maps to `llama_vocab_type`.
        """
        return self._type

    def getText(self, token: Token) -> str:
        """Return a token as the file spells it: `▁the` or `Ġthe`, `<0x0A>` for a byte. See `tokenToPiece` for its text.

        Raises IndexError if the vocabulary does not contain the token.

        Maps to `llama_vocab_get_text`.
        """
        self._check(token)
        with self._model._pinned():
            return bytes(ffi.string(lib.llama_vocab_get_text(self._pointer, token))).decode("utf-8", "replace")

    def getScore(self, token: Token) -> float:
        """Return a token's score; 0 if the tokenizer has no scores. Raises IndexError for an unknown token.

        Maps to `llama_vocab_get_score`.
        """
        self._check(token)
        return lib.llama_vocab_get_score(self._c, token)

    def getAttr(self, token: Token) -> int:
        """Return a bit mask of `TokenAttr`: `vocab.getAttr(t) & TokenAttr.BYTE`. Raises IndexError.

        Maps to `llama_vocab_get_attr`.
        """
        self._check(token)
        return lib.llama_vocab_get_attr(self._c, token)

    def isControl(self, token: Token) -> bool:
        """Return True if a token is a control token rather than text. Raises IndexError for an unknown token.

        Maps to `llama_vocab_is_control`.
        """
        self._check(token)
        return lib.llama_vocab_is_control(self._c, token)

    def isEog(self, token: Token) -> bool:
        """Return True if a token ends the generation (end of sequence, end of turn, ...).

        Maps to `llama_vocab_is_eog`.
        """
        try:
            return lib.llama_vocab_is_eog(self._c, token)
        except (TypeError, ValueError):
            require_integers(token=token)
            raise

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
        """Return the text of one token.

        Without `buf` and `length`: returns a str, with U+FFFD for bytes that are not valid UTF-8 alone. (Several tokens
        may share a character: to stream text, use the form with a buffer and an incremental decoder.)
        With them: writes at most `length` bytes of UTF-8 without a terminating NUL, and returns the number of bytes, or
        minus the required length if it is larger than `length`. `lstrip` is the number of leading spaces to skip;
        `special=True` renders control tokens as text. Raises IndexError if the vocabulary does not contain the token.

        Maps to `llama_token_to_piece`.
        """
        self._check(token)
        if require_together(buf, length, "buf and length"):
            assert length is not None
            array = out_buffer(buf, "char", length, "buf", "length")
            return lib.llama_token_to_piece(self._c, token, array, length, lstrip, special)
        try:
            return self._piece(token, lstrip, special).decode("utf-8", "replace")
        except (TypeError, ValueError):
            require_integers(lstrip=lstrip, special=special)
            raise

    def _piece(self, token: Token, lstrip: int = 0, special: BoolLike = False) -> bytes:
        """The bytes of a token that is known to be valid."""
        size = _PIECE_BYTES
        while True:
            buffer = ffi.new("char[]", size)
            n = lib.llama_token_to_piece(self._c, token, buffer, size, lstrip, special)
            if n >= 0:
                return bytes(ffi.buffer(buffer, n))
            size = -n

    def _check(self, token: Token) -> None:
        self._require_tokenizer()
        try:
            if type(token) is not int:  # C converts numbers of numpy, and more than it should
                operator.index(token)
                ffi.new("int64_t[1]", [token])
            known = 0 <= token < self._nTokens
        except Exception:  # an object may raise anything
            raise expected("an integer", token, name="token") from None
        if not known:
            raise no_such_token(token, self._nTokens)

    def _require_tokenizer(self) -> None:
        if self._type == enums.VocabType.NONE:
            raise NativeError("this model has no tokenizer: put token numbers into the batch instead of text")

    def _require_terminating(self) -> None:
        """Refuse to tokenize if llama.cpp may loop endlessly: RWKV does at a byte that begins tokens but is not one."""
        if self._endless is None:
            self._endless = False
            if self._type == enums.VocabType.RWKV:
                pieces = [self._piece(token, special=True) for token in range(self._nTokens)]
                alone = {piece for piece in pieces if len(piece) == 1}
                self._endless = any(piece[:1] not in alone for piece in pieces if piece)
        if self._endless:
            raise NativeError(
                "this vocabulary cannot tokenize text: some tokens begin with a byte that is not a token itself. The "
                "file is damaged: download it again"
            )

    def _require_work(self, size: int) -> None:
        """Refuse to tokenize `size` bytes if that may take more steps than a minute has."""
        if not self._longest:
            self._longest = max(1, lib.shim_longest_text(self._c))
        # Each place may be tried with a token of each length, and WordPiece makes a copy for each.
        work = size * self._longest * (self._longest if self._type == enums.VocabType.WPM else 1)
        if work > _MAX_WORK:
            raise ValueError(
                f"the text has {size} bytes and the longest token of the vocabulary {self._longest}, so this may take "
                f"{work} steps, and the limit is {_MAX_WORK}: tokenize it in pieces"
            )

    def _cuts(self) -> Any:
        """Flags, by byte, of what may follow a newline within a token; a long text may be cut before any other byte.

        None if texts must not be cut. Only SentencePiece without a space prefix allows it: each piece would get one.
        """
        if self._after_newline is _NOT_COMPUTED:
            self._after_newline = None
            if self._type == enums.VocabType.SPM and not self._space_prefix and is_pinned_version():
                flags = ffi.new("_Bool[]", 256)
                if lib.shim_after_newline(self._c, flags):
                    self._after_newline = flags
        return self._after_newline

    def _require_special(self) -> None:
        """Refuse to add a special token that the vocabulary lacks: llama.cpp would end the process."""
        if self._missing:
            raise NativeError(
                f"this model adds a {self._missing} token to texts, but its vocabulary does not contain one: pass "
                "addSpecial=False"
            )

    def __repr__(self) -> str:
        closed = ", its model is closed" if self._model.closed else ""
        return f"<Vocab {self._type.name}, {self._nTokens} tokens{closed}>"

    def _missing_special(self) -> str:
        """The name of a special token that the tokenizer adds but the vocabulary lacks; empty if it lacks nothing."""
        bert = self._type == enums.VocabType.WPM  # adds them always; others if the file says so, or never
        optional = self._type in (
            *(enums.VocabType.SPM, enums.VocabType.BPE, enums.VocabType.UGM),
            member(enums.VocabType, "PLAMO3"),
        )
        added = (
            ("bos", self.bos, bert or (optional and self.getAddBos())),
            ("eos", self.eos, optional and self.getAddEos()),
            ("sep", self.sep, bert),
        )
        return next((name for name, token, adds in added if adds and token == TOKEN_NULL), "")


def _metadata(model: Handle, key: str, overrides: Mapping[str, Any]) -> Any:
    """A metadata value as llama.cpp sees it; None if it is missing."""
    if key in overrides:
        return overrides[key]
    name = key.encode()
    return meta_text(lambda out, size: lib.llama_model_meta_val_str(model._c, name, out, size), None, None)
