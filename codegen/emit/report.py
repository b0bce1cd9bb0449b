"""Emits report.md: what is bound, and what is left out and why, for each header."""

from __future__ import annotations

from collections import Counter

from codegen.api.model import Api
from codegen.rules import naming, policy
from codegen.rules.spec import Row


def emit(api: Api, spec: list[Row]) -> str:
    """Return the text of `_generated/report.md` without its banner."""
    return (
        "\n".join([*_counts(api), *_left_out(api), *_macros(api), *_guard(api), *_completed(api), *_spec(api, spec)])
        + "\n"
    )


def _counts(api: Api) -> list[str]:
    lines = [f"# What is bound: {api.pin}", "", "Every public function is either bound or left out.", ""]
    lines.append("| header | functions | bound | left out | structs and unions | enums | enumerators | constants |")
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = [_header_counts(api, header) for header in api.headers]
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 8))))  # type: ignore[arg-type,misc]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows] + [""]


def _header_counts(api: Api, header: str) -> tuple[str, int, int, int, int, int, int, int]:
    functions = [f for f in api.functions if f.header == header]
    out = sum(policy.left_out(f) is not None for f in functions)
    enums = [e for e in api.enums if e.header == header]
    return (
        header,
        len(functions),
        len(functions) - out,
        out,
        sum(r.header == header for r in api.records),
        len(enums),
        sum(len(e.members) for e in enums),
        sum(c.header == header for c in api.constants),
    )


def _left_out(api: Api) -> list[str]:
    lines = ["## Functions left out", "", "| function | header | reason |", "| --- | --- | --- |"]
    for function in api.functions:
        reason = policy.left_out(function)
        if reason:
            lines.append(f"| `{function.name}` | {function.header} | {reason} |")
    return [*lines, ""]


def _macros(api: Api) -> list[str]:
    lines = ["## Macros left out", "", "| macro | reason |", "| --- | --- |"]
    return lines + [f"| `{name}` | {reason} |" for name, reason in api.macros_left_out.items()] + [""]


def _guard(api: Api) -> list[str]:
    functions = policy.bound(api)
    unguarded = [f.name for f in functions if not policy.guarded(f)]
    modules = Counter(m for m in map(policy.module_of, functions) if m)
    lines = ["## The guard", "", f"{len(functions) - len(unguarded)} of {len(functions)} bound functions are guarded."]
    lines.append(f"Not guarded, because they are variadic: {', '.join(f'`{name}`' for name in unguarded)}.")
    loads = ", ".join(f"{count} in the {module} module" for module, count in sorted(modules.items()))
    return [*lines, f"Looked up at run time: {loads}.", ""]


def _completed(api: Api) -> list[str]:
    """Return what `codegen.fit.complete` added; nothing for the version that the facade was written for."""
    adapted = [f.name for f in api.functions if f.body]
    if not adapted and not api.absent:
        return []
    lines = ["## Completed for the facade", "", "Adapted, with the parameters that the facade passes: "]
    lines[-1] += (", ".join(f"`{name}`" for name in adapted) or "nothing") + "."
    lines += ["", "Missing; a use raises UnavailableError:", "", "| name | versions that have it |"]
    return [*lines, "| --- | --- |", *(f"| `{name}` | {versions} |" for name, versions in api.absent.items()), ""]


def _spec(api: Api, spec: list[Row]) -> list[str]:
    functions = {f.name for f in api.functions}
    fields = {(naming.type_name(r.tag or r.alias), f.name) for r in api.records for f in r.fields or ()}
    lacking: list[str] = []
    for row in spec:
        owner = row.name.rpartition(".")[0]
        if row.kind in ("method", "classmethod", "property", "function") and row.c_name not in functions:
            stand_in = next((x.absent for x in naming.EXCEPTIONS if x.c_name == row.c_name), "")
            lacking.append(f"| {row.name} | `{row.c_name}` | `{stand_in}` |")
        elif row.kind == "field" and (owner, row.c_name) not in fields:
            stand_in = naming.VIRTUAL_FIELDS.get((owner, row.c_name), ("", ""))[1]
            lacking.append(f"| {row.name} | `{row.c_name}` | `{stand_in}` |")
    lines = ["## In the specification, but not in these headers", "", "| name | C name | used instead |"]
    structs = ", ".join(f"`{tag}`" for tag in (*policy.param_records(api), *policy.DATA_RECORDS))
    return [*lines, "| --- | --- | --- |", *lacking, "", f"Structs with generated attributes: {structs}."]
