"""llama.cpp's own tokenizer vectors: every file, every line, through `tokenize` and back through `detokenize`."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from llama_cffi import Model, detokenize, tokenize
from llama_cffi._core.compat import is_pinned_version
from vendor.source import fetch

SEPARATOR = b"\n__ggml_vocab_test__\n"
INPUTS = sorted(fetch.vectors_dir().glob("*.gguf.inp"))


def _cases(path: Path) -> list[tuple[str, list[int]]]:
    data = path.read_bytes()
    inputs = [piece.decode("utf-8") for piece in data.removesuffix(SEPARATOR).split(SEPARATOR)]
    lines = path.with_suffix(".out").read_text().removesuffix("\n").split("\n")
    outputs = [[int(x) for x in line.split()] for line in lines]
    assert len(inputs) == len(outputs) > 40
    return list(zip(inputs, outputs, strict=True))


def test_all_vectors_are_there() -> None:
    assert len(INPUTS) == 15 if is_pinned_version() else INPUTS


@pytest.mark.parametrize("path", INPUTS, ids=lambda p: p.name.removesuffix(".gguf.inp"))
def test_vectors(path: Path) -> None:
    with Model.load(path.with_suffix(""), Model.Params(vocabOnly=True)) as model:
        for text, expected in _cases(path):
            assert tokenize(model.vocab, text, addSpecial=False) == expected, repr(text)
            out = array("i", [0] * (len(expected) + 1))
            size = len(text.encode())
            assert tokenize(model.vocab, text, size, out, len(out), False, False) == len(expected)
            assert list(out)[: len(expected)] == expected


@pytest.mark.parametrize("name", ["llama-bpe", "gpt-2", "qwen2", "falcon"])
def test_byte_level_vocabularies_give_the_text_back(name: str) -> None:
    path = next(p for p in INPUTS if p.name == f"ggml-vocab-{name}.gguf.inp")
    with Model.load(path.with_suffix(""), Model.Params(vocabOnly=True)) as model:
        for text, tokens in _cases(path):
            buffer = bytearray(4 * len(text) + 16)
            n = detokenize(model.vocab, tokens, len(tokens), buffer, len(buffer), False, True)
            assert bytes(buffer[:n]).decode() == detokenize(model.vocab, tokens, unparseSpecial=True)
            pieces = "".join(model.vocab.tokenToPiece(t, special=True) for t in tokens)
            assert text == pieces or "\ufffd" in pieces  # a character may be spread over several tokens
