"""C text of the API: prototypes, and definitions of enums and structs, for the emitters and the comparison."""

from __future__ import annotations

import json

from codegen.api.model import Api, Enum, Field, Function, Record, declare

# C integer type -> its width in bits, and True if it is signed.
INTEGERS = {
    f"{prefix}int{bits}_t": (bits, prefix == "") for bits in (8, 16, 32, 64) for prefix in ("", "u")
} | {"int": (32, True), "size_t": (64, False)}  # fmt: skip


def prototype(function: Function, name: str | None = None, named: bool = False) -> str:
    """Return a function's C prototype. `named` adds the names of the parameters."""
    params = [declare(p.type, argument(function, i)) if named else p.type for i, p in enumerate(function.params)]
    if function.variadic:
        params.append("...")
    return declare_function(function.returns, name or function.name, ", ".join(params) or "void")


def declare_function(returns: str, name: str, params: str) -> str:
    """Return the C declaration of a function, given the text of its parameter list."""
    return declare(returns, f"{name}({params})")


def argument(function: Function, index: int) -> str:
    """Return the name of a parameter, or a made-up one if the header gives none."""
    return function.params[index].name or f"arg{index}"


def definitions(api: Api) -> str:
    """Return C definitions of the types and constants that `complete` added to the API; empty for most headers."""
    enums = [enum for enum in api.enums if enum.added]
    records = [record for record in api.records if record.added]
    return "".join(
        [
            *(enum_text(enum, values=True) for enum in enums),
            *(f"{record.spelling};\n" for record in records if record.tag),
            *(f"typedef {declare(t.type, t.name)};\n" for t in api.typedefs if t.added),
            *(record_text(record) for record in records if record.fields is not None),
            *(f"#define {c.name} {json.dumps(c.value)}\n" for c in api.constants if c.added),
        ]
    )


def enum_text(enum: Enum, values: bool = False) -> str:
    """Return the definition of an enum. Without `values`, cffi asks the compiler for them (`...`)."""
    members = "".join(f"    {m.name} = {m.value if values else '...'},\n" for m in enum.members)
    if enum.alias:
        return f"typedef enum {{\n{members}}} {enum.alias};\n"
    return f"enum {enum.tag} {{\n{members}}};\n" if enum.tag else f"enum {{\n{members}}};\n"


def record_text(record: Record) -> str:
    """Return the definition of a struct or union."""
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
