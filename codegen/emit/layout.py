"""Emits the layout: the size, offset, type and value of everything in the headers, as the generator measured it.

`layout.cpp` asserts it when the extension is compiled, so that an extension never gets built with headers of another
llama.cpp. The extension and `pin.py` both contain the digest of the assertions, and the import compares the two. If
they differ, `layout.py` serves to say where.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pprint import pformat

from codegen.api.c_text import declare_function
from codegen.api.model import Api, Function, Record, flat_fields
from codegen.rules import policy

_TOP = """
#define LLAMA_CFFI_GUARD_WRAPPERS
#include "guard.h"
#include "shim.h"

#include <type_traits>

/* Naming a deprecated function here does not use it, and attributes are not part of a type. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#pragma GCC diagnostic ignored "-Wignored-attributes"

#define ADVICE "llama.cpp's headers differ from those of the generated files: run `make generate`, then build again"
#define VALUE(expression, expected) static_assert((expression) == (expected), ADVICE)
#define TYPE(expression, ...) static_assert(std::is_same<decltype(expression), __VA_ARGS__>::value, ADVICE)

"""


def emit_source(api: Api) -> str:
    """Return the text of `_generated/layout.cpp` without its banner."""
    body = "".join(f"{line};\n" for line in _assertions(api))
    return f'{_TOP}{body}\nextern "C" uint64_t shim_abi(void) {{\n    return 0x{digest(api):016x};\n}}\n'


def emit_pin(api: Api) -> str:
    """Return the text of `_generated/pin.py` without its banner."""
    return (
        '"""The llama.cpp that these files were generated from."""\n\n'
        f'PIN = "{api.pin}"\n\n'
        "# Digest of every size, offset, value and signature. The extension must have the same.\n"
        f"ABI = 0x{digest(api):016x}\n"
    )


def emit_tables(api: Api) -> str:
    """Return the text of `_generated/layout.py` without its banner."""
    records = {
        record.spelling: (record.size, {f.name: f.offset for f in flat_fields(record) if f.offset is not None})
        for record in api.records
        if record.fields is not None
    }
    constants = {constant.name: constant.value for constant in api.constants}
    enumerators = {member.name: member.value for enum in api.enums for member in enum.members}
    functions = sorted(function.name for function in policy.bound(api))
    return (
        '"""Sizes, offsets and values as the generator measured them, to say where an extension differs."""\n\n'
        "from __future__ import annotations\n\n"
        f"RECORDS: dict[str, tuple[int, dict[str, int]]] = {pformat(records, width=118)}\n\n"
        f"CONSTANTS: dict[str, int | float | str] = {pformat(constants, width=118)}\n\n"
        f"ENUMERATORS: dict[str, int] = {pformat(enumerators, width=118)}\n\n"
        f"FUNCTIONS: tuple[str, ...] = {pformat(tuple(functions), width=118)}\n"
    )


def digest(api: Api) -> int:
    """Return a 64-bit digest of everything that `layout.cpp` asserts, and of the functions that the header lacks."""
    added = (f"{f.name} {_signature(f)}" for f in policy.bound(api) if _is_added(f))
    text = "\n".join((*_assertions(api), *added))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _assertions(api: Api) -> Iterator[str]:
    for record in api.records:
        if record.fields is not None:
            yield from _record(record)
    for enum in api.enums:
        for member in enum.members:
            yield f"VALUE({member.name}, {_integer(member.value)})"
    for constant in api.constants:
        if isinstance(constant.value, int):
            yield f"VALUE({constant.name}, {_integer(constant.value)})"
    for function in policy.bound(api):
        if not _is_added(function):
            yield f"TYPE({function.name}, {_signature(function)})"


def _record(record: Record) -> Iterator[str]:
    yield f"VALUE(sizeof({record.spelling}), {record.size})"
    for field in flat_fields(record):
        if field.offset is not None:  # a bit field has no offset
            yield f"VALUE(offsetof({record.spelling}, {field.name}), {field.offset})"
        if field.inner is None and field.bits is None:
            yield f"TYPE({record.tag or record.alias}::{field.name}, {field.type})"


def _is_added(function: Function) -> bool:
    """Return True if the guard defines the function because the header lacks it or has it with other types."""
    return bool(function.body or function.absent)


def _signature(function: Function) -> str:
    params = [param.type for param in function.params] + ["..."] * function.variadic
    return declare_function(function.returns, "", ", ".join(params) or "void")


def _integer(value: int | None) -> str:
    assert value is not None  # the probe has set it
    if value == -(2**63):
        return f"({value + 1}LL - 1)"
    if not -(2**63) < value < 2**64:
        raise ValueError(f"{value} must fit into 64 bits")
    return f"{value}ULL" if value >= 2**63 else f"{value}LL" if abs(value) >= 2**31 else str(value)
