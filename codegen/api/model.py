"""The C API as data classes. A type is C text without a name: `const char *`, `char [64]`, `bool (*)(float)`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class CodegenError(RuntimeError):
    """The generator cannot handle something in a header, a table or the environment. The message says what to do."""


@dataclass(frozen=True)
class Param:
    """A function parameter. The name is empty if the header leaves it out."""

    type: str
    name: str


@dataclass(frozen=True)
class Function:
    """A function prototype.

    `home` is the library that exports it: a linked one, a backend module (`cpu`, `rpc`, `vulkan`), `binding` if
    `complete.py` added the function, or None if no library exports it.
    """

    name: str
    header: str
    returns: str
    params: tuple[Param, ...] = ()
    variadic: bool = False
    deprecated: str | None = None
    doc: str = ""
    home: str | None = None
    body: str = ""  # of an adapted function: C++ that calls functions of this header
    absent: str = ""  # of a missing function: the versions that have it


@dataclass(frozen=True)
class Field:
    """A member of a struct or union. `inner` is the definition of its type if that is an anonymous struct or union."""

    type: str
    name: str  # empty for an anonymous struct or union
    doc: str = ""
    bits: int | None = None
    inner: Record | None = None
    offset: int | None = None  # bytes; None for bit fields
    size: int | None = None


@dataclass(frozen=True)
class Record:
    """A struct or union. It is opaque if `fields` is None."""

    kind: str  # "struct" or "union"
    tag: str  # empty for an anonymous one
    header: str
    fields: tuple[Field, ...] | None = None
    doc: str = ""
    size: int | None = None
    alias: str = ""  # the typedef that names an untagged record
    added: bool = False  # by `complete`: the header lacks the record
    lacks: tuple[Field, ...] = ()  # fields that the facade uses and the header lacks

    @property
    def spelling(self) -> str:
        return f"{self.kind} {self.tag}" if self.tag else self.alias


@dataclass(frozen=True)
class Enumerator:
    name: str
    doc: str = ""
    value: int | None = None


@dataclass(frozen=True)
class Enum:
    tag: str
    header: str
    members: tuple[Enumerator, ...]
    doc: str = ""
    alias: str = ""
    added: bool = False

    @property
    def spelling(self) -> str:
        return f"enum {self.tag}" if self.tag else self.alias


@dataclass(frozen=True)
class Typedef:
    name: str
    type: str
    header: str
    doc: str = ""
    added: bool = False


@dataclass(frozen=True)
class Constant:
    """A numeric or string `#define`, or a constant variable. `kind` is `int`, `float` or `str`."""

    name: str
    header: str
    kind: str
    value: int | float | str | None = None
    doc: str = ""
    added: bool = False


@dataclass(frozen=True)
class Api:
    """All public headers, parsed. Types are in the order of their declaration, functions and constants by name."""

    pin: str
    headers: tuple[str, ...]
    functions: tuple[Function, ...] = ()
    records: tuple[Record, ...] = ()
    enums: tuple[Enum, ...] = ()
    typedefs: tuple[Typedef, ...] = ()
    constants: tuple[Constant, ...] = ()
    macros_left_out: dict[str, str] = field(default_factory=dict)  # macro name -> why it is not a constant
    absent: dict[str, str] = field(
        default_factory=dict
    )  # name that the facade needs and this lacks -> versions that have it


# The part of a type before the declared name: the name goes inside the innermost `(*`, before any `[4]` or parameters.
_BEFORE_NAME = re.compile(r"(?:[^()\[]*\(\s*\*)*[^()\[]*")


def declare(ctype: str, name: str) -> str:
    """Return the C declaration of `name` with the given type."""
    match = _BEFORE_NAME.match(ctype)
    assert match is not None  # it matches any text
    before, after = match[0].rstrip(), ctype[match.end() :]
    return f"{before}{'' if before.endswith('*') or not name else ' '}{name}{after}"


def flat_fields(record: Record) -> list[Field]:
    """Return the members that C reaches by name. Members of anonymous structs and unions belong to the outer record."""
    out: list[Field] = []
    for member in record.fields or ():
        out += flat_fields(member.inner) if member.inner and not member.name else [member]
    return [member for member in out if member.name]
