"""Where the hand-written sources of the package name something of the C API."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from codegen.fit.needs import ROOT, sources

NOWHERE = "the facade"  # where no line names it


@cache
def _lines() -> tuple[tuple[Path, int, str], ...]:
    texts = [(path, path.read_text(encoding="utf-8")) for path in sources()]
    return tuple((path, number, line) for path, text in texts for number, line in enumerate(text.splitlines(), 1))


def place(name: str) -> str:
    """The first line of the sources that uses a name."""
    return _first(rf"(?<!`)\b{re.escape(name)}\b(?!`)") or NOWHERE


def field_place(c_name: str) -> str:
    """The first line that uses a field of a C struct by its C name: `.name`, `->name` or `"name"`. Empty for none."""
    return _first(rf"""(?:\.|->|")(?<!`){re.escape(c_name)}\b(?!`)""")


def described_place(c_name: str) -> str:
    """The same for a struct whose fields are attributes of a class: what goes past those. Empty for none."""
    field = re.escape(c_name)
    return _first(rf"""\b(?:_c|struct)(?:\[0\])?\.{field}\b|Field(?:\[.*\])?\("{field}\"""")


def attribute_place(attribute: str) -> str:
    """The first line that uses an attribute. Empty for none."""
    return _first(rf"\.{re.escape(attribute)}\b")


def asks_for(name: str) -> bool:
    """Whether the sources ask for a name before they use it, with the functions of llama_cffi/_core/compat.py."""
    field = name.partition(".")[2]
    return bool(
        _first(rf"""\b(?:has|require)\(\s*"{re.escape(name)}"\)""")
        or (field and _first(rf"""\bPointerField\[.*\]\("{field}","""))  # which does it for every field
    )


def _first(pattern: str) -> str:
    compiled = re.compile(pattern)
    return next((f"{path.relative_to(ROOT)}:{n}" for path, n, line in _lines() if compiled.search(line)), "")
