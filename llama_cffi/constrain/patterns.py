"""Regular expressions of JSON Schemas and of string formats, in the syntax that llguidance reads (Rust's regex).

A schema's pattern is ECMAScript's, or Python's in practice. Where the engines differ in what a class such as `\\S`
holds, the pattern here matches only what all of them match.
"""

from __future__ import annotations

import re
from typing import Any

from llama_cffi.errors import GrammarError

_SPACES = r" \t\n\r\x0b\x0c"
_ALL_SPACES = r"\s\x1c-\x1f\x85\u{feff}"
_ALL_WORDS = r"\p{L}\p{M}\p{N}\p{Pc}"
# What a class holds in each engine, and what it holds in any.
_IN_EACH = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": _SPACES,
    "D": r"[^\p{Nd}]",
    "W": f"[^{_ALL_WORDS}]",
    "S": f"[^{_ALL_SPACES}]",
}
_IN_ANY = {
    "d": r"\p{Nd}",
    "w": _ALL_WORDS,
    "s": _ALL_SPACES,
    "D": "[^0-9]",
    "W": "[^0-9A-Za-z_]",
    "S": f"[^{_SPACES}]",
}
_ESCAPES = "bBdDfknpPrsStvwWx123456789"  # those with a meaning; Rust reads them as well, or refuses them
_NOT_A_LINE_END = r"[^\n\r\u{2028}\u{2029}]"
MAX_PATTERN = 1 << 14  # characters
_MOST_LOOK_AHEADS = 8
_LONGEST_WORD = 60  # characters
_LOOK_AHEAD = re.compile(r"\^\(\?([=!])((?:[^()\\\[]|\\.|\[(?:[^\]\\]|\\.)+\])*)\)")
_WORD = re.compile(r"(?:[A-Za-z0-9_ :/,@=#-]|\\[^A-Za-z0-9])+")


def rust_pattern(pattern: str) -> str:
    """Return a schema's pattern in Rust's syntax. Look-around and the like stay, for llguidance to refuse."""
    parts, place = [], 0
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            part, place = _escape(pattern, place)
            parts.append(f"[{_IN_EACH[part]}]" if part in _IN_EACH else part)
            continue
        place += 1
        if char == "[":
            part, place = _class(pattern, place)
            parts.append(part)
        elif char == ".":
            parts.append(_NOT_A_LINE_END)
        elif char == "{":
            end = pattern.find("}", place)
            bounds = pattern[place:end].split(",") if end > 0 else []
            numbers = (
                bounds and bounds[0].isdecimal() and (bounds[1:] == [""] or "".join(bounds[1:] or "0").isdecimal())
            )
            parts.append("{" if numbers and len(bounds) <= 2 else r"\{")
            if numbers and len(bounds) <= 2:
                parts.append(pattern[place : end + 1])
                place = end + 1
        else:
            parts.append("\\" + char if char in "]}" else char)
    return "".join(parts)


def rust_patterns(pattern: str) -> list[str]:
    """Return patterns in Rust's syntax that a text must match all: look-ahead at the beginning is one of its own."""
    found: list[str] = []
    if len(pattern) > MAX_PATTERN:
        raise GrammarError(f"a pattern must have at most {MAX_PATTERN} characters, got {len(pattern)}")
    while (
        len(found) < _MOST_LOOK_AHEADS
        and (match := _LOOK_AHEAD.match(pattern)) is not None
        and not _has_choices(pattern[match.end() :])
    ):
        if match[1] == "=":
            found.append(rust_pattern(f"^(?:{match[2]})"))
        else:
            words, whole = match[2].removesuffix("$").split("|"), match[2].endswith("$")
            if not all(map(_WORD.fullmatch, words)) or (whole and words[1:]) or max(map(len, words)) > _LONGEST_WORD:
                break
            found.append(other_than([re.sub(r"\\(.)", r"\1", word) for word in words], whole))
        pattern = "^" + pattern[match.end() :]
    return [*found, rust_pattern(pattern)]


def _has_choices(pattern: str) -> bool:
    """Return whether a pattern has a `|` outside of groups."""
    depth = 0
    for char in re.sub(r"\\.|\[(?:[^\]\\]|\\.)*\]", "", pattern):
        depth += (char == "(") - (char == ")")
        if char == "|" and not depth:
            return True
    return False


def _escape(pattern: str, place: int) -> tuple[str, int]:
    """Read an escape: the letter of a class, or text for Rust. Returns the place after it as well."""
    char, after = pattern[place + 1 : place + 2], place + 2
    if char == "u" and (code := _hexadecimal(pattern, after, 4)) >= 0:
        after += 4
        if 0xD800 <= code < 0xDC00 and pattern[after : after + 2] == "\\u":
            low = _hexadecimal(pattern, after + 2, 4)
            if 0xDC00 <= low < 0xE000:
                return f"\\u{{{0x10000 + (code - 0xD800 << 10) + low - 0xDC00:x}}}", after + 6
        return f"\\u{{{code:x}}}", after
    if char == "c" and (letter := pattern[after : after + 1]).isalpha() and letter.isascii():
        return f"\\x{ord(letter) & 31:02x}", after + 1
    if char == "0":
        return r"\x00", after
    if char in ("p", "P") and pattern.startswith("{", after) and (end := pattern.find("}", after)) > 0:
        return pattern[place : end + 1], end + 1
    if char in ("A", "Z"):
        return "^" if char == "A" else "$", after
    if char.isalnum() and char.isascii() and char not in _ESCAPES:
        raise GrammarError(f"pattern {pattern!r}: \\{char} is not an escape of ECMAScript")
    if char.isalnum() or not char:
        return (char if char in _IN_EACH else "\\" + char), after
    return f"\\u{{{ord(char):x}}}", after


def _hexadecimal(text: str, place: int, size: int) -> int:
    try:
        return int(text[place : place + size], 16) if len(text) >= place + size else -1
    except ValueError:
        return -1


def _class(pattern: str, place: int) -> tuple[str, int]:
    """Read a class after its `[`."""
    negated = pattern.startswith("^", place)
    place += negated
    if pattern.startswith("]", place):
        raise GrammarError(f"pattern {pattern!r}: '[]' and '[^]' mean different things in different engines: escape it")
    sets = _IN_ANY if negated else _IN_EACH
    parts = ["[^" if negated else "["]
    while place < len(pattern):
        char = pattern[place]
        if char == "]":
            return "".join(parts) + "]", place + 1
        if char == "\\":
            part, place = _escape(pattern, place)
            parts.append(
                sets.get(part, part) if part not in (r"\b", "^", "$") else {r"\b": r"\x08"}.get(part, "\\" + part)
            )
            continue
        place += 1
        # In Rust, a class may hold classes and operators: [a[b]], [a&&b], [a--b], [a~~b].
        special = char in "[&~" or (char == "-" and pattern[place : place + 1] == "-")
        parts.append("\\" + char if special else char)
    raise GrammarError(f"pattern {pattern!r}: a class is not closed")


def literal(text: str) -> str:
    """Return a pattern that matches just this text."""
    return "".join(char if char.isalnum() and char.isascii() else f"\\u{{{ord(char):x}}}" for char in text)


def other_than(words: list[str], whole: bool = True) -> str:
    """Return a pattern, with anchors, for all texts except `words`, or for those that do not begin with one."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for char in word:
            node = node.setdefault(char, {})
        node[""] = None
    return f"^{_others(tree, whole)}$"


def _others(node: dict[str, Any], whole: bool) -> str:
    """Return a pattern for what may follow where the words go on as in `node`."""
    following = [char for char in node if char]
    outside = f"[^{''.join(map(literal, following))}]" if following else "(?s:.)"
    going_on = [char for char in following if whole or "" not in node[char]]
    choices = [literal(char) + _others(node[char], whole) for char in going_on]
    return f"({'|'.join((*choices, outside + '(?s:.*)'))})" + ("" if "" in node else "?")


# Formats

_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_DIVISIBLE_BY_4 = "(0[48]|[2468][048]|[13579][26])"
_DATE = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    f"|([0-9]{{2}}{_DIVISIBLE_BY_4}|{_DIVISIBLE_BY_4}00)-02-29)"
)
_MINUTES = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_MINUTES}:[0-5][0-9](\\.[0-9]{{1,6}})?(Z|[+-]{_MINUTES})"
# With these digits, a duration is below 10^9 days, the limit of Python's timedelta, and its time below 2^32 seconds.
_CLOCK = "T([0-9]{1,6}H([0-9]{1,7}M([0-9]{1,7}S)?)?|[0-9]{1,7}M([0-9]{1,7}S)?|[0-9]{1,7}S)"
_DAYS = "([0-9]{1,6}Y([0-9]{1,7}M([0-9]{1,8}D)?)?|[0-9]{1,7}M([0-9]{1,8}D)?|[0-9]{1,8}D)"
_LABEL = "[A-Za-z0-9]+(-[A-Za-z0-9]+)*"
_HOST = f"({_LABEL}\\.)*[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*"
_LABEL_SIZES = "[^.]{1,63}(\\.[^.]{1,63})*"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEX = "[0-9A-Fa-f]"
_IN_PATH = f"([A-Za-z0-9._~!$&'()*+,;=@-]|%{_HEX}{{2}})"
_PATH = f"(/({_IN_PATH}|:)*)*"
_TAIL = f"(\\?({_IN_PATH}|[/?:])*)?(#({_IN_PATH}|[/?:])*)?"
_URI = f"[A-Za-z][A-Za-z0-9+.-]*:(//{_HOST}(:[0-9]{{1,4}})?{_PATH}|/?{_IN_PATH}({_IN_PATH}|:)*{_PATH}){_TAIL}"
HOST_AND_PATH = f"{_HOST}(:[1-9][0-9]{{0,3}})?{_PATH}{_TAIL}"  # of a URI
SAFE_REGEX = "^[A-Za-z0-9 _:;,=<>@#%&~!'\"-]*$"  # texts that are regular expressions
_POINTER = "(/([^/~]|~[01])*)*"
# At most 61 characters before and 188 after the `@`, without a separate check of the lengths: that takes too long.
_EMAIL = (
    f"^{_ATOM}{{1,30}}(\\.{_ATOM}{{1,30}})?"
    "@([A-Za-z0-9]{1,26}(-[A-Za-z0-9]{1,13}){0,2}\\.){1,3}[A-Za-z]{2,20}$",
)
_HOSTNAME = (f"^{_HOST}$", f"^{_LABEL_SIZES}$")


def _ipv6() -> str:
    part = f"{_HEX}{{1,4}}"
    whole = [f"({part}:){{7}}{part}"]
    # `::` stands for at least two parts, so at most six are written.
    for before in range(7):
        left = f"({part}:){{{before - 1}}}{part}" if before else ""
        after = 6 - before
        whole.append(f"{left}::" + (f"({part}(:{part}){{0,{after - 1}}})?" if after else ""))
    return "|".join(whole)


LOCAL_DATE_TIME = f"^{_DATE}T{_MINUTES}:[0-5][0-9](\\.[0-9]{{1,6}})?$"

# The patterns that a text must match all, and the most characters it may have (0: any number). Each is at least as
# strict as the standard: no leap seconds, no year 0, no Unicode in the formats that allow it.
FORMATS: dict[str, tuple[tuple[str, ...], int]] = {
    "date": ((f"^{_DATE}$",), 0),
    "time": ((f"^{_TIME}$",), 0),
    "date-time": ((f"^{_DATE}T{_TIME}$",), 0),
    "duration": ((f"^P({_DAYS}({_CLOCK})?|{_CLOCK}|[0-9]{{1,7}}W)$",), 0),
    "email": (_EMAIL, 0),
    "idn-email": (_EMAIL, 0),
    "hostname": (_HOSTNAME, 253),
    "idn-hostname": (_HOSTNAME, 253),
    "ipv4": ((f"^({_OCTET}\\.){{3}}{_OCTET}$",), 0),
    "ipv6": ((f"^({_ipv6()})$",), 0),
    "uuid": ((f"^{_HEX}{{8}}-({_HEX}{{4}}-){{3}}{_HEX}{{12}}$",), 0),
    "uri": ((f"^{_URI}$",), 0),
    "iri": ((f"^{_URI}$",), 0),
    "uri-reference": ((f"^({_URI}|(/?{_IN_PATH}+{_PATH})?{_TAIL})$",), 0),
    "iri-reference": ((f"^({_URI}|(/?{_IN_PATH}+{_PATH})?{_TAIL})$",), 0),
    "uri-template": (("^([A-Za-z0-9._~:/?#@!$&()*+,;=-]|\\{[A-Za-z0-9_]+\\})*$",), 0),
    "json-pointer": ((f"^{_POINTER}$",), 0),
    "relative-json-pointer": ((f"^(0|[1-9][0-9]*)(#|{_POINTER})$",), 0),
}
# Formats of which no text has two.
APART = frozenset(("date", "time", "date-time", "duration", "ipv4", "ipv6", "uuid", "email"))
