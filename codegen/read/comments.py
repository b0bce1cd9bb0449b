"""Finds the comment of a declaration in a header: the block above it, and the trailing comments of its lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A string or character literal, in which comment marks have no meaning, or a comment.
_TOKEN = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|//.*|/\*.*?(?:\*/|$)""")
_COMMENT = re.compile(r"^\s*(?://[/!<]*|/\*+|\*(?!/))\s?(.*?)\s*(?:\*/)?\s*$")
_TRAILING = re.compile(r"//[/!<]*\s?(?P<text>.*?)\s*$")


class Comments:
    """Looks up comments in the lines of one header. Line numbers start at 1."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines

    def of(self, line: int) -> str:
        """Return the comment of the declaration whose name is on `line`: the block above, then trailing comments."""
        first, last = self._statement(line)
        parts = self._above(first)
        alone = first == last or self._in_macro(first)
        for number in range(first, last + 1):
            parts += self._behind(number, alone)
        return "\n".join(parts).strip()

    def _text(self, number: int) -> str:
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""

    def _statement(self, line: int) -> tuple[int, int]:
        """Return the first and the last line of the declaration around `line`."""
        if self._in_macro(line):  # a macro ends with its line, whatever comes below
            last = line
            while self._text(last).endswith("\\"):
                last += 1
            return line, last
        first = line
        while first > 1 and self._continues(first - 1):
            first -= 1
        last = line
        while last < min(len(self._lines), line + 60) and not re.search(r"[;,{}]\s*$|^\s*$", _code(self._text(last))):
            last += 1
        if "(" in _code(self._text(line)):  # a prototype: parameters end in commas, the prototype in a semicolon
            last = line
            while last < len(self._lines) and ";" not in _code(self._text(last)) and last - line < 60:
                last += 1
        return first, last

    def _continues(self, number: int) -> bool:
        code = _code(self._text(number))
        return bool(code.strip()) and not self._in_macro(number) and not re.search(r"[;{},]\s*$", code)

    def _in_macro(self, number: int) -> bool:
        while self._text(number - 1).endswith("\\"):
            number -= 1
        return self._text(number).lstrip().startswith("#")

    def _above(self, first: int) -> list[str]:
        block: list[str] = []
        number = first - 1
        while number > 0:
            text = self._text(number)
            match = _COMMENT.match(text)
            if not match or self._is_tail(number):
                break
            block.insert(0, match[1])
            number -= 1
        return block if any(block) else []

    def _is_tail(self, number: int) -> bool:
        """Return True if a comment line continues the trailing comment of an earlier line, in the same column."""
        column = _column(self._text(number))
        while number > 1:
            number -= 1
            text = self._text(number)
            if _code(text).strip():
                return column >= 0 and _column(text) == column
            if not text.strip():
                return False
        return False

    def _behind(self, number: int, alone: bool) -> list[str]:
        code, column = _code(self._text(number)), _column(self._text(number))
        match = _TRAILING.match(self._text(number), column) if column >= 0 else None
        if not match or not match["text"] or not code.strip():
            return []
        words = re.findall(r"\w+", code)
        parts = [match["text"] if alone or not words else f"{words[-1]}: {match['text']}"]
        follow = number + 1
        while alone and not _code(self._text(follow)).strip() and _column(self._text(follow)) == column:
            comment = _COMMENT.match(self._text(follow))
            parts.append(comment[1] if comment else "")
            follow += 1
        return parts


def _code(text: str) -> str:
    """Return a line without its comments."""
    if _COMMENT.match(text):
        return ""
    return _TOKEN.sub(lambda token: token[1] or "", text)


def _column(text: str) -> int:
    """Return the offset of a line's `//` comment; -1 if it has none."""
    return next((token.start() for token in _TOKEN.finditer(text) if token[0].startswith("//")), -1)
