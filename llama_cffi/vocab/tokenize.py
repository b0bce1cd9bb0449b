"""Text to tokens and back."""

from __future__ import annotations

import re
from typing import Any, overload

from llama_cffi._core.arguments import (
    BoolLike,
    OutBuffer,
    StrOrBytes,
    TokenSequence,
    new_uncleared,
    out_buffer,
    require_together,
    text_prefix,
    token_array,
)
from llama_cffi._core.base_types import Token
from llama_cffi._core.compat import is_pinned_version
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.large_stack import TOKENIZER_STACK_PER_BYTE, on_large_stack
from llama_cffi._generated.enums import VocabType
from llama_cffi.vocab.vocab import Vocab

# Most of llama.cpp's BPE tokenizers split text with std::regex, which calls itself for every character of a match. The
# text that one match can take ends at a space or after it, so that is what is measured. These have code instead:
_UNHURRIED = frozenset(
    # fmt: off
    (
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
        "dbrx",
        "smaug-bpe",
        "chatglm-bpe",
        "glm4",
        "glm5",
        "gpt-2",
        "phi-2",
        "jina-es",
        "jina-de",
        "gigachat",
        "jina-v2-es",
        "jina-v2-de",
        "a.x-4.0",
        "mellum",
        "modern-bert",
        "jina-v1-en",
        "jina-v2-code",
        "roberta-bpe",
        "exaone4",
        "mpt",
        "olmo",
        "jais",
        "trillion",
        "granite-docling",
        "starcoder",
        "refact",
        "command-r",
        "smollm",
        "codeshell",
        "exaone",
        "minerva-7b",
        "mellum2",
        "stablelm2",
        "qwen2",
        "deepseek-r1-qwen",
        "kormo",
        "f2llmv2",
        "megrez",
        "hunyuan",
        "solar-open",
        "grok-2",
        "qwen35",
        "kimi-k2",
        "gemma4",
        "granite-embed-multi-311m",
        "sarvam-moe",
        "laguna",
    )
    # fmt: on
)
_STRETCH = 512  # bytes that any stack has room for
_MOST = 1 << 20
_LONG_TEXT = 1 << 15  # bytes: shorter texts gain nothing from being cut
_LONG = re.compile(rb"[^ \t-\r]{256}|[ \t-\r]{256}")
_WORD = re.compile(rb"[^ \t-\r]+[ \t-\r]*|[ \t-\r]+")


@overload
def tokenize(
    vocab: Vocab,
    text: StrOrBytes,
    textLen: int | None = None,
    *,
    addSpecial: BoolLike = True,
    parseSpecial: BoolLike = False,
) -> list[Token]: ...
@overload
def tokenize(
    vocab: Vocab,
    text: StrOrBytes,
    textLen: int | None,
    tokens: OutBuffer,
    nTokensMax: int,
    addSpecial: BoolLike = True,
    parseSpecial: BoolLike = False,
) -> int: ...
def tokenize(
    vocab: Vocab,
    text: StrOrBytes,
    textLen: int | None = None,
    tokens: OutBuffer | None = None,
    nTokensMax: int | None = None,
    addSpecial: BoolLike = True,
    parseSpecial: BoolLike = False,
) -> list[Token] | int:
    """Convert text to tokens.

    `textLen` counts bytes of UTF-8; None takes all. `addSpecial` lets the model add its beginning and end tokens,
    `parseSpecial` reads control tokens in the text (leave it off for text that you do not trust).
    Without `tokens` and `nTokensMax`: returns the tokens as a list. With them: writes at most `nTokensMax` tokens
    (32-bit integers) and returns their number; a negative number is minus the number that is needed.
    Raises UnicodeError for bytes that are no UTF-8, ValueError for a length beyond the text or the buffer, NativeError
    where the model has no tokenizer, or lacks a token that it wants added.

    Maps to `llama_tokenize`.
    """
    _require_vocab(vocab)
    data = text_prefix(text, textLen, "text", "textLen")
    if not isinstance(text, str) or textLen is not None:
        data.decode("utf-8")  # llama.cpp throws on some malformed sequences and misreads others
    vocab._require_tokenizer()
    vocab._require_terminating()
    if addSpecial:
        vocab._require_special()
    if require_together(tokens, nTokensMax, "tokens and nTokensMax"):
        assert nTokensMax is not None
        array = out_buffer(tokens, "int32_t", nTokensMax, "tokens", "nTokensMax")
        return _call(vocab, data, array, nTokensMax, addSpecial, parseSpecial)
    cuts = vocab._cuts() if len(data) >= _LONG_TEXT and b"\0" not in data else None
    if addSpecial and cuts is not None and vocab.getAddEos():
        cuts = None  # the first piece would end with that token
    size = len(data) + 16  # a token is rarely shorter than a byte, and a second call would cost as much as the first
    while True:
        array, n = new_uncleared("int32_t[]", size), -1
        if cuts is not None:
            n = lib.shim_tokenize(vocab._c, data, len(data), array, size, addSpecial, parseSpecial, cuts)
        if n < 0:
            n = _call(vocab, data, array, size, addSpecial, parseSpecial)
        if n >= 0:
            found: list[Token] = ffi.unpack(array, n)
            return found
        if n == -(1 << 31):
            raise ValueError("the text has more than 2,147,483,647 tokens: tokenize it in pieces")
        size = -n


def _require_vocab(vocab: Vocab) -> None:
    if not isinstance(vocab, Vocab):
        raise TypeError(f"vocab is a Vocab, not {type(vocab).__name__}: pass model.vocab")


def _call(vocab: Vocab, data: bytes, array: Any, room: int, special: BoolLike, parse: BoolLike) -> int:
    def call() -> int:
        return lib.llama_tokenize(vocab._c, data, len(data), array, room, special, parse)

    stretch = _stretch(vocab, data)
    if stretch <= _STRETCH:
        return call()
    if stretch > _MOST:
        raise ValueError(
            f"the text has {stretch} bytes without a place where its tokenizer ({vocab._pre or 'default'}) surely "
            f"splits it, and more than {_MOST} would overflow the stack: tokenize it in pieces"
        )
    return on_large_stack(call, stretch * TOKENIZER_STACK_PER_BYTE)


def _stretch(vocab: Vocab, data: bytes) -> int:
    """How many bytes at most one match of a regular expression takes, where that costs stack; else 0."""
    if len(data) <= _STRETCH or vocab._type != VocabType.BPE or (vocab._pre in _UNHURRIED and is_pinned_version()):
        return 0
    if vocab._pre == "exaone-moe":  # whose words may go on after a space
        return len(data)
    if not _LONG.search(data):
        return 0
    return max(len(match[0]) for match in _WORD.finditer(data))


@overload
def detokenize(
    vocab: Vocab,
    tokens: TokenSequence,
    nTokens: int | None = None,
    *,
    removeSpecial: BoolLike = False,
    unparseSpecial: BoolLike = False,
) -> str: ...
@overload
def detokenize(
    vocab: Vocab,
    tokens: TokenSequence,
    nTokens: int | None,
    text: OutBuffer,
    textLenMax: int,
    removeSpecial: BoolLike = False,
    unparseSpecial: BoolLike = False,
) -> int: ...
def detokenize(
    vocab: Vocab,
    tokens: TokenSequence,
    nTokens: int | None = None,
    text: OutBuffer | None = None,
    textLenMax: int | None = None,
    removeSpecial: BoolLike = False,
    unparseSpecial: BoolLike = False,
) -> str | int:
    """Convert tokens to text.

    `nTokens` counts tokens; None takes all. `removeSpecial` drops the beginning and end tokens, `unparseSpecial`
    spells control tokens out. Without `text` and `textLenMax`: returns a str, with U+FFFD for bytes that are no UTF-8.
    With them: writes at most `textLenMax` bytes of UTF-8, without a closing NUL, and returns their number; a negative
    number is minus the length that is needed. Raises IndexError for a token that the vocabulary does not have.

    Maps to `llama_detokenize`.
    """
    _require_vocab(vocab)
    array, n = token_array(tokens, nTokens)
    vocab._require_tokenizer()
    bad = lib.shim_first_outside(array, n, vocab.nTokens)
    if bad >= 0:
        vocab._check(array[bad])
    if require_together(text, textLenMax, "text and textLenMax"):
        assert textLenMax is not None
        out = out_buffer(text, "char", textLenMax, "text", "textLenMax")
        return lib.llama_detokenize(vocab._c, array, n, out, textLenMax, removeSpecial, unparseSpecial)
    size = 8 * n + 16
    while True:
        out = new_uncleared("char[]", size)
        written = lib.llama_detokenize(vocab._c, array, n, out, size, removeSpecial, unparseSpecial)
        if written >= 0:
            return str(ffi.buffer(out, written), "utf-8", "replace")
        size = -written
