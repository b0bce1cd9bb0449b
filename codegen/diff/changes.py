"""Lists the changes between two versions of the API.

Types, constants and defaults are compared here, functions in `functions.py`. `renames.py` guesses what was renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from codegen.api.model import Api, Constant, Enum, Field, Record, Typedef, declare, flat_fields
from codegen.diff import functions, renames
from codegen.diff.change import Change
from codegen.diff.history import Version


def changes(old: Version, new: Version) -> list[Change]:
    """Return every change, in no particular order. Comments and the homes of functions are not compared."""
    return [
        *functions.changes(old.api, new.api),
        *_records(old.api, new.api),
        *_enums(old.api, new.api),
        *_constants(old.api, new.api),
        *_typedefs(old.api.typedefs, new.api.typedefs),
        *_defaults(old, new),
    ]


# Structs and unions


def _records(old: Api, new: Api) -> Iterable[Change]:
    before = {record.spelling: record for record in old.records}
    after = {record.spelling: record for record in new.records}
    gone = [record for name, record in before.items() if name not in after]
    came = [record for name, record in after.items() if name not in before]
    renamed = renames.records(gone, came)
    for record in gone:
        other = renamed.get(record.spelling)
        if other is not None:
            yield Change("renamed", record.kind, record.spelling, record.header, record.spelling, other, sure=False)
            yield from _record(record, after[other])
        else:
            yield Change("removed", record.kind, record.spelling, record.header, old=_members(record))
    for record in came:
        if record.spelling not in renamed.values():
            yield Change("added", record.kind, record.spelling, record.header, new=_members(record))
    for name, record in before.items():
        if name in after:
            yield from _record(record, after[name])


def _members(record: Record) -> str:
    if record.fields is None:
        return "opaque"
    return "{ " + " ".join(f"{_declared(field)};" for field in flat_fields(record)) + " }"


def _declared(field: Field) -> str:
    """Return a field as C text, with the width of a bit field and the members of an anonymous struct."""
    text = declare(field.type, field.name)
    if field.inner is not None:
        text += " " + _members(field.inner)
    return text if field.bits is None else f"{text} : {field.bits}"


def _record(old: Record, new: Record) -> Iterable[Change]:
    if (old.fields is None) != (new.fields is None):
        detail = "made opaque" if new.fields is None else "no longer opaque"
        yield Change("struct layout", old.kind, new.spelling, new.header, _members(old), _members(new), detail)
        return
    yield from _fields(old, new)
    moved, reordered = _moved(old, new)
    if moved:
        detail = "fields reordered" if reordered else "fields moved"
        was, now = (" ".join(f"{name} {place[side]}" for name, place in moved.items()) for side in (0, 1))
        yield Change("struct layout", "struct", new.spelling, new.header, was, now, detail)
    if old.size != new.size:
        sizes = f"{old.size} bytes", f"{new.size} bytes"
        yield Change("struct layout", "struct", new.spelling, new.header, *sizes, "size")


def _fields(old: Record, new: Record) -> Iterable[Change]:
    before = {field.name: field for field in flat_fields(old)}
    after = {field.name: field for field in flat_fields(new)}
    renamed = renames.fields(list(before.values()), list(after.values()))

    def change(name: str, was: str, now: str, detail: str, sure: bool = True) -> Change:
        path = f"{new.tag or new.alias}.{name}"
        return Change("struct layout", "field", path, new.header, was, now, detail, sure=sure)

    for name, field in before.items():
        if name in renamed:
            yield change(name, _declared(field), _declared(after[renamed[name]]), "field renamed", sure=False)
        elif name not in after:
            yield change(name, _declared(field), "", "field removed")
        elif _declared(field) != _declared(after[name]):
            yield change(name, _declared(field), _declared(after[name]), "field type changed")
    for name, field in after.items():
        if name not in before and name not in renamed.values():
            yield change(name, "", _declared(field), "field added")


def _moved(old: Record, new: Record) -> tuple[dict[str, tuple[int | None, int | None]], bool]:
    """Return the common fields whose offsets differ, and True if their order differs."""
    before = {field.name: field.offset for field in flat_fields(old)}
    after = {field.name: field.offset for field in flat_fields(new)}
    common = [name for name in before if name in after]
    reordered = common != [name for name in after if name in before]
    names = [name for name in common if before[name] != after[name] or (reordered and before[name] is None)]
    return {name: (before[name], after[name]) for name in names}, reordered


# Enumerations and constants


def _key(enum: Enum) -> str:
    """Return the spelling of an enum. All unnamed enums of a header count as one."""
    return enum.spelling or f"enum of {enum.header}"


def _values(enums: Iterable[Enum]) -> dict[str, dict[str, int | None]]:
    values: dict[str, dict[str, int | None]] = {}
    for enum in enums:
        values.setdefault(_key(enum), {}).update((member.name, member.value) for member in enum.members)
    return values


def _enums(old: Api, new: Api) -> Iterable[Change]:
    headers = {_key(enum): enum.header for enum in (*old.enums, *new.enums)}
    before, after = _values(old.enums), _values(new.enums)
    renamed = renames.enums(
        {name: members for name, members in before.items() if name not in after},
        {name: members for name, members in after.items() if name not in before},
    )
    macros = {side: {constant.name for constant in api.constants} for side, api in (("old", old), ("new", new))}
    for name, members in before.items():
        other = renamed.get(name, name)
        if other != name:
            yield Change("renamed", "enum", name, headers[name], name, other, sure=False)
        if other in after:
            yield from _members_of(other, headers[other], members, after[other], macros)
        else:
            yield Change("removed", "enum", name, headers[name], old=_listed(members))
    for name, members in after.items():
        if name not in before and name not in renamed.values():
            yield Change("added", "enum", name, headers[name], new=_listed(members))


def _listed(members: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in members.items())


def _members_of(
    enum: str,
    header: str,
    old: Mapping[str, int | None],
    new: Mapping[str, int | None],
    macros: Mapping[str, set[str]],
) -> Iterable[Change]:
    renamed = renames.enumerators(old, new)

    def change(name: str, was: object, now: object, detail: str, sure: bool = True) -> Change:
        return Change("enum value", "enumerator", name, header, str(was), str(now), detail, owner=enum, sure=sure)

    for name, value in old.items():
        if name in renamed:
            yield change(name, name, renamed[name], "renamed", sure=False)
        elif name in new and value != new[name]:
            yield change(name, value, new[name], "count changed" if _counts(name, new) else "renumbered")
        elif name not in new and name not in macros["new"]:
            yield change(name, value, "", "removed")
    for name, value in new.items():
        if name not in old and name not in renamed.values() and name not in macros["old"]:
            yield change(name, "", value, "added")


def _counts(name: str, members: Mapping[str, int | None]) -> bool:
    """Return True if an enumerator is the last one and counts the others: every new enumerator changes its value."""
    return name.endswith(("_COUNT", "_MAX")) and list(members)[-1] == name


def _constants(old: Api, new: Api) -> Iterable[Change]:
    before = {constant.name: constant for constant in old.constants}
    after = {constant.name: constant for constant in new.constants}
    enumerated = [_enumerated(api) for api in (old, new)]
    gone = {name: constant for name, constant in before.items() if name not in after}
    came = {name: constant for name, constant in after.items() if name not in before}
    renamed = renames.constants(
        {name: x for name, x in gone.items() if name not in enumerated[1]},
        {name: x for name, x in came.items() if name not in enumerated[0]},
    )
    for name, constant in gone.items():
        if name in enumerated[1]:
            enum, value = enumerated[1][name]
            detail = "macro to enumerator"
            yield Change("macro to enumerator", "constant", name, constant.header, _text(constant), value, detail, enum)
        elif name in renamed:
            yield Change("renamed", "constant", name, constant.header, name, renamed[name], sure=False)
        else:
            yield Change("removed", "constant", name, constant.header, old=_text(constant))
    for name, constant in came.items():
        if name in enumerated[0]:
            enum, value = enumerated[0][name]
            detail = "enumerator to macro"
            yield Change("macro to enumerator", "constant", name, constant.header, value, _text(constant), detail, enum)
        elif name not in renamed.values():
            yield Change("added", "constant", name, constant.header, new=_text(constant))
    for name, constant in before.items():
        if name in after and (constant.kind, constant.value) != (after[name].kind, after[name].value):
            yield Change("constant value", "constant", name, constant.header, _text(constant), _text(after[name]))


def _enumerated(api: Api) -> dict[str, tuple[str, str]]:
    return {member.name: (_key(enum), str(member.value)) for enum in api.enums for member in enum.members}


def _text(constant: Constant) -> str:
    return f'"{constant.value}"' if constant.kind == "str" else str(constant.value)


# Typedefs and defaults


def _typedefs(old: Iterable[Typedef], new: Iterable[Typedef]) -> Iterable[Change]:
    before = {typedef.name: typedef for typedef in old}
    after = {typedef.name: typedef for typedef in new}
    renamed = renames.typedefs(
        [typedef for name, typedef in before.items() if name not in after],
        [typedef for name, typedef in after.items() if name not in before],
    )
    for name, typedef in before.items():
        if name in renamed:
            yield Change("renamed", "typedef", name, typedef.header, name, renamed[name], sure=False)
        elif name not in after:
            yield Change("removed", "typedef", name, typedef.header, old=typedef.type)
        elif typedef.type != after[name].type:
            yield Change("typedef", "typedef", name, after[name].header, typedef.type, after[name].type)
    for name, typedef in after.items():
        if name not in before and name not in renamed.values():
            yield Change("added", "typedef", name, typedef.header, new=typedef.type)


def _defaults(old: Version, new: Version) -> Iterable[Change]:
    """Yield the changed defaults of common parameters."""
    before, after = old.defaults or {}, new.defaults or {}
    headers = {record.tag or record.alias: record.header for record in new.api.records}
    for name, value in before.items():
        if name in after and after[name] != value:
            header = headers[name.partition(".")[0]]
            yield Change("default", "default", name, header, _written(value), _written(after[name]))


def _written(value: int | float | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
