"""tokenize, detokenize and tokenToPiece: the two forms of each, every kind of buffer, and wrong arguments."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from llama_cffi import Model, detokenize, ffi, lib, tokenize

TEXT = "Grüße aus 東京, über 3.14 🎉"


def _token_buffers() -> list[Any]:
    zeros = [0] * 64
    return [
        array("i", zeros),
        np.zeros(64, np.int32),
        ffi.new("int32_t[]", 64),
        bytearray(256),
        memoryview(bytearray(256)),
    ]


@pytest.mark.parametrize("index", range(5))
def test_token_buffers_of_every_kind(tiny: Model, index: int) -> None:
    out = _token_buffers()[index]
    expected = tokenize(tiny.vocab, TEXT)
    n = tokenize(tiny.vocab, TEXT, len(TEXT.encode()), out, 64, True, False)
    assert n == len(expected)
    view = out if isinstance(out, ffi.CData) else memoryview(out).cast("B").cast("i")
    assert list(view[0:n]) == expected
    back = bytearray(256)
    length = detokenize(tiny.vocab, out, n, back, 256, True, False)
    assert back[:length].decode().strip() == TEXT


def test_too_small_a_buffer_answers_as_c_does(tiny: Model) -> None:
    expected = tokenize(tiny.vocab, TEXT)
    assert tokenize(tiny.vocab, TEXT, None, array("i", [0, 0]), 2) == -len(expected)
    text = detokenize(tiny.vocab, expected, removeSpecial=True)
    assert detokenize(tiny.vocab, expected, len(expected), bytearray(4), 4, True) == -len(text.encode())


def test_tokens_equal_raw_c(tiny: Model) -> None:
    raw = ffi.new("llama_token[]", 64)
    data = TEXT.encode()
    n = lib.llama_tokenize(lib.llama_model_get_vocab(tiny._c), data, len(data), raw, 64, False, True)
    assert tokenize(tiny.vocab, TEXT, addSpecial=False, parseSpecial=True) == list(raw[0:n])


def test_special_tokens(tiny: Model) -> None:
    assert tokenize(tiny.vocab, "a")[0] == tiny.vocab.bos == 1
    assert tiny.vocab.eos in tokenize(tiny.vocab, "</s>", parseSpecial=True)
    assert tiny.vocab.eos not in tokenize(tiny.vocab, "</s>")
    assert tiny.vocab.isEog(tiny.vocab.eos)
    assert not tiny.vocab.isEog(100)
    assert not tiny.vocab.isEog(-1)
    assert detokenize(tiny.vocab, [1, 2]) == ""
    assert detokenize(tiny.vocab, [1, 2], unparseSpecial=True) == "<s></s>"
    assert tiny.vocab.tokenToPiece(2, special=True) == "</s>"


def test_text_length_counts_bytes(tiny: Model) -> None:
    assert tokenize(tiny.vocab, "Hello world", 5) == tokenize(tiny.vocab, "Hello")
    assert tokenize(tiny.vocab, b"Hello world", 5) == tokenize(tiny.vocab, "Hello")
    with pytest.raises(ValueError, match="11 bytes"):
        tokenize(tiny.vocab, "Hello world", 12)
    with pytest.raises(UnicodeDecodeError):
        tokenize(tiny.vocab, "é", 1)
    with pytest.raises(UnicodeDecodeError):
        tokenize(tiny.vocab, b"\xf5\x80\x80\x80")
    with pytest.raises(UnicodeEncodeError):
        tokenize(tiny.vocab, "\ud800")


def test_long_text_and_empty_text(tiny: Model) -> None:
    assert len(tokenize(tiny.vocab, "a b " * 50_000)) > 100_000
    assert tokenize(tiny.vocab, "", addSpecial=False) == []
    assert detokenize(tiny.vocab, []) == ""
    assert tokenize(tiny.vocab, "a\0b", addSpecial=False) != tokenize(tiny.vocab, "a", addSpecial=False)


def test_piece_into_a_buffer(tiny: Model) -> None:
    token = tokenize(tiny.vocab, "Hello", addSpecial=False)[0]
    buf = bytearray(16)
    n = tiny.vocab.tokenToPiece(token, buf, 16, 0, False)
    assert buf[:n].decode() == tiny.vocab.tokenToPiece(token) == " Hello"
    assert tiny.vocab.tokenToPiece(token, buf, 16, 1, False) == n - 1
    assert tiny.vocab.tokenToPiece(token, buf, 2) == -n


def test_every_piece_of_the_vocabulary(tiny: Model) -> None:
    raw = ffi.new("char[]", 256)
    for token in range(0, tiny.vocab.nTokens, 7):
        n = lib.llama_token_to_piece(tiny.vocab._c, token, raw, 256, 0, True)
        assert tiny.vocab.tokenToPiece(token, special=True) == bytes(ffi.buffer(raw, n)).decode("utf-8", "replace")


@pytest.mark.parametrize("token", [-1, 32000, 99_999_999])
def test_tokens_outside_of_the_vocabulary(tiny: Model, token: int) -> None:
    with pytest.raises(IndexError, match="between 0 and 31999"):
        tiny.vocab.tokenToPiece(token)
    with pytest.raises(IndexError, match="between 0 and 31999"):
        detokenize(tiny.vocab, [1, token])


@pytest.mark.parametrize(
    ("out", "count", "error", "words"),
    [
        (array("i", [0] * 4), 5, ValueError, "room for 4"),
        (array("i", [0] * 4), -1, ValueError, "room for 4"),
        (array("f", [0] * 64), 64, TypeError, "int32_t"),
        (np.zeros(64, np.int64), 64, TypeError, "int32_t"),
        (np.zeros((64, 2), np.int32)[:, 0], 64, ValueError, "contiguous"),
        (bytes(256), 64, TypeError, "read-only"),
        ([0] * 64, 64, TypeError, "bytearray"),
        (ffi.new("int64_t[]", 64), 64, TypeError, "int32_t"),
        (ffi.new("int32_t *"), 1, TypeError, "array of int32_t"),
    ],
)
def test_buffers_that_do_not_fit(tiny: Model, out: Any, count: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tokenize(tiny.vocab, "Hello", 5, out, count)


def test_a_buffer_and_its_length_come_together(tiny: Model) -> None:
    with pytest.raises(TypeError, match="belong together"):
        tokenize(tiny.vocab, "Hello", 5, array("i", [0] * 9))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="belong together"):
        detokenize(tiny.vocab, [1], 1, None, 5)  # type: ignore[call-overload]


def test_tokens_that_are_none(tiny: Model) -> None:
    with pytest.raises(TypeError, match="write \\[5\\]"):
        detokenize(tiny.vocab, 5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="expected a sequence of tokens, got str"):
        detokenize(tiny.vocab, "text")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="token numbers"):
        detokenize(tiny.vocab, [1.5])  # type: ignore[list-item]
    with pytest.raises(OverflowError, match="token numbers"):
        detokenize(tiny.vocab, [1 << 40])
    with pytest.raises(ValueError, match="has 1 elements"):
        detokenize(tiny.vocab, [1], 2)
    assert detokenize(tiny.vocab, range(300, 303)) == detokenize(tiny.vocab, (300, 301, 302))
