"""What a mutation is, what is expected of it, and what can be said about the outcome."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from codegen.api.model import Api, CodegenError, Field, flat_fields
from codegen.fit import needs

CDEF = "llama_cffi/_generated/cdef.h"
GUARD = "llama_cffi/_generated/guard.cpp"
GUARD_H = "llama_cffi/_generated/guard.h"
STRUCTS = "llama_cffi/_generated/structs.py"
ENUMS = "llama_cffi/_generated/enums.pyi"
ABSENT = "llama_cffi/_generated/absent.py"
NAMES = "llama_cffi/_generated/names.py"


@dataclass(frozen=True)
class Result:
    """What the generator made of edited headers: the completed API and every generated file, or its error."""

    api: Api | None = None
    files: dict[str, str] | None = None
    error: CodegenError | None = None

    def text(self, name: str) -> str:
        assert self.files is not None
        return self.files[name]

    def field(self, tag: str, name: str) -> Field:
        assert self.api is not None
        record = next(r for r in self.api.records if r.tag == tag)
        return next(f for f in flat_fields(record) if f.name == name)


Check: TypeAlias = Callable[[Result], None]  # raises AssertionError


@dataclass(frozen=True)
class Absorbed:
    """Generation succeeds, and every check holds."""

    checks: tuple[Check, ...]

    word = "absorbed"


@dataclass(frozen=True)
class Unavailable:
    """Generation succeeds, and these functions of the facade raise UnavailableError."""

    names: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    word = "unavailable"


@dataclass(frozen=True)
class Refused:
    """The generator stops, and its text has each of these regular expressions."""

    patterns: tuple[str, ...]

    word = "refused"


Expected: TypeAlias = Absorbed | Unavailable | Refused


@dataclass(frozen=True)
class Mutation:
    """An edit of a header. Each `old` text stands there exactly once."""

    name: str
    kind: str
    header: str
    edits: tuple[tuple[str, str], ...]
    expected: Expected
    unexported: tuple[str, ...] = ()  # functions that no library has any more
    elsewhere: tuple[
        tuple[str, str, str], ...
    ] = ()  # edits of other headers: header, old, new; `old` empty: a new file
    crlf: bool = False


def absorbed(*checks: Check) -> Absorbed:
    return Absorbed(checks)


def unavailable(*names: str) -> Unavailable:
    return Unavailable(names)


def refused(*patterns: str) -> Refused:
    return Refused(patterns)


# Checks


def at(tag: str, name: str, offset: int) -> Check:
    """The compiler's offset of a field."""

    def check(result: Result) -> None:
        found = result.field(tag, name).offset
        assert found == offset, f"{tag}.{name} is at {found}, not at {offset}"

    return check


def writes(file: str, text: str) -> Check:
    """A generated file has a text."""

    def check(result: Result) -> None:
        assert text in result.text(file), f"{file} lacks {text!r}"

    return check


def drops(file: str, pattern: str) -> Check:
    """A generated file has nothing that matches."""

    def check(result: Result) -> None:
        assert not re.search(pattern, result.text(file)), f"{file} has {pattern!r}"

    return check


def valued(enumerator: str, value: int) -> Check:
    """The compiler's value of an enumerator or a constant."""

    def check(result: Result) -> None:
        assert result.api is not None
        enumerators = {m.name: m.value for e in result.api.enums for m in e.members}
        found = {**{c.name: c.value for c in result.api.constants}, **enumerators}.get(enumerator)
        assert found == value, f"{enumerator} is {found}, not {value}"

    return check


def calls(name: str) -> Check:
    """A function is declared for cffi, and its wrapper calls it."""

    def check(result: Result) -> None:
        assert re.search(rf"\b{name}\(.*\);$", result.text(CDEF), re.M), f"the cdef lacks {name}"
        body = wrapper(result, name)
        assert f"{name}(" in body.partition("{")[2] and "guard::record_absent" not in body, body

    return check


def is_absent(result: Result, name: str) -> None:
    assert result.api is not None
    body = wrapper(result, name)
    assert f'guard::record_absent("{name}", "{needs.load().has(name)}")' in body, body
    assert name in result.api.absent, f"{name} is not in absent.py"


def wrapper(result: Result, name: str) -> str:
    match = re.search(rf'^extern "C" [^\n]*\bguard_{name}\(.*?^}}$', result.text(GUARD), re.M | re.S)
    assert match is not None, f"guard.cpp has no wrapper of {name}"
    return match[0]
