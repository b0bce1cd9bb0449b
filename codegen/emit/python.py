"""Emits the generated Python: enumerations, structs of parameters, the naming map, the list of absent names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pprint import pformat

from codegen.api.c_text import INTEGERS
from codegen.api.model import Api, CodegenError, Enum, Field, Record, flat_fields
from codegen.rules import naming, policy
from codegen.rules.adapters import FIELDS

# Descriptors of llama_cffi._core.compat_fields.
COMPAT = {"AbsentField", *(row.descriptor for row in FIELDS.values())}


# A remark of the header about the order of members, which stands before the text of the first of them.
_FOR_MAINTAINERS = re.compile(r"Keep the booleans together [^.]*\.\s*")


def emit_enums(api: Api) -> str:
    """Return the text of `_generated/enums.py` without its banner: a table of members, and classes made at first use.

    All of them would take a tenth of the time of an import, and a program needs a few.
    """
    return (
        '"""Every enumeration of the public headers, with values from the compiler.\n\n'
        'A class is made at first use. `enums.pyi` has the same ones for type checkers.\n"""\n\n'
        "from __future__ import annotations\n\n"
        "from enum import IntEnum\n\n"
        "from llama_cffi._suggest import SuggestingEnum\n\n"
        + "# Class -> its docstring, and its members.\n_ENUMS: dict[str, tuple[str, dict[str, int]]] = {\n"
        + "\n".join(map(_enum_row, _named(api)))
        + "\n}\n\n__all__ = list(_ENUMS)\n\n\n"
        + _ENUM_CLASSES
    )


_ENUM_CLASSES = """\
class _Enum(IntEnum, metaclass=SuggestingEnum):
    \"\"\"Base of all: suggests a member for an unknown name.\"\"\"


def __getattr__(name: str) -> type[IntEnum]:
    if name not in _ENUMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    doc, members = _ENUMS[name]
    made = _Enum(name, members, module=__name__)  # type: ignore[call-overload]
    made.__doc__ = doc
    kept: type[IntEnum] = globals().setdefault(name, made)  # the first one, if two threads make it at once
    return kept


def __dir__() -> list[str]:
    return sorted({*globals(), *_ENUMS})
"""


def _enum_row(enum: Enum) -> str:
    names = naming.member_names(enum)
    members = "".join(f'            "{names[member.name]}": {member.value},\n' for member in enum.members)
    return f'    "{_class_of(enum)}": (\n{_enum_docstring(enum, 2)},\n        {{\n{members}        }},\n    ),'


def emit_enum_stub(api: Api) -> str:
    """Return the text of `_generated/enums.pyi` without its banner: the classes, for type checkers."""
    blocks = ['"""Every enumeration of the public headers, with values from the compiler."""\n']
    blocks.append("from enum import IntEnum\n")
    blocks += ["\n" + _enum(enum) for enum in _named(api)]
    return "\n".join(blocks)


def _named(api: Api) -> list[Enum]:
    return [enum for enum in api.enums if enum.tag or enum.alias]


def _class_of(enum: Enum) -> str:
    return naming.class_name(enum.tag or enum.alias)


def _enum(enum: Enum) -> str:
    names = naming.member_names(enum)
    lines = [f"class {_class_of(enum)}(IntEnum):", _enum_docstring(enum, 1)]
    lines += [f"    {names[member.name]} = {member.value}" for member in enum.members]
    return "\n".join(lines) + "\n"


def _enum_docstring(enum: Enum, depth: int) -> str:
    doc = " ".join(enum.doc.split())
    return _docstring(f"{doc} " if doc else "", f"Maps to `{enum.tag or enum.alias}`.", depth)


def _docstring(doc: str, closing: str, depth: int) -> str:
    pad = "    " * depth
    text = (doc + closing).replace("\\", "\\\\").replace('"""', "'''")
    if text.endswith('"'):  # a fourth quote would end the docstring too early
        text += " "
    if len(text) + len(pad) + 6 <= 118:
        return f'{pad}"""{text}"""'
    body = "\n".join(pad + line for line in _wrap(text, 118 - len(pad)))
    return f'{pad}"""{body.lstrip()}\n{pad}"""'


def _wrap(text: str, width: int) -> list[str]:
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


# Structs as objects


def emit_structs(api: Api) -> str:
    """Return the text of `_generated/structs.py` without its banner: a class per struct, a descriptor per field."""
    records = {record.tag: record for record in api.records}
    enums = {enum.tag: naming.class_name(enum.tag) for enum in api.enums if enum.tag}
    body: list[str] = []
    keywords: list[str] = []
    used: set[str] = set()
    for tag in policy.NEEDED_RECORDS:
        if tag not in records:
            raise CodegenError(f"codegen/rules/policy.py: NEEDED_RECORDS names {tag}, which this header lacks")
    for tag in (*policy.param_records(api), *policy.DATA_RECORDS):
        text, helpers = _struct(records[tag], enums, api.absent)
        body.append(text)
        if tag not in policy.DATA_RECORDS:
            keywords.append(_keywords(records[tag], enums))
        used |= helpers
    helper_names = "".join(f", {x}" for x in sorted(used) if x.endswith("Field") and x not in COMPAT)
    compat = ", ".join(sorted(used & COMPAT))
    enum_names = "".join(f"        {x},\n" for x in sorted(x for x in used if not x.endswith("Field")))
    at_runtime = any("enums." in text for text in body)  # for the values of fields that this llama.cpp lacks
    return (
        '"""Structs as objects: every number, boolean and enumeration is an attribute. '
        'The facade adds the pointers."""\n\n'
        + "from __future__ import annotations\n\n"
        + ("from llama_cffi._generated import enums\n" if at_runtime else "")
        + (f"from llama_cffi._core.compat_fields import {compat}\n" if compat else "")
        + f"from llama_cffi._core.structs import Struct{helper_names}\n\n"
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from typing import TypedDict\n\n"
        f"    from llama_cffi._generated.enums import (\n{enum_names}    )\n\n"
        + "\n".join(keywords)
        + "\n\n"
        + "\n\n".join(body)
    )


def _keywords(record: Record, enums: dict[str, str]) -> str:
    """Return a TypedDict of the plain fields, so that type checkers find misspelled keyword arguments."""
    types = {"IntField": "int", "BoolField": "bool", "FloatField": "float"}
    lines = [f"    class {naming.class_name(record.tag)}Keywords(TypedDict, total=False):"]
    lines.append(f'        """The plain fields of `{record.tag}`, as arguments."""\n')
    for field in (*flat_fields(record), *record.lacks):
        descriptor = _descriptor(field, enums)
        if descriptor is not None:
            helper, arguments = descriptor
            lines.append(f"        {naming.field_name(record, field.name)}: {types.get(helper, arguments)}")
    return "\n".join(lines) + "\n"


def _struct(record: Record, enums: dict[str, str], absent: Mapping[str, str]) -> tuple[str, set[str]]:
    name = naming.class_name(record.tag)
    lines = [f"class {name}Fields(Struct):", f'    """The plain fields of `{record.tag}`."""', ""]
    lines += [f'    _C_TYPE = "struct {record.tag}"', ""]
    pointers: list[str] = []
    used: set[str] = set()
    for field in flat_fields(record):
        descriptor = _descriptor(field, enums)
        attribute = naming.field_name(record, field.name)
        if descriptor is None:
            pointers.append(f"{attribute} ({field.type})")
            continue
        helper, arguments = descriptor
        used |= {helper} | ({arguments} if helper == "EnumField" else set())
        lines.append(f"    {attribute}{_made(helper, field.name, arguments)}")
        lines.append(_docstring(_FOR_MAINTAINERS.sub("", " ".join(field.doc.split())) or f"`{field.name}`.", "", 1))
    for field in record.lacks:
        descriptor = _descriptor(field, enums)
        if descriptor is not None:
            helper, made = _lacking(record, field, descriptor, absent[f"{record.tag}.{field.name}"])
            used |= {helper} | {x for x in descriptor[1:] if descriptor[0] == "EnumField"}
            lines.append(f"    {naming.field_name(record, field.name)}{made}")
    if pointers:
        lines += ["", "    # Added by the facade: " + ", ".join(pointers)] if len(", ".join(pointers)) < 90 else [
            "",
            "    # Added by the facade:",
            *(f"    #   {pointer}" for pointer in pointers),
        ]  # fmt: skip
    return "\n".join(lines) + "\n", used


def _lacking(record: Record, field: Field, descriptor: tuple[str, str], versions: str) -> tuple[str, str]:
    """Return the class and the text of a descriptor for a field that the header lacks."""
    helper, enum = descriptor
    row = FIELDS.get(f"{record.tag}.{field.name}")
    if row and set(row.requires) <= {other.name for other in flat_fields(record)}:
        return row.descriptor, _made(row.descriptor, field.name, enum, is_enum=True)
    zero = {"BoolField": "False", "FloatField": "0.0", "IntField": "0"}.get(helper, f"enums.{enum}(0)")
    return "AbsentField", f' = AbsentField("{record.tag}.{field.name}", {zero}, "{versions}")'


def _made(helper: str, name: str, arguments: str, is_enum: bool = False) -> str:
    """Return the end of the line that defines a descriptor; one of an enumeration names it, and does not make it."""
    if helper == "EnumField" or is_enum:
        return f' = {helper}["{arguments}"]("{name}", "{arguments}")'
    return f' = {helper}("{name}"{f", {arguments}" if arguments else ""})'


def _descriptor(field: Field, enums: dict[str, str]) -> tuple[str, str] | None:
    if field.type == "bool":
        return "BoolField", ""
    if field.type in ("float", "double"):
        return "FloatField", ""
    if field.type in INTEGERS:
        bits, signed = INTEGERS[field.type]
        return "IntField", f"{field.bits or bits}, {signed}"
    enum = re.fullmatch(r"enum (\w+)", field.type)
    if enum and enum[1] not in enums:
        raise CodegenError(f"the field {field.name} is of {field.type}, which no header defines")
    if enum:
        return "EnumField", enums[enum[1]]
    return None


# Tables


def emit_names(api: Api) -> str:
    """Return the text of `_generated/names.py` without its banner."""
    functions = {f.name: ".".join(filter(None, naming.function_name(f))) for f in api.functions}
    for row in naming.EXCEPTIONS:
        functions.setdefault(row.c_name, f"{row.owner}.{row.name}")
    types = {t: naming.type_name(t) for t in _type_names(api)}
    fields = {
        f"{record.tag or record.alias}.{field.name}": naming.field_name(record, field.name)
        for record in api.records
        for field in flat_fields(record)
    }
    members = {
        c_name: f"{naming.type_name(enum.tag or enum.alias)}.{name}"
        for enum in api.enums
        if enum.tag or enum.alias
        for c_name, name in naming.member_names(enum).items()
    }
    constants = {constant.name: naming.constant_name(constant.name) for constant in api.constants}
    virtual = {f"{owner}.{c}": name for (owner, c), (name, _) in naming.VIRTUAL_FIELDS.items()}
    deprecated = {f.name: f.deprecated for f in api.functions if f.deprecated}
    return (
        '"""The naming map: every C name of the public headers -> its name in the facade."""\n\n'
        "from __future__ import annotations\n\n"
        + _table("FUNCTIONS", functions, "C function -> its name, with its class unless it belongs to the module.")
        + _table("TYPES", types, "C struct, union, enum or typedef -> its class.")
        + _table("FIELDS", fields, "`struct.field` -> its attribute.")
        + _table("ENUMERATORS", members, "C enumerator -> `Class.MEMBER`.")
        + _table("CONSTANTS", constants, "C macro or constant -> its name.")
        + _table(
            "VIRTUAL_FIELDS",
            virtual,
            "`Class.c_name` of a field of older headers -> the attribute that the facade keeps for it.",
        )
        + _table("DEPRECATED", deprecated, "Deprecated C function -> the header's hint.")
    )


def _type_names(api: Api) -> list[str]:
    names = [r.tag or r.alias for r in api.records] + [e.tag or e.alias for e in api.enums]
    return sorted({name for name in [*names, *(t.name for t in api.typedefs)] if name})


def _table(name: str, rows: dict[str, str], comment: str) -> str:
    body = pformat(dict(sorted(rows.items())), width=118, sort_dicts=True)
    return f"# {comment}\n{name}: dict[str, str] = {body}\n\n"


def emit_absent(api: Api, written_for: str) -> str:
    """Return the text of `_generated/absent.py` without its banner. `written_for` is the facade's own version."""
    comment = "C name or `struct.field` -> the versions that have it, as `make upgrade VERSION=` takes them."
    return (
        '"""C names that the facade uses and this llama.cpp lacks."""\n\nfrom __future__ import annotations\n\n'
        f'# The version whose internals the facade was written for.\nWRITTEN_FOR = "{written_for}"\n\n'
    ) + _table("ABSENT", api.absent, comment)
