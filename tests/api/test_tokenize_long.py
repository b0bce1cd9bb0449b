"""Long texts are tokenized in pieces where that changes nothing: the tokens are those of one call."""

from __future__ import annotations

import random

import pytest

from llama_cffi import Model, TokenAttr, Vocab, ffi, lib, tokenize
from llama_cffi._core.compat import is_pinned_version

PARTS = [
    *("\n", "\n\n", "\n\n\n\n", " \n", "\n ", "\n\t", "\r\n", "\t", " ", "   ", "\n  - ", "\n## ", "\n```python\n"),
    *(
        "word",
        "Some words here.",
        "日本語",
        "🙂",
        "é",
        "<b>",
        "</table>\n<tr>",
        "<start_of_turn>user\n",
        "<eos>",
        "\n<bos>",
    ),
    *("def f(x):\n    return x\n", '{"a": [1, 2]}\n', "1,234.5", "\n\n\n<div>", "a\nb", "\x01", "▁", "\n▁x"),
]


def whole(vocab: Vocab, text: str, special: bool, parse: bool) -> list[int]:
    """What one call of C gives."""
    data = text.encode()
    array = ffi.new("int32_t[]", len(data) + 16)
    n = lib.llama_tokenize(vocab._c, data, len(data), array, len(array), special, parse)
    assert n >= 0
    return ffi.unpack(array, n)


def mixed(seed: int, parts: list[str], size: int = 120_000) -> str:
    rng = random.Random(seed)
    text: list[str] = []
    length = 0
    while length < size:
        text.append(rng.choice(parts) * rng.choice((1, 1, 1, 2, 5)))
        length += len(text[-1].encode())
    return "".join(text)


@pytest.mark.parametrize("parse", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_tokens_are_those_of_one_call(gemma: Model, seed: int, parse: bool) -> None:
    vocab = gemma.vocab
    assert (vocab._cuts() is not None) == is_pinned_version()
    text = mixed(seed, PARTS)
    assert tokenize(vocab, text, parseSpecial=parse) == whole(vocab, text, True, parse)


def test_with_every_token_that_has_a_newline(gemma: Model) -> None:
    vocab = gemma.vocab
    spelled = [vocab.getText(token) for token in range(vocab.nTokens)]
    parts = [text.replace("▁", " ") for text in spelled if "\n" in text]
    assert len(parts) > 20
    for seed in range(4):
        text = mixed(seed, [*parts, "x", " y", "1"])
        for special in (False, True):
            assert tokenize(vocab, text, addSpecial=special) == whole(vocab, text, special, False)


def test_what_a_token_has_after_a_newline_is_known(gemma: Model) -> None:
    vocab = gemma.vocab
    flags = vocab._cuts()
    if not is_pinned_version():  # another llama.cpp than the one that this was thought through with
        assert flags is None
        return
    spelled = [vocab.getText(token).encode() for token in range(vocab.nTokens)]
    after = {text[i + 1] for text in spelled for i in range(len(text) - 1) if text[i] == 10}
    assert {byte for byte in range(256) if flags[byte]} - after <= {0, 0x20, 0xE2}
    assert after <= {byte for byte in range(256) if flags[byte]} and not flags[ord("w")]
    assert not any(vocab.getAttr(token) & (TokenAttr.LSTRIP | TokenAttr.RSTRIP) for token in range(vocab.nTokens))


def test_a_text_without_a_place_to_cut(gemma: Model) -> None:
    for text in ("word " * 20_000, "\n" * 50_000, "\n\n\n" * 20_000 + "x"):
        assert tokenize(gemma.vocab, text) == whole(gemma.vocab, text, True, False)


def test_a_vocabulary_that_begins_texts_with_a_space_is_not_cut(tiny: Model) -> None:
    assert tiny.vocab._cuts() is None
    text = mixed(1, PARTS)
    assert tokenize(tiny.vocab, text) == whole(tiny.vocab, text, True, False)
