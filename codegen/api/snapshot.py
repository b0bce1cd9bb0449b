"""Reads and writes snapshots of the API: `codegen/api/api.json`, and the compact ones in `codegen/diff/history/`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codegen.api import compact
from codegen.api.model import Api, CodegenError, Constant, Enum, Enumerator, Field, Function, Param, Record, Typedef

SNAPSHOT = Path(__file__).with_name("api.json")

_Json = dict[str, Any]

_ADDED = ("absent", "lacks")  # filled in by `complete`; empty in a snapshot, and left out


def dumps(api: Api) -> str:
    """Return the snapshot as text: sorted keys, no empty values, and one line for each value that fits on one."""
    return render(_pruned(asdict(api)))


def dumps_small(api: Api, **more: Any) -> str:
    """Return the snapshot in its compact form (see `compact.py`), with additional keys."""
    return render({**compact.pack(_pruned(asdict(compact.bare(api)))), **more})


def render(value: Any) -> str:
    """Return JSON text that diffs well."""
    return _render(value, 0) + "\n"


def _render(value: Any, depth: int) -> str:
    line = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(line) + depth <= 118 or not isinstance(value, (dict, list)):
        return line
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{pad}{json.dumps(k)}: {_render(v, depth + 1)}" for k, v in sorted(value.items())]
    else:
        items = [pad + _render(item, depth + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(items) + f"\n{pad[1:]}{closing}"


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _pruned(v) for k, v in value.items() if not _is_default(v) and (v or k not in _ADDED) or k == "value"
        }
    if isinstance(value, (list, tuple)):
        return [_pruned(item) for item in value]
    return value


def _is_default(value: Any) -> bool:
    return value is None or value is False or value == ""


def load(path: Path = SNAPSHOT) -> Api:
    """Read a snapshot of either form. Raises CodegenError if the file is not a snapshot."""
    try:
        return loads(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CodegenError(f"{path} is not a snapshot of an API ({type(error).__name__}: {error})") from None


def loads(text: str) -> Api:
    data: _Json = json.loads(text)
    if data.get("format") == compact.FORMAT:
        data = compact.unpack(data)
    return Api(
        pin=data["pin"],
        headers=tuple(data.get("headers", ())),
        functions=tuple(_function(x) for x in data.get("functions", ())),
        records=tuple(_record(x) for x in data.get("records", ())),
        enums=tuple(_enum(x) for x in data.get("enums", ())),
        typedefs=tuple(Typedef(**x) for x in data.get("typedefs", ())),
        constants=tuple(Constant(**x) for x in data.get("constants", ())),
        macros_left_out=data.get("macros_left_out", {}),
    )


def _enum(data: _Json) -> Enum:
    return Enum(**{"tag": "", **data, "members": tuple(Enumerator(**member) for member in data["members"])})


def _function(data: _Json) -> Function:
    params = tuple(Param(x["type"], x.get("name", "")) for x in data.get("params", ()))
    return Function(**{**data, "params": params})


def _record(data: _Json) -> Record:
    fields = tuple(_field(x) for x in data["fields"]) if "fields" in data else None
    return Record(**{"tag": "", "header": "", **data, "fields": fields})


def _field(data: _Json) -> Field:
    inner = _record(data["inner"]) if "inner" in data else None
    return Field(**{"name": "", **data, "inner": inner})
