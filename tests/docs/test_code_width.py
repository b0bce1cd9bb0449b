"""Blocks of code in the documentation fit a page: a line that is cut must be scrolled to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 88
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_OUTPUT = "text"  # the language of what a program prints, which is shown as it is


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_is_at_most_88_columns_wide(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    long = []
    for block in (block for block in _FENCE.finditer(text) if block[1] != _OUTPUT):
        first = text.count("\n", 0, block.start(2)) + 1
        long += [
            f"{page.name}:{number}: {len(line)} columns: {line}"
            for number, line in enumerate(block[2].splitlines(), first)
            if len(line) > WIDTH
        ]
    assert not long, "\n".join(long)


def test_there_are_pages() -> None:
    assert {"README", "tutorial", "chat"} <= {page.stem for page in PAGES}
