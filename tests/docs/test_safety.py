"""docs/safety.md has the current counts of the misuse suite."""

from __future__ import annotations

from pathlib import Path

from tests.safety.misuse.__main__ import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "safety.md"


def test_the_table_of_misuses() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = text.split("<!-- python -m tests.safety.misuse --table -->\n")[1].split("<!-- end -->")[0]
    assert written == table(), "run `python -m tests.safety.misuse --table`"
