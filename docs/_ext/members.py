"""The page of a class in the reference: its docstring, tables of its members, and an entry for each of them."""

from __future__ import annotations

import enum
import inspect
import textwrap
from dataclasses import dataclass

from sphinx.pycode import ModuleAnalyzer

from llama_cffi._core import fields as struct_fields
from llama_cffi._core.structs import Field, Struct
from names import find, first_line

_KINDS = ("Fields", "Class methods", "Methods", "Properties")
_RANGES = {"0 to 4294967295": "0 or more", "-2147483648 to 2147483647": ""}  # of C's types
# Defaults that depend on the machine.
_DEFAULTS = {"nThreads": "usable CPUs", "nThreadsBatch": "usable CPUs"}


@dataclass
class Member:
    """What the tables say about a member. `type` and `default` are for attributes."""

    name: str
    kind: str
    doc: str
    type: str = ""
    default: str = ""
    unit: str = ""


def nested(cls: type) -> list[str]:
    """Return the names of the public classes inside a class: `Params` and the like."""
    return [
        name
        for name in dir(cls)
        if name[0].isupper() and inspect.isclass(getattr(cls, name)) and not issubclass(cls, enum.Enum)
    ]


def ours(cls: type) -> list[type]:
    """Return a class and its bases that the package defines, itself first."""
    return [base for base in cls.__mro__ if base.__module__.startswith("llama_cffi.")]


def members(cls: type) -> list[Member]:
    """Return the public members of a class, and those that it inherits from classes of the package, by kind.

    Methods without a docstring are not for users.
    """
    found: dict[str, Member] = {}
    for base in ours(cls):
        analyzer = ModuleAnalyzer.for_module(base.__module__)
        analyzer.analyze()
        docs = {name: "\n".join(doc) for (owner, name), doc in analyzer.attr_docs.items() if owner == base.__qualname__}
        annotated = [name for name, kind in _annotations(base).items() if "ClassVar" not in kind]
        names = dict.fromkeys([*annotated, *vars(base), *docs])
        for name in sorted(names, key=lambda name: analyzer.tagorder.get(f"{base.__qualname__}.{name}", 1 << 30)):
            if name[0] != "_" and name not in found and name not in nested(cls):
                found[name] = _member(cls, base, name, docs.get(name, ""))
    known = [member for member in found.values() if member.doc or member.kind in ("Fields", "Properties")]
    by_name = issubclass(cls, Struct)  # a form to fill in, where people look a field up
    return sorted(known, key=lambda member: (_KINDS.index(member.kind), member.name.lower() if by_name else ""))


def _member(cls: type, base: type, name: str, doc: str) -> Member:
    value = inspect.getattr_static(cls, name, None)
    if isinstance(value, (classmethod, staticmethod)):
        return Member(name, "Class methods", inspect.getdoc(value.__func__) or "")
    if inspect.isroutine(value):
        return Member(name, "Methods", inspect.getdoc(value) or "")
    if issubclass(cls, Struct) and isinstance(value, (Field, property)):
        return _field(cls, name)
    if isinstance(value, property):
        return Member(name, "Properties", inspect.getdoc(value) or "")
    named = vars(base).get("_field_defaults", vars(base))  # of a named tuple, or of a data class
    default = repr(named[name]) if isinstance(named.get(name, ...), (int, float, str, tuple, type(None))) else ""
    return Member(name, "Fields", doc, _annotations(base).get(name, ""), default)


def _annotations(cls: type) -> dict[str, str]:
    """Return the types of a class's own attributes, as its source has them; those of named tuples are ForwardRef."""
    found = vars(cls).get("__annotations__", {})
    return {
        name: str(getattr(kind, "__forward_arg__", getattr(kind, "__name__", kind))) for name, kind in found.items()
    }


def _field(cls: type[Struct], name: str) -> Member:
    default = getattr(cls(), name)
    shown = default.name if isinstance(default, enum.Enum) else _DEFAULTS.get(name, repr(default))
    return Member(
        name,
        "Fields",
        struct_fields.text(cls, name),
        struct_fields.kind(cls, name),
        shown,
        struct_fields.unit(name),
    )


# Text of reStructuredText.


def table(header: list[str], rows: list[list[str]], classes: str = "") -> str:
    """Return a table; `classes` are for the style sheet."""
    out = [".. list-table::", "   :widths: auto", f"   :header-rows: {int(bool(header))}"]
    out += [f"   :class: members {classes}".rstrip(), ""]
    for row in ([header] if header else []) + rows:
        for number, cell in enumerate(row):
            out.append(f"   {'* - ' if not number else '  - '}{textwrap.indent(cell, ' ' * 7).lstrip()}")
    return "\n".join([*out, ""])


def link(path: str, shown: str = "") -> str:
    return f":py:obj:`{shown or path} <llama_cffi.{path}>`"


def heading(title: str, line: str = "=") -> str:
    return f"{title}\n{line * len(title)}\n"


def target(directive: str, name: str) -> str:
    """Return an entry that is found by links and by the search, but not shown."""
    return f".. {directive}:: {name}\n   :module: llama_cffi\n   :no-typesetting:\n"


def class_page(path: str, apart: frozenset[str] = frozenset(), more: str = "") -> str:
    """Return the page of a class or an enumeration, by its public name.

    Other pages document the members of `apart`; `more` stands below the tables.
    """
    cls = find(path)
    if issubclass(cls, enum.Enum):
        return _enumeration(path, cls)
    parts = [heading(path), _class_entry(path, cls)]
    inner = [link(f"{path}.{name}") for name in nested(cls)]
    if inner:
        parts.append(f"Parameters: {', '.join(inner)}.\n")
    found = [member for member in members(cls) if member.name not in apart]
    for kind in _KINDS:
        of_kind = [member for member in found if member.kind == kind]
        if of_kind:
            parts.append(f".. rubric:: {kind}\n")
            parts.append(_field_table(path, of_kind) if kind == "Fields" else member_table(path, of_kind))
    parts += [more] if more else []
    details = [text for member in found if (text := entry(path, member))]
    if details:
        parts += [".. rubric:: Details\n", *details]
    return "\n".join(parts)


def _class_entry(path: str, cls: type) -> str:
    """The signature and the docstring. autodoc would call `Context.Params` an alias of the class's own name."""
    if cls.__name__ == path.rpartition(".")[2] and "Protocol" not in str(cls.__mro__[1:2]):
        return f".. autoclass:: llama_cffi::{path}\n"
    arguments = "(**fields)" if issubclass(cls, Struct) else ""
    doc = textwrap.indent(inspect.getdoc(cls) or "", "   ")
    return f".. py:class:: {path}{arguments}\n   :module: llama_cffi\n\n{doc}\n"


def member_table(path: str, found: list[Member]) -> str:
    """Return a table of methods or properties: name and first sentence."""
    return table([], [[link(f"{path}.{member.name}", member.name), first_line(member.doc)] for member in found])


def _field_table(path: str, found: list[Member]) -> str:
    units = any(member.unit for member in found)
    defaults = any(member.default for member in found)
    rows = []
    for member in found:
        if _is_short(member):
            # Everything is in the table.
            name = f"{target('py:attribute', f'{path}.{member.name}')}\n``{member.name}``"
        else:
            name = link(f"{path}.{member.name}", member.name)
        row = [name, _type(member.type)]
        row += [_default(member.default)] if defaults else []
        row += [member.unit] if units else []
        rows.append([*row, member.doc if _is_short(member) else first_line(member.doc)])
    header = ["Field", "Type", *(["Default"] if defaults else []), *(["Unit"] if units else []), "Meaning"]
    return table(header, rows, f"fields{' defaults' * defaults}{' units' * units}")


def _is_short(member: Member) -> bool:
    return member.kind == "Fields" and "\n\n" not in member.doc.strip() and len(member.doc) < 160


def _default(text: str) -> str:
    return text if " " in text and not text.startswith(("(", "'")) else (f"``{text}``" if text else "")


def _type(text: str) -> str:
    """Return a type as text; of an enumeration, a link and its members."""
    head, colon, rest = text.partition(":")
    if colon and head.isidentifier():
        return f"`{_public(head)}`: {rest.strip()}"
    plain, comma, limits = text.partition(", ")
    if comma and plain in ("int", "float"):
        limits = _RANGES.get(limits, limits)
        return f"``{plain}``{limits and ', '}{limits}"
    return f"``{text}``" if text else ""


def _public(name: str) -> str:
    for space in ("Ggml", "Mtmd"):
        short = name.removeprefix(space)
        if short != name and find(f"{space}.{short}"):
            return f"{space}.{short}"
    return name


def entry(path: str, member: Member) -> str:
    """Return the entry of a member; "" if its row in the table says everything."""
    if _is_short(member):
        return ""
    if member.kind == "Fields":
        facts = "; ".join(
            part
            for part in (
                _type(member.type),
                f"default {_default(member.default)}" if member.default else "",
                f"in {member.unit}" if member.unit else "",
            )
            if part
        )
        doc = textwrap.indent(f"{facts}\n\n{member.doc}", "   ")
        return f".. py:attribute:: {path}.{member.name}\n   :module: llama_cffi\n\n{doc}\n"
    directive = "autoproperty" if member.kind == "Properties" else "automethod"
    return f".. {directive}:: llama_cffi::{path}.{member.name}\n"


def _enumeration(path: str, cls: type[enum.Enum]) -> str:
    """Members stand in a table: autodoc shows an alias of a generated class without them."""
    docs = {member.name: member.doc for member in members(cls)}
    rows = []
    for member in cls:
        name = f"{target('py:attribute', f'{path}.{member.name}')}\n``{member.name}``"
        rows.append([name, f"``{member.value!r}``", *([docs.get(member.name, "")] if any(docs.values()) else [])])
    header = ["Member", "Value", *(["Meaning"] if any(docs.values()) else [])]
    doc = textwrap.indent(inspect.getdoc(cls) or "", "   ")
    methods = [member for member in members(cls) if member.kind != "Fields"]
    parts = [heading(path), f".. py:class:: {path}\n   :module: llama_cffi\n\n{doc}\n", table(header, rows)]
    if methods:
        parts += [member_table(path, methods), ".. rubric:: Details\n", *(entry(path, member) for member in methods)]
    return "\n".join(parts)
