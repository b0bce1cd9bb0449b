"""The cdef: what cffi reads. Values are left to the compiler (`...`); layouts are exact, so that a mismatch shows."""

from __future__ import annotations

import json
import re

from codegen.api.model import Api, Constant, Enum, Field, Function, Record, declare
from codegen.rules import policy


def emit(api: Api) -> str:
    """The text of `_generated/cdef.h`, without its banner."""
    tagged = [record for record in api.records if record.tag]
    parts = [
        "".join(f"{record.spelling};\n" for record in tagged),
        "".join(_enum(enum) for enum in api.enums),
        "".join(_aliases(api)),
        "".join(_record(record) for record in tagged if record.fields is not None),
        "".join(_constant(constant) for constant in api.constants),
        "".join(f"{prototype(function)};\n" for function in policy.bound(api)),
    ]
    return "\n".join(parts)


def definitions(api: Api) -> str:
    """C definitions of the types and constants that were added to the API; empty for most headers."""
    enums = [enum for enum in api.enums if enum.added]
    records = [record for record in api.records if record.added]
    return "".join(
        [
            *(_enum(enum, values=True) for enum in enums),
            *(f"{record.spelling};\n" for record in records if record.tag),
            *(f"typedef {declare(t.type, t.name)};\n" for t in api.typedefs if t.added),
            *(_record(record) for record in records if record.fields is not None),
            *(f"#define {c.name} {json.dumps(c.value)}\n" for c in api.constants if c.added),
        ]
    )


def prototype(function: Function, name: str | None = None, named: bool = False) -> str:
    """A function's C prototype, by default without parameter names."""
    params = [declare(p.type, argument(function, i)) if named else p.type for i, p in enumerate(function.params)]
    if function.variadic:
        params.append("...")
    return declare_function(function.returns, name or function.name, ", ".join(params) or "void")


def declare_function(returns: str, name: str, params: str) -> str:
    return declare(returns, f"{name}({params})")


def argument(function: Function, index: int) -> str:
    return function.params[index].name or f"arg{index}"


def _aliases(api: Api) -> list[str]:
    """Typedefs and structs that only a typedef names, each behind those that it is made of."""
    texts = {record.alias: _record(record) for record in api.records if not record.tag}
    types = {record.alias: _types(record) for record in api.records if not record.tag}
    for typedef in api.typedefs:
        texts[typedef.name] = f"typedef {declare(typedef.type, typedef.name)};\n"
        types[typedef.name] = [typedef.type]
    placed: dict[str, None] = {}

    def place(name: str) -> None:
        used = re.findall(r"\w+", re.sub(r"\b(struct|union|enum) \w+", "", " ".join(types[name])))
        for other in used:
            if other in texts and other not in placed:
                place(other)
        placed[name] = None

    for name in texts:
        place(name)
    return [texts[name] for name in placed]


def _types(record: Record) -> list[str]:
    fields = record.fields or ()
    return [x for field in fields for x in (_types(field.inner) if field.inner else [field.type])]


def _enum(enum: Enum, values: bool = False) -> str:
    members = "".join(f"    {m.name} = {m.value if values else '...'},\n" for m in enum.members)
    if enum.alias:
        return f"typedef enum {{\n{members}}} {enum.alias};\n"
    return f"enum {enum.tag} {{\n{members}}};\n" if enum.tag else f"enum {{\n{members}}};\n"


def _record(record: Record) -> str:
    body = _fields(record.fields or (), 1)
    if record.alias:
        return f"typedef {record.kind} {{\n{body}}} {record.alias};\n"
    return f"{record.spelling} {{\n{body}}};\n"


def _fields(fields: tuple[Field, ...], depth: int) -> str:
    pad = "    " * depth
    lines: list[str] = []
    for field in fields:
        if field.inner:
            inner = _fields(field.inner.fields or (), depth + 1)
            declarator = declare(field.type, field.name).removeprefix(field.inner.kind)
            lines.append(f"{pad}{field.inner.kind} {{\n{inner}{pad}}}{declarator};\n")
        else:
            bits = f" : {field.bits}" if field.bits is not None else ""
            lines.append(f"{pad}{declare(field.type, field.name)}{bits};\n")
    return "".join(lines)


def _constant(constant: Constant) -> str:
    match constant.kind:
        case "int":
            return f"#define {constant.name} ...\n"
        case "float":
            return f"static const double {constant.name};\n"
        case _:
            return f"static char *const {constant.name};\n"
