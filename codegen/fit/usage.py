"""Finds the line of the hand-written sources that uses a C name, for error messages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from codegen.api.paths import ROOT
from codegen.fit.needs import sources

NOWHERE = "the facade"  # if no line uses the name


@cache
def _lines() -> tuple[tuple[Path, int, str], ...]:
    texts = [(path, path.read_text(encoding="utf-8")) for path in sources()]
    return tuple((path, number, line) for path, text in texts for number, line in enumerate(text.splitlines(), 1))


def place(name: str) -> str:
    """Return `file:line` of the first use of a name, or NOWHERE."""
    return _first(rf"(?<!`)\b{re.escape(name)}\b(?!`)") or NOWHERE


def field_place(c_name: str) -> str:
    """Return the first use of a C struct's field: `.name`, `->name` or `"name"`. Empty if there is none."""
    return _first(rf"""(?:\.|->|")(?<!`){re.escape(c_name)}\b(?!`)""")


def described_place(c_name: str) -> str:
    """Return the first use of a field of a struct that is a class, other than through its attribute. Empty if none.

    Such a use is `_c.name`, `struct.name`, or a descriptor `...Field("name"`.
    """
    field = re.escape(c_name)
    return _first(rf"""\b(?:_c|struct)(?:\[0\])?\.{field}\b|Field(?:\[.*\])?\("{field}\"""")


def attribute_place(attribute: str) -> str:
    """Return the first use of an attribute. Empty if there is none."""
    return _first(rf"\.{re.escape(attribute)}\b")


def asks_for(name: str) -> bool:
    """Return True if the sources check for a name with `has` or `require` of llama_cffi/_core/compat.py."""
    field = name.partition(".")[2]
    return bool(
        _first(rf"""\b(?:has|require)\(\s*"{re.escape(name)}"\)""")
        or (field and _first(rf"""\bPointerField\[.*\]\("{field}","""))  # a PointerField checks for its field
    )


def _first(pattern: str) -> str:
    compiled = re.compile(pattern)
    return next((f"{path.relative_to(ROOT)}:{n}" for path, n, line in _lines() if compiled.search(line)), "")
