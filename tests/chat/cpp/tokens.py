"""Tokens of C++, and a cursor that moves over them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple


class Unsupported(Exception):
    """C++ that this interpreter does not know."""


class Token(NamedTuple):
    kind: str  # "text", "number", "name", "sign" or "end"
    value: Any
    line: int


_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*)
    |(?P<raw>(?:u8)?R"(?P<mark>[^()\\\s]*)\((?P<body>.*?)\)(?P=mark)")
    |(?P<text>(?:u8)?"(?:[^"\\]|\\.)*")
    |(?P<char>'(?:[^'\\]|\\.)+')
    |(?P<number>\d[\w.]*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>::|->|\+=|==|!=|<=|>=|&&|\|\||\+\+|--|<<|.)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]+)|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\n": b""}


def _unescaped(literal: str) -> str:
    def one(match: re.Match[bytes]) -> bytes:
        byte, short, long, octal, letter = match.groups()
        if short or long:
            return chr(int(short or long, 16)).encode()
        if byte or octal:
            return bytes([int(byte, 16) if byte else int(octal, 8)])
        return _LETTERS.get(letter, letter)

    return _ESCAPE.sub(one, literal.encode()).decode()


def tokenize(source: str) -> list[Token]:
    """Return the tokens of a source file, without comments and directives. Adjacent literals of text become one."""
    tokens: list[Token] = []
    line, position = 1, 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            raise Unsupported(f"line {line}: {source[position : position + 20]!r}")
        kind, text = match.lastgroup, match.group()
        position = match.end()
        if match["raw"] is not None:
            kind, value = "text", match["body"]
        elif match["text"] is not None:
            value = _unescaped(text[text.index('"') + 1 : -1])
        elif match["char"] is not None:
            kind, value = "text", _unescaped(text[1:-1])
        else:
            value = text
        if kind == "text" and tokens and tokens[-1].kind == "text":
            tokens[-1] = tokens[-1]._replace(value=tokens[-1].value + value)
        elif kind != "space":
            tokens.append(Token(str(kind), value, line))
        line += text.count("\n")
    tokens.append(Token("end", "", line))
    return tokens


def sites(tokens: list[Token], *names: str) -> Iterator[int]:
    """Yield the positions where one of these functions or methods is called."""
    for index, (one, two) in enumerate(zip(tokens, tokens[1:], strict=False)):
        if one.kind == "name" and one.value in names and two.kind == "sign" and two.value == "(":
            yield index


CLOSING = {"(": ")", "[": "]", "{": "}"}


class Cursor:
    """A position in a list of tokens."""

    tokens: list[Token]
    at: int

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def is_sign(self, *values: str) -> bool:
        return self.peek().kind in ("sign", "name") and self.peek().value in values

    def take(self, value: str) -> bool:
        found = self.is_sign(value)
        self.at += found
        return found

    def expect(self, value: str) -> None:
        if not self.take(value):
            raise Unsupported(f"{self.peek().value!r} in place of {value!r}")

    def skip_balanced(self) -> None:
        """Move behind the bracket that closes the one here."""
        depth = 0
        while self.peek().kind != "end":
            token = self.next()
            if token.kind == "sign":
                depth += (token.value in CLOSING) - (token.value in CLOSING.values())
            if depth == 0:
                return

    def skip_statement(self) -> None:
        while self.peek().kind != "end" and not self.is_sign("}"):
            if self.is_sign("{"):
                self.skip_balanced()
                if not self.is_sign(";", ",", ")", ".", "(", "}"):
                    if not self.is_sign("else", "catch"):
                        return
            elif self.is_sign("(", "["):
                self.skip_balanced()
            elif self.next().value == ";" and self.tokens[self.at - 1].kind == "sign":
                return
