"""Stop strings in a text that comes in pieces, against a search in the whole text."""

from __future__ import annotations

import random

import pytest

from llama_cffi.generation.stop_strings import StopStrings


def test_it_does_not_matter_how_the_text_is_cut() -> None:
    chance = random.Random(2)
    for _ in range(2000):
        text = "".join(chance.choice("ab") for _ in range(chance.randrange(12)))
        strings = ["".join(chance.choice("ab") for _ in range(chance.randrange(1, 5))) for _ in range(3)]
        ends = [(text.find(s) + len(s), -len(s), s) for s in strings if s in text]
        expected = (min(ends)[2], min(ends)[0]) if ends else None
        finder, place, found = StopStrings(strings), 0, None
        while place < len(text) and found is None:
            piece = text[place : place + chance.randrange(1, 4)]
            found = finder.search(piece)
            if found is not None:
                found = (found[0], place + found[1])
            place += len(piece)
        assert found == expected, (text, strings)
        if found is None:
            longest = max(
                n for n in range(5) for s in strings if n < len(s) and text.endswith(s[:n]) and n <= len(text)
            )
            assert finder.partial == longest, (text, strings)


def test_without_a_stop_string_nothing_is_found() -> None:
    finder = StopStrings([])
    assert not finder
    assert finder.search("anything at all") is None and finder.partial == 0


@pytest.mark.parametrize(
    ("strings", "error", "words"),
    [
        ("###", TypeError, r"\['###'\]"),
        (None, TypeError, "NoneType"),
        ([13], TypeError, "str.*int"),
        ([""], ValueError, "empty"),
    ],
)
def test_what_is_not_a_list_of_strings(strings: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        StopStrings(strings)  # type: ignore[arg-type]
