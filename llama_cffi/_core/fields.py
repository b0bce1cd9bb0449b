"""What is known of a struct's fields at run time: type, range, default, unit and text. For `help` and `describe`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from enum import IntEnum
from functools import cache
from typing import Any

_UNITS = {
    "tokens": ("nBatch", "nCtx", "nOutputsMax", "nOutputsMaxPerSeq", "nPEval", "nEval", "nUbatch", "yarnOrigCtx"),
    "sequences": ("nSeqMax",),
    "layers": ("nGpuLayers",),
    "threads": ("nThread", "nThreads", "nThreadsBatch"),
    "snapshots": ("nRsSeq",),
}
_UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names}


def unit(name: str) -> str:
    """Return the unit of a field, or "" for a plain number and for what is not a number."""
    return "milliseconds" if name[0] == "t" and name.endswith("Ms") else _UNIT_OF.get(name, "")


def kind(cls: type, name: str) -> str:
    """Return the type of a field in words, with the range of a number and the members of an enumeration."""
    found = getattr(cls, name)
    if isinstance(found, property):
        return str(getattr(found.fget, "__annotations__", {}).get("return", ""))
    return found.words() or _sources(cls).get(name, ("", ""))[0]


def text(cls: type, name: str) -> str:
    """Return what the source says about a field."""
    found = getattr(cls, name)
    return inspect.getdoc(found) or "" if isinstance(found, property) else _sources(cls).get(name, ("", ""))[1]


def facts(cls: type, name: str) -> str:
    """Return type, default and unit of a field, in a line."""
    default, measured = getattr(cls(), name), unit(name)
    shown = default.name if isinstance(default, IntEnum) else repr(default)
    return f"{kind(cls, name)}; default {shown}{f'; in {measured}' if measured else ''}"


def described(cls: type, names: list[str]) -> str:
    """Return a paragraph for each field: its facts and its text."""
    parts = []
    for name in names:
        body = textwrap.indent(text(cls, name).strip(), "    ")
        parts.append(f"{name}: {facts(cls, name)}" + (f"\n{body}" if body else ""))
    return "\n\n".join(parts)


@cache
def _sources(cls: type) -> dict[str, tuple[str, str]]:
    """Type and text of the fields that are assigned in the class or its bases: Python forgets the texts below them."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        if not hasattr(base, "_fields"):
            continue
        try:
            body = _body(base)
        except (OSError, TypeError, SyntaxError, IndexError):  # without source, in a frozen program
            continue
        for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                made = node.value.func if isinstance(node.value, ast.Call) else node.value
                of = ast.unparse(made.slice).strip("'") if isinstance(made, ast.Subscript) else ""
                said: Any = below.value if isinstance(below, ast.Expr) else None
                words = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
                inherited = found.get(node.targets[0].id, ("", ""))
                found[node.targets[0].id] = (of or inherited[0], inspect.cleandoc(words) or inherited[1])
    return found


def _body(cls: type) -> list[ast.stmt]:
    [top] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(top, ast.ClassDef)
    return top.body


def field_doc(owner: type, name: str) -> str:
    """Return the docstring of a field: what `help(Context.Params.nCtx)` shows."""
    return f"{text(owner, name)}\n\n{facts(owner, name)}".strip()
