"""The compact form of a snapshot, for `codegen/diff/history/`: no comments, no homes, one line for each function."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from codegen.api.model import Api, Enum, Field, Record

FORMAT = "compact"

_Json = dict[str, Any]

# Separators: a parameter's type and its name; an enumerator and its value. Neither occurs in a C type.
_NAMED, _VALUED = " : ", " = "


def bare(api: Api) -> Api:
    """Return the API as the compact form keeps it: without comments and homes, with deprecation hints."""
    return replace(
        api,
        functions=tuple(replace(function, doc="", home=None) for function in api.functions),
        records=tuple(map(_bare_record, api.records)),
        enums=tuple(_bare_enum(enum) for enum in api.enums),
        typedefs=tuple(replace(typedef, doc="") for typedef in api.typedefs),
        constants=tuple(replace(constant, doc="") for constant in api.constants),
    )


def _bare_enum(enum: Enum) -> Enum:
    return replace(enum, doc="", members=tuple(replace(member, doc="") for member in enum.members))


def _bare_record(record: Record) -> Record:
    fields = None if record.fields is None else tuple(map(_bare_field, record.fields))
    return replace(record, doc="", fields=fields)


def _bare_field(field: Field) -> Field:
    return replace(field, doc="", inner=None if field.inner is None else _bare_record(field.inner))


def pack(data: _Json) -> _Json:
    """Convert the data of a bare API's snapshot to the compact form."""
    functions: dict[str, list[list[str]]] = {header: [] for header in data["headers"]}
    for function in data["functions"]:
        params = [x["type"] + (_NAMED + x["name"] if "name" in x else "") for x in function.get("params", ())]
        row = [function["name"], function["returns"], *params, *(["..."] if function.get("variadic") else [])]
        functions[function["header"]].append(row)
    return {
        **data,
        "format": FORMAT,
        "functions": functions,
        "deprecated": {x["name"]: x["deprecated"] for x in data["functions"] if "deprecated" in x},
        "enums": [{**x, "members": [f"{y['name']}{_VALUED}{y['value']}" for y in x["members"]]} for x in data["enums"]],
    }


def unpack(data: _Json) -> _Json:
    """Undo `pack`."""
    out = {key: value for key, value in data.items() if key not in ("format", "deprecated")}
    functions = [_function(row, header, data) for header, rows in data["functions"].items() for row in rows]
    out["functions"] = sorted(functions, key=lambda function: str(function["name"]))
    out["enums"] = [{**enum, "members": [_member(text) for text in enum["members"]]} for enum in data["enums"]]
    return out


def _function(row: list[str], header: str, data: _Json) -> _Json:
    name, returns, *params = row
    variadic = params[-1:] == ["..."]
    named = [text.partition(_NAMED) for text in params[: len(params) - variadic]]
    return {
        "name": name,
        "header": header,
        "returns": returns,
        "params": [{"type": ctype, "name": param} for ctype, _, param in named],
        "variadic": variadic,
        "deprecated": data["deprecated"].get(name),
    }


def _member(text: str) -> _Json:
    match = re.fullmatch(rf"(\w+){_VALUED}(-?\d+)", text)
    if match is None:
        raise ValueError(
            f"expected an enumerator with a value, got {text!r}: `python -m codegen history` writes the file again"
        )
    return {"name": match[1], "value": int(match[2])}
