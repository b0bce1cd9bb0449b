"""Tokens to text: whole characters, stop strings, each token looked at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cffi import Model, Vocab, detokenize, tokenize
from llama_cffi.generation.text_stream import TextStream

TEXT = "Grüße, 世界! 🦙👩‍👩‍👧 naïve \t\n\n  end."


@pytest.fixture(scope="module")
def byte_pairs(vectors: Path) -> Iterator[Vocab]:
    """A vocabulary whose tokens cut characters anywhere."""
    with Model.load(vectors / "ggml-vocab-gpt-2.gguf", Model.Params(vocabOnly=True)) as model:
        yield model.vocab


def _all(stream: TextStream, tokens: list[int]) -> list[str]:
    return [*(stream.feed(token) for token in tokens), stream.finish()]


def _bytes_as_tokens(vocab: Vocab, data: bytes) -> list[int]:
    """A byte-fallback token for each byte."""
    first = next(token for token in range(vocab.nTokens) if vocab.getText(token) == "<0x00>")
    return [first + byte for byte in data]


def test_characters_come_whole(tiny: Model) -> None:
    tokens = _bytes_as_tokens(tiny.vocab, "é🦙!".encode())
    assert _all(TextStream(tiny.vocab), tokens) == ["", "é", "", "", "", "🦙", "!", ""]


def test_what_is_no_character_is_replaced(tiny: Model) -> None:
    assert _all(TextStream(tiny.vocab), _bytes_as_tokens(tiny.vocab, b"\xff\xe4\xb8a")) == [
        "\ufffd",
        "",
        "",
        "\ufffda",
        "",
    ]
    assert _all(TextStream(tiny.vocab), _bytes_as_tokens(tiny.vocab, b"a\xf0\x9f\xa6")) == ["a", "", "", "", "\ufffd"]


@pytest.mark.parametrize("which", ["tiny", "byte_pairs"])
def test_together_it_is_the_detokenized_text(which: str, tiny: Model, byte_pairs: Vocab) -> None:
    vocab = tiny.vocab if which == "tiny" else byte_pairs
    prompt = tokenize(vocab, "So:")
    tokens = tokenize(vocab, "So:" + TEXT)
    assert tokens[: len(prompt)] == prompt and len(tokens) > len(prompt) + 20
    pieces = _all(TextStream(vocab), tokens[len(prompt) :])
    assert "".join(pieces) == detokenize(vocab, tokens).removeprefix(detokenize(vocab, prompt)) == TEXT
    assert "" in pieces, "no character was spread over tokens, so this shows little"


def test_any_tokens_give_what_their_bytes_give(tiny: Model, byte_pairs: Vocab) -> None:
    chance = random.Random(1)
    for vocab in (tiny.vocab, byte_pairs):
        for _ in range(50):
            tokens = [chance.randrange(vocab.nTokens) for _ in range(chance.randrange(1, 30))]
            tokens += _bytes_as_tokens(vocab, chance.randbytes(5)) if vocab is tiny.vocab else []
            whole = b"".join(vocab._piece(token) for token in tokens).decode("utf-8", "replace")
            assert "".join(_all(TextStream(vocab), tokens)) == whole
            assert "".join(_all(TextStream(vocab, ["a string that never comes"]), tokens)) == whole


def test_control_tokens_are_spelled_out_on_request(tiny: Model) -> None:
    bos = tiny.vocab.bos
    assert TextStream(tiny.vocab).feed(bos) == ""
    assert TextStream(tiny.vocab, special=True).feed(bos) == "<s>"


def test_a_long_token_fits(tiny: Model) -> None:
    stream = TextStream(tiny.vocab)
    stream._grow_buffer(1)
    assert "".join(stream.feed(token) for token in tokenize(tiny.vocab, "international")) == " international"


def test_what_is_no_token_is_refused(tiny: Model) -> None:
    for token in (-1, tiny.vocab.nTokens):
        with pytest.raises(IndexError, match=f"got {token}"):
            TextStream(tiny.vocab).feed(token)


# Stop strings


def _cut(stream: TextStream, text: str, vocab: Vocab) -> tuple[str, str | None]:
    """What comes of a text whose every byte is a token, and where it stopped."""
    return "".join(_all(stream, _bytes_as_tokens(vocab, text.encode()))), stream.stopped


def test_a_stop_string_over_several_tokens(tiny: Model) -> None:
    stream = TextStream(tiny.vocab, ["\nUser:"])
    tokens = tokenize(tiny.vocab, "Fine, thanks.\nUser: and you?", addSpecial=False)
    pieces = [stream.feed(token) for token in tokens]
    assert "".join(pieces).lstrip() == "Fine, thanks."
    assert stream.stopped == "\nUser:"
    assert stream.feed(tokens[0]) == stream.finish() == ""


def test_text_waits_only_while_it_may_be_a_stop_string(tiny: Model) -> None:
    stream = TextStream(tiny.vocab, ["</end>"])
    tokens = _bytes_as_tokens(tiny.vocab, b"a<b</en")
    assert [stream.feed(token) for token in tokens] == ["a", "", "<b", "", "", "", ""]
    assert stream.finish() == "</en" and stream.stopped is None


@pytest.mark.parametrize(
    ("stops", "text", "before", "found"),
    [
        (["ab", "abc"], "xxabc", "xx", "ab"),  # complete first
        (["bcd", "c"], "abcd", "ab", "c"),
        (["bc", "c"], "abc", "a", "bc"),  # the longest of those that end here
        (["aab", "ab"], "aaab", "a", "aab"),
        (["abab!", "bac"], "ababac", "aba", "bac"),  # a beginning of one ends with a beginning of the other
        (["\n\n"], "a\nb\n\nc", "a\nb", "\n\n"),
        (["äb"], "xäb", "x", "äb"),
        (["🦙"], "a🦙b", "a", "🦙"),
        (["\ufffd"], "ab", "ab", None),
        (["aa"], "abaab", "ab", "aa"),
        (["abcabd"], "abcabcabd", "abc", "abcabd"),
    ],
)
def test_several_stop_strings(stops: list[str], text: str, before: str, found: str | None, tiny: Model) -> None:
    assert _cut(TextStream(tiny.vocab, stops), text, tiny.vocab) == (before, found)
    assert _cut(TextStream(tiny.vocab, stops[::-1]), text, tiny.vocab) == (before, found)


def test_stop_strings_of_a_wrong_type(tiny: Model) -> None:
    with pytest.raises(TypeError, match=r"write stop=\['###'\]"):
        TextStream(tiny.vocab, "###")
    with pytest.raises(TypeError, match="stop.*got NoneType"):
        TextStream(tiny.vocab, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="stop string.*got int: tokens go to stopTokens"):
        TextStream(tiny.vocab, [13])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="empty"):
        TextStream(tiny.vocab, [""])
    with pytest.raises(TypeError, match="pass model.vocab"):
        TextStream(tiny)  # type: ignore[arg-type]
