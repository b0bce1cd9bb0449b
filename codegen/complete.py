"""A header, completed by what the facade needs and the header lacks: `complete(api, needs)`.

What is missing is adapted from what there is (`adapters.py`), or stands there as a function that raises
UnavailableError with the versions that have it. What was changed and has no adapter stops the generator.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from codegen import naming, snapshot
from codegen.adapters import ADAPTERS, Adapter
from codegen.emit_cdef import prototype
from codegen.model import Api, CodegenError, Field, Function, flat_fields
from codegen.needs import ROOT, Needs, field_form, sources
from codegen.needs import load as needs_of_facade

_ADVICE = "Write a row in codegen/adapters.py, or change the facade and run `python -m codegen needs`."

# Spellings of one type on every machine that this is built for.
_SAME = {"int": "int32_t", "unsigned int": "uint32_t", "enum ggml_status": "int32_t"}


def load() -> Api:
    """The committed snapshot, completed."""
    return complete(snapshot.load(), needs_of_facade())


def complete(api: Api, needs: Needs, adapters: Sequence[Adapter] = ADAPTERS) -> Api:
    """The API of a header with everything that the facade needs. Raises CodegenError where that cannot be."""
    _check_members(api, needs)
    functions = {f.name: f for f in api.functions}
    absent: dict[str, str] = {}
    for function in needs.api.functions:
        settled = _settle(function, functions, needs, adapters)
        if settled is not None:
            functions[function.name] = settled
            if settled.absent:
                absent[function.name] = needs.has(function.name)
    records = {r.spelling: r for r in api.records}
    lacking: dict[str, tuple[Field, ...]] = {}
    for record in needs.api.records:
        tag = record.tag or record.alias
        theirs = records.get(record.spelling)
        if theirs is None or (theirs.fields is None and record.fields is not None):
            absent[tag] = needs.has(tag)
            continue
        # A pointer to something else is as good as none.
        forms = {field_form(theirs, f) for f in flat_fields(theirs)}
        have = {f.name for f in flat_fields(record) if field_form(record, f) in forms}
        lacking[record.spelling] = tuple(f for f in flat_fields(record) if f.name not in have)
        absent |= {f"{tag}.{f.name}": needs.has(f"{tag}.{f.name}") for f in lacking[record.spelling]}
    types = {*records, *(e.spelling for e in api.enums), *(t.name for t in api.typedefs)}
    constants = {c.name for c in api.constants} | {m.name for e in api.enums for m in e.members}
    added_enums = tuple(replace(e, added=True) for e in needs.api.enums if e.spelling not in types)
    added_records = tuple(replace(r, added=True) for r in needs.api.records if r.spelling not in types)
    added_typedefs = tuple(replace(t, added=True) for t in needs.api.typedefs if t.name not in types)
    added_constants = tuple(replace(c, added=True) for c in needs.api.constants if c.name not in constants)
    absent |= {e.tag or e.alias: needs.has(e.tag or e.alias) for e in added_enums}
    absent |= {c.name: needs.has(c.name) for c in added_constants}
    return replace(
        api,
        functions=tuple(sorted(functions.values(), key=lambda f: f.name)),
        records=(*(replace(r, lacks=lacking.get(r.spelling, ())) for r in api.records), *added_records),
        enums=(*api.enums, *added_enums),
        typedefs=(*api.typedefs, *added_typedefs),
        constants=tuple(sorted((*api.constants, *added_constants), key=lambda c: c.name)),
        absent=dict(sorted(absent.items())),
    )


def _settle(ours: Function, theirs: dict[str, Function], needs: Needs, adapters: Sequence[Adapter]) -> Function | None:
    """The function that the facade calls, where it is not the header's own."""
    other = theirs.get(ours.name)
    exported = other is not None and other.home is not None
    if other is not None and exported and _types(ours) == _types(other):
        _check_parameter_names(ours, other)
        return None
    for row in adapters:
        if row.name == ours.name and all(_fits(theirs.get(name), types) for name, types in row.requires.items()):
            if row.body:
                return replace(ours, header=other.header if other else ours.header, home="binding", body=row.body)
            exported = False  # known, and not to be had
            break
    if exported and other is not None:
        raise CodegenError(
            f"{other.header}: {ours.name} was changed. It is\n    {prototype(other, named=True)};\nand "
            f"{_place(ours.name)} was written for\n    {prototype(ours, named=True)};\n{_ADVICE}"
        )
    return replace(ours, home="binding", absent=needs.has(ours.name))


def _types(function: Function) -> tuple[str, ...]:
    """The types of result and parameters, without what makes no difference to a caller from Python."""
    return tuple(_plain(x) for x in (function.returns, *(p.type for p in function.params)))


def _plain(ctype: str) -> str:
    plain = " ".join(re.sub(r"\bconst\b", "", ctype).split())
    return _SAME.get(plain, plain)


def _fits(function: Function | None, types: tuple[str, ...]) -> bool:
    return function is not None and function.home is not None and _types(function) == tuple(_plain(x) for x in types)


def _check_parameter_names(ours: Function, theirs: Function) -> None:
    """Parameters of one type that changed places would go unseen."""
    before, after = [[p.name for p in f.params] for f in (ours, theirs)]
    if before != after and sorted(before) == sorted(after):
        raise CodegenError(
            f"{theirs.header}: the parameters of {ours.name} changed places. They are\n    {', '.join(after)}\nand "
            f"{_place(ours.name)} was written for\n    {', '.join(before)}\n{_ADVICE}"
        )


def _check_members(api: Api, needs: Needs) -> None:
    """An enumerator that the sources name cannot be made up."""
    for enum in api.enums:
        c_name = enum.tag or enum.alias
        if not c_name:
            continue
        kind = naming.class_name(c_name)
        have = set(naming.member_names(enum).values())
        for name in sorted(needs.members):
            owner, _, member = name.partition(".")
            if owner == kind and member not in have:
                raise CodegenError(
                    f"{enum.header}: {enum.spelling} has no enumerator that makes {name}, which {_place(name)} uses: "
                    f"it has {', '.join(sorted(have))}. Change the facade, and run `python -m codegen needs`."
                )


def _place(name: str) -> str:
    """The first line of the sources that uses a name."""
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(rf"(?<!`)\b{re.escape(name)}\b(?!`)", line):
                return f"{path.relative_to(ROOT)}:{number}"
    return "the facade"
