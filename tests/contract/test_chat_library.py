"""The chat library is built where llama.cpp has the interface that it was written for, and the newest release has."""

from __future__ import annotations

import re

import pytest

from llama_cffi.chat import native
from vendor.build.chat import library
from vendor.source import fetch, pin as pins


def test_it_is_there_where_it_can_be() -> None:
    assert native.available() == (library.lacking(fetch.chat_dir()) is None)


@pytest.mark.skipif(not native.available(), reason="this llama.cpp's chat code has another interface")
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("chat.cpp", "analyze_template("),
        ("chat.cpp", "generate_parser(tmpl, params, autoparser)"),
        ("jinja/runtime.cpp", "auto builtins = global_builtins();"),
        ("jinja/runtime.cpp", "auto builtins = input->get_builtins();"),
        ("jinja/runtime.cpp", "context loop_scope(scope);"),
    ],
)
def test_what_is_hooked_is_still_there(file: str, text: str) -> None:
    """Where llama.cpp has changed these lines, the macros of chat_once.hpp do nothing, and prompts take longer."""
    assert text in (fetch.chat_dir() / "common" / file).read_text(encoding="utf-8")


def test_the_newest_release_has_it() -> None:
    assert library.lacking(fetch.chat_dir(pins.known()[-1])) is None


def test_the_cached_tree_has_what_the_chat_code_includes() -> None:
    tree = fetch.chat_dir(pins.known()[-1])
    compiled = [tree / "common" / "common.cpp", *(tree / "common").glob("chat*.cpp")]
    compiled += [path for name in ("jinja", "parsers") for path in (tree / "common" / name).glob("*.cpp")]
    includes = [
        path.parent / file
        for path in compiled
        for file in re.findall(r'#include "(\.\./[^"]+)"', path.read_text(encoding="utf-8"))
    ]
    assert len(compiled) >= 15 and [path for path in includes if not path.is_file()] == []
