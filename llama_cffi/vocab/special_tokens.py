"""The special tokens of a vocabulary (BOS, EOS, EOT, fill-in-the-middle, ...), and which of them `tokenize` adds."""

from __future__ import annotations

from llama_cffi._core.base_types import Token
from llama_cffi._core.ffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi._core.handle import Handle


class SpecialTokens:
    """The properties of `Vocab` for special tokens."""

    __slots__ = ()

    _model: Handle

    @property
    def _c(self) -> Any:
        raise NotImplementedError

    @property
    def bos(self) -> Token:
        """The beginning-of-sequence token (the CLS token of a BERT), or TOKEN_NULL.

        Maps to `llama_vocab_bos`.
        """
        return lib.llama_vocab_bos(self._c)

    @property
    def eos(self) -> Token:
        """The end-of-sequence token, or TOKEN_NULL.

        Maps to `llama_vocab_eos`.
        """
        return lib.llama_vocab_eos(self._c)

    @property
    def eot(self) -> Token:
        """The end-of-turn token of a chat, or TOKEN_NULL.

        Maps to `llama_vocab_eot`.
        """
        return lib.llama_vocab_eot(self._c)

    @property
    def sep(self) -> Token:
        """The token between sentences, or TOKEN_NULL.

        Maps to `llama_vocab_sep`.
        """
        return lib.llama_vocab_sep(self._c)

    @property
    def nl(self) -> Token:
        """The token of a line feed, or TOKEN_NULL.

        Maps to `llama_vocab_nl`.
        """
        return lib.llama_vocab_nl(self._c)

    @property
    def pad(self) -> Token:
        """The padding token, or TOKEN_NULL.

        Maps to `llama_vocab_pad`.
        """
        return lib.llama_vocab_pad(self._c)

    @property
    def mask(self) -> Token:
        """The mask token, which stands for a hidden token, or TOKEN_NULL.

        Maps to `llama_vocab_mask`.
        """
        return lib.llama_vocab_mask(self._c)

    @property
    def fimPre(self) -> Token:
        """The fill-in-the-middle token before the text that precedes the gap, or TOKEN_NULL.

        Maps to `llama_vocab_fim_pre`.
        """
        return lib.llama_vocab_fim_pre(self._c)

    @property
    def fimSuf(self) -> Token:
        """The fill-in-the-middle token before the text that follows the gap, or TOKEN_NULL.

        Maps to `llama_vocab_fim_suf`.
        """
        return lib.llama_vocab_fim_suf(self._c)

    @property
    def fimMid(self) -> Token:
        """The fill-in-the-middle token after which the model generates the text of the gap, or TOKEN_NULL.

        Maps to `llama_vocab_fim_mid`.
        """
        return lib.llama_vocab_fim_mid(self._c)

    @property
    def fimPad(self) -> Token:
        """The fill-in-the-middle padding token, or TOKEN_NULL.

        Maps to `llama_vocab_fim_pad`.
        """
        return lib.llama_vocab_fim_pad(self._c)

    @property
    def fimRep(self) -> Token:
        """The token before the name of a code repository, or TOKEN_NULL.

        Maps to `llama_vocab_fim_rep`.
        """
        return lib.llama_vocab_fim_rep(self._c)

    @property
    def fimSep(self) -> Token:
        """The token between the files of a code repository, or TOKEN_NULL.

        Maps to `llama_vocab_fim_sep`.
        """
        return lib.llama_vocab_fim_sep(self._c)

    def getAddBos(self) -> bool:
        """Return True if `tokenize` with `addSpecial` puts `bos` before a text.

        Maps to `llama_vocab_get_add_bos`.
        """
        return lib.llama_vocab_get_add_bos(self._c)

    def getAddEos(self) -> bool:
        """Return True if `tokenize` with `addSpecial` puts `eos` after a text.

        Maps to `llama_vocab_get_add_eos`.
        """
        return lib.llama_vocab_get_add_eos(self._c)

    def getAddSep(self) -> bool:
        """Return True if the model expects `sep` after a text.

        Maps to `llama_vocab_get_add_sep`.
        """
        return lib.llama_vocab_get_add_sep(self._c)

    def getSuppressTokens(self) -> list[Token]:
        """Return the tokens that the model must never generate, as a new list.

        Maps to `llama_vocab_get_suppress_tokens`.
        """
        count = ffi.new("int32_t *")
        with self._model._pinned():
            array = lib.llama_vocab_get_suppress_tokens(self._c, count)
            return [] if array == ffi.NULL else list(ffi.unpack(array, count[0]))
