"""Emits cdef.h, the C declarations that cffi reads.

Values are left to the compiler (`...`). Layouts are exact, so that cffi's C code does not compile with other headers.
"""

from __future__ import annotations

import re

from codegen.api.c_text import enum_text, prototype, record_text
from codegen.api.model import Api, Constant, Record, declare
from codegen.rules import policy


def emit(api: Api) -> str:
    """Return the text of `_generated/cdef.h` without its banner."""
    tagged = [record for record in api.records if record.tag]
    parts = [
        "".join(f"{record.spelling};\n" for record in tagged),
        "".join(enum_text(enum) for enum in api.enums),
        "".join(_aliases(api)),
        "".join(record_text(record) for record in tagged if record.fields is not None),
        "".join(_constant(constant) for constant in api.constants),
        "".join(f"{prototype(function)};\n" for function in policy.bound(api)),
    ]
    return "\n".join(parts)


def _aliases(api: Api) -> list[str]:
    """Return typedefs, and structs that only a typedef names, each after the types that it uses."""
    texts = {record.alias: record_text(record) for record in api.records if not record.tag}
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


def _constant(constant: Constant) -> str:
    match constant.kind:
        case "int":
            return f"#define {constant.name} ...\n"
        case "float":
            return f"static const double {constant.name};\n"
        case _:
            return f"static char *const {constant.name};\n"
