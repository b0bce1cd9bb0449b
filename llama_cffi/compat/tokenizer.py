"""Tokens and bytes in llama-cpp-python's spelling: `LlamaTokenizer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_cffi.compat.unsupported import unsupported
from llama_cffi.model.model import Model
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab


class BaseLlamaTokenizer:
    """Base class of tokenizers."""

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        raise NotImplementedError

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        raise NotImplementedError


class LlamaTokenizer(BaseLlamaTokenizer):
    """The tokenizer of a model."""

    def __init__(self, llama: Any) -> None:
        """`llama` is a Llama, or a Model."""
        self._vocab: Vocab = getattr(llama, "_model", llama).vocab

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """Convert UTF-8 text to tokens. `add_bos` adds what the model adds to every text."""
        return tokenize(self._vocab, text, addSpecial=add_bos, parseSpecial=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Convert tokens to UTF-8 bytes. `prev_tokens` come before them: without any, a space after BOS is dropped."""
        return piece_bytes(self._vocab, tokens, special, not prev_tokens)

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """`tokenize` of a str."""
        return self.tokenize(text.encode("utf-8", errors="ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """`detokenize` as a str; bytes that are not UTF-8 are left out."""
        return self.detokenize(tokens).decode("utf-8", errors="ignore")

    @classmethod
    def from_ggml_file(cls, path: str) -> LlamaTokenizer:
        """Load the vocabulary of a file."""
        return cls(Model.load(path, Model.Params(vocabOnly=True)))


class LlamaHFTokenizer(BaseLlamaTokenizer):
    """Not supported: the tokenizer of the model's file is used."""

    def __init__(self, hf_tokenizer: Any) -> None:
        raise unsupported("LlamaHFTokenizer", "leave the tokenizer out: that of the model's file is used")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str) -> LlamaHFTokenizer:
        return cls(pretrained_model_name_or_path)


def piece_bytes(vocab: Vocab, tokens: Sequence[int], special: bool = False, first: bool = False) -> bytes:
    """Return the bytes of tokens. `first`: nothing comes before them, and a space after a BOS token is dropped."""
    for token in tokens:
        vocab._check(token)
    found = b"".join([vocab._piece(token, special=special) for token in tokens])
    if first and len(tokens) and tokens[0] == vocab.bos and not special:
        return found.removeprefix(b" ")
    return found
