"""Compares a header's types and constants with those that the facade and the shim were written for.

A header may lack some of them: `complete.py` handles that. `check` raises CodegenError for those that have changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from codegen.api.c_text import INTEGERS, prototype
from codegen.api.model import Api, CodegenError, Enum, Field, Record, Typedef, declare, flat_fields
from codegen.fit.needs import Needs, field_form, plain
from codegen.fit.usage import NOWHERE, asks_for, attribute_place, described_place, field_place, place
from codegen.rules import naming, policy

ADVICE = "Add a row to codegen/rules/adapters.py, or change the facade and run `python -m codegen needs`."
_ASK = 'Check for it there with has("{}"), or change the facade and run `python -m codegen needs`.'
_CHANGE = "Change the facade or the shim, and run `python -m codegen needs`."


def changed(header: str, what: str, theirs: str, where: str, ours: str, advice: str = ADVICE) -> CodegenError:
    """Return the error for a declaration that differs from the one that the sources were written for."""
    return CodegenError(f"{header}: {what} has changed: got\n    {theirs}\nbut {where} expects\n    {ours}\n{advice}")


def check(api: Api, needs: Needs) -> None:
    """Check that the types and constants that the facade and the shim use are as they were.

    Raises CodegenError for one that has changed, and for a missing one that nothing can stand in for.
    """
    typedefs = {typedef.name: typedef for typedef in api.typedefs}
    records = {record.spelling: record for record in api.records}
    _check_members(api, needs)
    _check_enums(api, needs)
    _check_constants(api, needs)
    for typedef in needs.api.typedefs:
        if typedef.name in typedefs and typedef.name not in policy.UNUSED_CALLBACKS:
            _check_typedef(typedef, typedefs[typedef.name], needs)
    for record in needs.api.records:
        theirs = records.get(record.spelling)
        if record.fields is not None and theirs is not None:
            _check_record(record, theirs)


def _check_typedef(ours: Typedef, theirs: Typedef, needs: Needs) -> None:
    if plain(ours.type) != plain(theirs.type):
        before, after = (f"typedef {declare(t.type, t.name)};" for t in (ours, theirs))
        raise changed(theirs.header, ours.name, after, _user(ours.name, needs), before, _CHANGE)


def _user(typedef: str, needs: Needs) -> str:
    """Return where the sources use a typedef: by its name, as the type of a field, or in a call."""
    word = re.compile(rf"\b{typedef}\b")
    fields = [f.name for r in needs.api.records for f in flat_fields(r) if word.search(f.type)]
    calls = [f.name for f in needs.api.functions if word.search(prototype(f))]
    places = (place(typedef), *map(field_place, fields), *map(place, calls))
    return next((where for where in places if where and where != NOWHERE), NOWHERE)


# Records


def _check_record(ours: Record, theirs: Record) -> None:
    tag = ours.tag or ours.alias
    if theirs.fields is None:
        if any(field_place(field.name) for field in flat_fields(ours)) and not asks_for(tag):
            before = f"{ours.spelling} {{ {_members(ours)} }};"
            raise changed(theirs.header, ours.spelling, f"{theirs.spelling};", place(tag), before, _CHANGE)
        return
    exact = policy.EXACT_RECORDS.get(tag)
    if exact and (_shape(ours) != _shape(theirs) or ours.size != theirs.size):
        raise _another_shape(ours, theirs, exact)
    have = {field.name: field for field in flat_fields(theirs)}
    known = {field.name for field in flat_fields(ours)}
    if tag in policy.FILLED_RECORDS and set(have) - known:
        raise _another_shape(ours, theirs, policy.FILLED_RECORDS[tag])
    for field in flat_fields(ours):
        if field.name not in have:
            _check_missing_field(ours, field, theirs)
        elif field_form(ours, field) == field_form(theirs, have[field.name]) or not asks_for(f"{tag}.{field.name}"):
            _check_field(ours, field, have[field.name], theirs.header)


def _check_missing_field(ours: Record, field: Field, theirs: Record) -> None:
    """Raise CodegenError unless the sources can do without the field.

    A descriptor stands in for a plain field. A use that reads the struct itself must check for the field first.
    """
    tag = ours.tag or ours.alias
    name = f"{tag}.{field.name}"
    where = described_place(field.name) if tag in policy.NEEDED_RECORDS else field_place(field.name)
    if where and not asks_for(name):
        raise CodegenError(
            f"{theirs.header}: {theirs.spelling} has no field {field.name}: got\n    {_members(theirs)}\n"
            f"but {where} expects\n    {declare(field.type, field.name)};\n{_ASK.format(name)}"
        )


def _check_field(record: Record, ours: Field, theirs: Field, header: str) -> None:
    """Raise CodegenError if a field that the sources use has another kind of type.

    The width of an integer may differ: the generated descriptors adapt to it.
    """
    if plain(ours.type) == plain(theirs.type) or _sort(ours) == _sort(theirs) == "integer":
        return
    if record.tag in policy.NEEDED_RECORDS:
        where = described_place(ours.name) or attribute_place(naming.field_name(record, ours.name))
    else:
        where = field_place(ours.name)
    if where:
        what = f"the field {ours.name} of {record.spelling}"
        after, before = declare(theirs.type, theirs.name), declare(ours.type, ours.name)
        raise changed(header, what, f"{after};", where, f"{before};", _CHANGE)


def _sort(field: Field) -> str:
    """Return the kind of value that a plain field holds; empty for a pointer, an array, a struct or a union."""
    if field.inner is None and field.type in ("bool", "float", "double"):
        return "bool" if field.type == "bool" else "float"
    if field.type in INTEGERS:
        return "integer"
    return field.type if re.fullmatch(r"enum \w+", field.type) else ""


def _shape(record: Record) -> list[tuple[str, str]]:
    return [(field.name, plain(field.type)) for field in flat_fields(record)]


def _members(record: Record) -> str:
    return " ".join(f"{declare(field.type, field.name)};" for field in flat_fields(record))


def _another_shape(ours: Record, theirs: Record, reason: str) -> CodegenError:
    where = place(ours.tag or ours.alias)
    error = changed(theirs.header, theirs.spelling, _members(theirs), where, _members(ours), _CHANGE)
    return CodegenError(f"{error} This matters because {reason}.")


# Enumerations and constants


def _check_members(api: Api, needs: Needs) -> None:
    """Raise CodegenError if an enumerator that the sources use is missing: nothing can stand in for it."""
    constants = {constant.name for constant in api.constants} | {m.name for e in api.enums for m in e.members}
    for enum in needs.api.enums:
        for member in enum.members:
            if member.name in needs.members and member.name not in constants:
                raise CodegenError(
                    f"{enum.header}: {enum.spelling} has no {member.name}, but {place(member.name)} uses it; "
                    f"got {_names(api, enum)}. {_CHANGE}"
                )
    for enum in api.enums:
        c_name = enum.tag or enum.alias
        if not c_name:
            continue
        kind = naming.class_name(c_name)
        have = set(naming.member_names(enum).values())
        for name in sorted(needs.members):
            owner, _, member_name = name.partition(".")
            if owner == kind and member_name not in have:
                raise CodegenError(
                    f"{enum.header}: {enum.spelling} has no enumerator for {name}, but {place(name)} uses it; "
                    f"got {', '.join(sorted(have))}. {_CHANGE}"
                )


def _names(api: Api, ours: Enum) -> str:
    theirs = next((enum for enum in api.enums if enum.spelling == ours.spelling), None)
    return ", ".join(member.name for member in theirs.members) if theirs else "none"


def _check_enums(api: Api, needs: Needs) -> None:
    """Raise CodegenError for an enum that was renamed or became macros.

    `complete` would add an enum of the old name, which would then exist beside the new one.
    """
    theirs = {enum.spelling for enum in api.enums} | {typedef.name for typedef in api.typedefs}
    homes = dict(_homes(api))
    for enum in needs.api.enums:
        moved = [member.name for member in enum.members if member.name in homes]
        if enum.spelling not in theirs and moved:
            after = f"{moved[0]}: {homes[moved[0]]}"
            where = place(enum.tag or enum.alias)
            where = place(naming.class_name(enum.tag or enum.alias)) if where == NOWHERE else where
            raise changed(enum.header, enum.spelling, after, where, f"{moved[0]}: {enum.spelling}", _CHANGE)


def _homes(api: Api) -> Iterator[tuple[str, str]]:
    """Yield every enumerator and constant with the enum or the header that it belongs to."""
    yield from ((constant.name, f"a constant of {constant.header}") for constant in api.constants)
    yield from (
        (m.name, enum.spelling or f"an enum without a name in {enum.header}")
        for enum in api.enums
        for m in enum.members
    )


def _check_constants(api: Api, needs: Needs) -> None:
    enumerators = {member.name: "int" for enum in api.enums for member in enum.members}
    kinds = {constant.name: constant.kind for constant in api.constants} | enumerators
    for ours in needs.api.constants:
        kind = kinds.get(ours.name)
        if kind is None and not asks_for(ours.name) and ours.name not in policy.OPTIONAL_CONSTANTS:
            why = api.macros_left_out.get(ours.name)
            gone = f"{ours.name} is not a constant any more: it {why}" if why else f"{ours.name} is missing"
            raise CodegenError(
                f"{ours.header}: {gone}, but {place(ours.name)} expects\n    #define {ours.name} {ours.value}\n"
                f"{_ASK.format(ours.name)}"
            )
        if kind is not None and kind != ours.kind:
            after, before = (f"{ours.name}, a constant of the kind {x}" for x in (kind, ours.kind))
            raise changed(ours.header, ours.name, after, place(ours.name), before, _CHANGE)
