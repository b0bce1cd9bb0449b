"""Prompts for fill-in-the-middle, in the form of llama-server's `/infill`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import TOKEN_NULL, Model, Vocab, infillPrompt, tokenize
from llama_cffi.vocab import infill

PREFIX, SUFFIX = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"


def plain(vocab: Vocab, text: str) -> list[int]:
    return tokenize(vocab, text, addSpecial=False)


@pytest.fixture(params=["deepseek-coder", "refact", "starcoder"])
def coder(request: pytest.FixtureRequest, vectors: Path) -> Iterator[Model]:
    with Model.load(vectors / f"ggml-vocab-{request.param}.gguf", Model.Params(vocabOnly=True)) as model:
        yield model


def head(vocab: Vocab) -> list[int]:
    return [] if vocab.fimRep == TOKEN_NULL else [vocab.fimRep, *plain(vocab, "myproject\n")]


def bos(vocab: Vocab) -> list[int]:
    return [vocab.bos] if vocab.getAddBos() else []


def test_the_order_of_the_parts(coder: Model) -> None:
    vocab = coder.vocab
    before = [vocab.fimPre, *plain(vocab, PREFIX)]
    after = [vocab.fimSuf, *plain(vocab, SUFFIX)]
    assert infillPrompt(vocab, PREFIX, SUFFIX) == [*head(vocab), *bos(vocab), *before, *after, vocab.fimMid]
    found = infillPrompt(vocab, PREFIX, SUFFIX, "return ", suffixFirst=True)
    begun = plain(vocab, "return ")
    assert found == [*head(vocab), *bos(vocab), *after, *before, *begun, vocab.fimMid]


def test_control_tokens_of_texts_are_text(coder: Model) -> None:
    vocab = coder.vocab
    spelled = vocab.tokenToPiece(vocab.fimMid, special=True)
    assert infillPrompt(vocab, spelled, spelled, extra=[("a", spelled)]).count(vocab.fimMid) == 1
    assert infillPrompt(vocab, "a", "b", spelled).count(vocab.fimMid) == 2


def test_limits(coder: Model) -> None:
    vocab = coder.vocab
    long = " ".join(str(n) for n in range(200))
    tokens = plain(vocab, long)
    before = len(head(vocab)) + len(bos(vocab))
    found = infillPrompt(vocab, long, long, limit=43)  # 30 of the prefix, 8 of the suffix
    assert found[before:] == [vocab.fimPre, *tokens[-30:], vocab.fimSuf, *tokens[:8], vocab.fimMid]
    assert infillPrompt(vocab, long, long, limit=0)[before:] == [vocab.fimPre, vocab.fimSuf, vocab.fimMid]
    extra = infillPrompt(vocab, "", "", extra=[("x.py", long)], extraLimit=7)
    whole = infillPrompt(vocab, "", "", extra=[("x.py", long)])
    assert extra == whole[-(7 + len(bos(vocab)) + 3) :] and len(whole) > 200
    assert infillPrompt(vocab, "", "", extraLimit=0) == [*bos(vocab), vocab.fimPre, vocab.fimSuf, vocab.fimMid]


def test_other_files_without_a_token_for_them(coder: Model) -> None:
    vocab = coder.vocab
    found = infillPrompt(vocab, "a", "b", extra=[("x.py", "import y"), ("z.py", "import x")])
    between = plain(vocab, "\n\n--- snippet ---\n\n")
    context = [*head(vocab), *between, *plain(vocab, "import y"), *between, *plain(vocab, "import x")]
    assert found[: len(context)] == context


def test_other_files_with_a_token_for_them(coder: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vocab, "fimRep", 11)
    monkeypatch.setattr(Vocab, "fimSep", 12)
    vocab = coder.vocab
    names = [plain(vocab, text) for text in ("mine\n", "x.py\n", "main.py\n")]
    found = infill._context(vocab, [("x.py", "import y")], "mine", "main.py")
    assert found == [11, *names[0], 12, *names[1], *plain(vocab, "import y"), 12, *names[2]]


def test_a_model_without_these_tokens(tiny: Model) -> None:
    with pytest.raises(ValueError, match="fimPre.*fimSuf.*fimMid"):
        infillPrompt(tiny.vocab, "a", "b")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((1, "b"), {}, TypeError, "prefix.*int"),
        (("a", b"b"), {}, TypeError, "suffix.*bytes"),
        (("a", "b", 5), {}, TypeError, "prompt.*int"),
        (("a", "b"), {"extra": "text"}, TypeError, "extra.*str"),
        (("a", "b"), {"extra": ["text"]}, TypeError, "extra.*'text'"),
        (("a", "b"), {"extra": [(1, "x")]}, TypeError, "extra.*int"),
        (("a", "b"), {"limit": -1}, ValueError, "limit.*-1"),
        (("a", "b"), {"extraLimit": "1"}, TypeError, "extraLimit.*'1'"),
        (("a", "b"), {"suffixFirst": 3}, TypeError, "suffixFirst.*3"),
    ],
)
def test_wrong_arguments(
    coder: Model, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        infillPrompt(coder.vocab, *arguments, **options)


def test_something_else_than_a_vocabulary(coder: Model) -> None:
    with pytest.raises(TypeError, match="Vocab.*Model"):
        infillPrompt(coder, "a", "b")  # type: ignore[arg-type]
