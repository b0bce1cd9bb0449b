"""`tokenize` and `detokenize`: convert text to tokens and tokens to text."""

from __future__ import annotations

from functools import partial

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
from llama_cffi._core.checks import expected
from llama_cffi._core.compat import is_pinned_version
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums
from llama_cffi.vocab.vocab import Vocab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, overload
else:
    from llama_cffi._core.stand_ins import overload

# Most BPE tokenizers of llama.cpp split text with std::regex, which recurses for every character of a match. A match
# ends at a space or after it, so the longest word decides how much stack is needed. These pre-tokenizers do without it:
_WITHOUT_REGEX = frozenset(
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
        "k2-horizon",
        "mmbert",
        "gemma4",
        "granite-embed-multi-311m",
        "sarvam-moe",
        "laguna",
    )
    # fmt: on
)
_ANY_STACK = 512  # bytes that can be matched on a stack of any size
_LONGEST_MATCH = 1 << 20  # bytes
_LONG_TEXT = 1 << 15  # bytes: to cut shorter texts does not save time
_SLOW_TEXT = 1 << 18  # bytes: takes more than a moment, and nothing can interrupt C
_LONG = rb"[^ \t-\r]{256}|[ \t-\r]{256}"
_WORD = rb"[^ \t-\r]+[ \t-\r]*|[ \t-\r]+"


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

    `textLen` is a number of UTF-8 bytes; None means the whole text. `addSpecial` adds the model's BOS and EOS tokens as
    its file says; `parseSpecial` recognizes control tokens in the text (leave it off for text that you do not trust).
    Without `tokens` and `nTokensMax`: returns the tokens as a list. With them: writes at most `nTokensMax` tokens
    (int32) and returns their number, or minus the required number if it is larger than `nTokensMax`.
    Ctrl-C interrupts it: a long text is tokenized on a thread, which then ends unheard.
    Raises UnicodeError for bytes that are not valid UTF-8, ValueError for a length beyond the text or the buffer and
    for a text that would take minutes, and NativeError if the model has no tokenizer, or its vocabulary lacks a special
    token that it adds.

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
    if len(data) >= _LONG_TEXT:
        vocab._require_work(len(data))
    if require_together(tokens, nTokensMax, "tokens and nTokensMax"):
        assert nTokensMax is not None
        array = out_buffer(tokens, "int32_t", nTokensMax, "tokens", "nTokensMax")
        if len(data) < _SLOW_TEXT:
            return _call(vocab, data, array, nTokensMax, addSpecial, parseSpecial)
        scratch = new_uncleared("int32_t[]", nTokensMax or 1)  # an interrupted call goes on to write
        n = _call(vocab, data, scratch, nTokensMax, addSpecial, parseSpecial)
        ffi.memmove(array, scratch, 4 * max(n, 0))
        return n
    cuts = vocab._cuts() if len(data) >= _LONG_TEXT and b"\0" not in data else None
    if addSpecial and cuts is not None and vocab.getAddEos():
        cuts = None  # every piece would end with EOS
    size = len(data) + 16  # nearly always enough: a second call would cost as much as the first
    while True:
        array, n = new_uncleared("int32_t[]", size), -1
        if cuts is not None:
            n = _in_pieces(vocab, data, array, size, addSpecial, parseSpecial, cuts)
        if n < 0:
            n = _call(vocab, data, array, size, addSpecial, parseSpecial)
        if n >= 0:
            found: list[Token] = ffi.unpack(array, n)
            return found
        if n == -(1 << 31):
            raise ValueError("the text has more than 2,147,483,647 tokens: tokenize it in pieces")
        size = -n


def _in_pieces(
    vocab: Vocab, data: bytes, array: Any, capacity: int, special: BoolLike, parse: BoolLike, cuts: Any
) -> int:
    def call() -> int:
        return lib.shim_tokenize(vocab._c, data, len(data), array, capacity, special, parse, cuts)

    if len(data) < _SLOW_TEXT:
        return call()
    from llama_cffi._core.large_stack import on_large_stack

    return on_large_stack(partial(_pinned, vocab, call), 0, leave=True)


def _require_vocab(vocab: Vocab) -> None:
    if not isinstance(vocab, Vocab):
        raise expected("a Vocab", vocab, "pass model.vocab", "vocab")


def _call(vocab: Vocab, data: bytes, array: Any, capacity: int, special: BoolLike, parse: BoolLike) -> int:
    def call() -> int:
        return lib.llama_tokenize(vocab._c, data, len(data), array, capacity, special, parse)

    longest = _longest_match(vocab, data)
    if longest <= _ANY_STACK and len(data) < _SLOW_TEXT:
        return call()
    if longest > _LONGEST_MATCH:
        raise ValueError(
            f"the tokenizer ({vocab._pre or 'default'}) may match {longest} bytes of the text at once, and more than "
            f"{_LONGEST_MATCH} would overflow the stack: tokenize it in pieces"
        )
    from llama_cffi._core.large_stack import TOKENIZER_STACK_PER_BYTE, on_large_stack

    return on_large_stack(partial(_pinned, vocab, call), longest * TOKENIZER_STACK_PER_BYTE, len(data) >= _SLOW_TEXT)


def _pinned(vocab: Vocab, call: Callable[[], int]) -> int:
    """Make a call that goes on if Ctrl-C ends the waiting for it, and needs the model until its end."""
    with vocab._model._pinned():
        return call()


def _longest_match(vocab: Vocab, data: bytes) -> int:
    """An upper bound for the bytes that std::regex matches at once; 0 if the tokenizer does not use it."""
    if (
        len(data) <= _ANY_STACK
        or vocab._type != enums.VocabType.BPE
        or (vocab._pre in _WITHOUT_REGEX and is_pinned_version())
    ):
        return 0
    if vocab._pre == "exaone-moe":  # its words may contain spaces
        return len(data)
    import re  # only these tokenizers need it

    if not re.search(_LONG, data):
        return 0
    return max(len(match[0]) for match in re.finditer(_WORD, data))


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

    `nTokens` is the number of tokens to read; None means all. `removeSpecial` drops BOS and EOS tokens,
    `unparseSpecial` renders control tokens as text. Without `text` and `textLenMax`: returns a str, with U+FFFD for
    bytes that are not valid UTF-8. With them: writes at most `textLenMax` bytes of UTF-8 without a terminating NUL, and
    returns their number, or minus the required length if it is larger than `textLenMax`. Raises IndexError if the
    vocabulary does not contain a token.

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
