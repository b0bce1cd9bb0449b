"""Completes a header's API with everything that the facade needs and the header lacks, so that every name exists.

A missing function is made from other functions (`adapters.py`), or becomes one that raises UnavailableError with the
versions that have it. A changed function without an adapter raises CodegenError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codegen.api import snapshot
from codegen.api.c_text import prototype
from codegen.api.model import Api, CodegenError, Field, Function, flat_fields
from codegen.fit.compare import ADVICE, changed, check
from codegen.fit.needs import Needs, field_form, load as needs_of_facade, plain
from codegen.fit.usage import place
from codegen.rules.adapters import ADAPTERS, Adapter


def load() -> Api:
    """Return the committed snapshot, completed."""
    return complete(snapshot.load(), needs_of_facade())


def complete(api: Api, needs: Needs, adapters: Sequence[Adapter] = ADAPTERS) -> Api:
    """Return the API of a header with everything that the facade needs. Raises CodegenError if that is impossible."""
    check(api, needs)
    functions = {f.name: f for f in api.functions}
    absent: dict[str, str] = {}
    for function in needs.api.functions:
        made = _make_up(function, functions, needs, adapters)
        if made is not None:
            functions[function.name] = made
            if made.absent:
                absent[function.name] = needs.has(function.name)
    records = {r.spelling: r for r in api.records}
    lacking: dict[str, tuple[Field, ...]] = {}
    for record in needs.api.records:
        tag = record.tag or record.alias
        theirs = records.get(record.spelling)
        if theirs is None or (theirs.fields is None and record.fields is not None):
            absent[tag] = needs.has(tag)
            continue
        # A pointer to another type counts as a missing field.
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


def _make_up(ours: Function, theirs: dict[str, Function], needs: Needs, adapters: Sequence[Adapter]) -> Function | None:
    """Return a function that the header lacks, adapted or absent. None if the header has it as the facade calls it."""
    other = theirs.get(ours.name)
    declared = other if other is not None and other.home is not None else None
    same = declared is not None and _types(ours) == _types(declared)
    if declared is not None and same and _changed_places(ours, declared):
        return _reordered(ours, declared, adapters)
    row = next((row for row in adapters if row.name == ours.name and _applies(row, theirs, same)), None)
    if row is not None and row.body:
        return replace(ours, header=declared.header if declared else ours.header, home="binding", body=row.body)
    if same:
        return None
    if declared is not None and row is None:
        before, after = (f"{prototype(f, named=True)};" for f in (ours, declared))
        raise changed(declared.header, ours.name, after, place(ours.name), before)
    return replace(ours, home="binding", absent=needs.has(ours.name))


def _applies(row: Adapter, theirs: dict[str, Function], same: bool) -> bool:
    """Return True if a header has what a row requires. A row without a body says that the function is unavailable."""
    if row.names or (same and not row.always):
        return False
    return all(_fits(theirs.get(name), types) for name, types in row.requires.items())


def _types(function: Function) -> tuple[str, ...]:
    """Return the types of the result and the parameters, without what a caller from Python does not notice."""
    types = [plain(x) for x in (function.returns, *(p.type for p in function.params))]
    return (*types, "...") if function.variadic else tuple(types)


def _fits(function: Function | None, types: tuple[str, ...]) -> bool:
    return function is not None and function.home is not None and _types(function) == tuple(plain(x) for x in types)


def _changed_places(ours: Function, theirs: Function) -> bool:
    """Return True if a parameter has moved. The types alone do not show it if its neighbours have the same type."""
    after = _names(theirs)
    return any(name in after and after.index(name) != i for i, name in enumerate(_names(ours)) if name)


def _reordered(ours: Function, theirs: Function, adapters: Sequence[Adapter]) -> Function:
    after = _names(theirs)
    row = next((row for row in adapters if row.name == ours.name and row.names == after), None)
    if row is None:
        raise CodegenError(
            f"{theirs.header}: the parameters of {ours.name} have changed places: got\n    {', '.join(after)}\nbut "
            f"{place(ours.name)} expects\n    {', '.join(_names(ours))}\n{ADVICE}"
        )
    return replace(ours, header=theirs.header, home="binding", body=row.body)


def _names(function: Function) -> tuple[str, ...]:
    return tuple(param.name for param in function.params)
