"""The pre-tokenizers that need no large stack are those whose expressions llama.cpp matches without recursion.

It has its own code for some expressions, and uses std::regex, which recurses once per repetition, for all others. The
list is compared with the pinned source, so an upgrade that changes a pre-tokenizer fails here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama_cffi._core.compat import is_pinned_version
from llama_cffi.vocab import tokenize
from vendor.source import fetch

_STRING = r'"(?:[^"\\]|\\.)*"'


def split_without_recursion(source: Path) -> set[str]:
    """Return the pre-tokenizers whose expressions all have code of their own, or no repetition."""
    vocab = without_comments(source / "src" / "llama-vocab.cpp")
    unicode = without_comments(source / "src" / "unicode.cpp")
    function = re.search(r"\bunicode_regex_split_custom\(.*?\n\}\n", unicode, re.DOTALL)
    switch = re.search(r"switch \(vocab\.get_pre_type\(\)\) \{(.*?)\n        \}\n", vocab, re.DOTALL)
    assert function is not None
    assert switch is not None
    own_code = set(re.findall(rf"regex_expr == ({_STRING})", function[0]))
    types: set[str] = set()
    for labels, expressions in re.findall(
        r"((?:case \w+:\s*)+)regex_exprs = \{((?:" + _STRING + r"|[^}\"])*)\};", switch[1]
    ):
        if not [x for x in re.findall(_STRING, expressions) if x not in own_code and repeats(x)]:
            types |= set(re.findall(r"case (\w+):", labels))
    chain = re.findall(r'if \(((?:\s*tokenizer_pre == "[^"]+"\s*(?:\|\|)?)+)\) \{\s*pre_type = (\w+);', vocab)
    assert len(own_code) >= 5 and len(chain) >= 30 and len(types) >= 10
    return {name for names, kind in chain if kind in types for name in re.findall(r'"([^"]+)"', names)}


def repeats(expression: str) -> bool:
    """Return True if one match may take any number of characters."""
    return bool(re.search(r"[*+{]", re.sub(r"\\\\p\{\w+\}|\[[^]]*\]", "", expression)))


def without_comments(path: Path) -> str:
    pattern = re.compile(rf"({_STRING})|/\*.*?\*/|//[^\n]*", re.DOTALL)
    return pattern.sub(lambda match: match[1] or "", path.read_text(encoding="utf-8"))


@pytest.mark.skipif(not is_pinned_version(), reason="unavailable: the list holds only for the version it was made for")
def test_the_list_is_that_of_the_pinned_source() -> None:
    assert sorted(tokenize._WITHOUT_REGEX) == sorted(split_without_recursion(fetch.source_dir()))
