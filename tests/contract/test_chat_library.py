"""The chat library is built where llama.cpp has the interface that it was written for, and the newest release has."""

from __future__ import annotations

from llama_cffi.chat import native
from vendor.build.chat import library
from vendor.source import fetch, pin as pins


def test_it_is_there_where_it_can_be() -> None:
    assert native.available() == (library.lacking(fetch.chat_dir()) is None)


def test_the_newest_release_has_it() -> None:
    assert library.lacking(fetch.chat_dir(pins.known()[-1])) is None
