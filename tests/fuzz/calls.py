"""The public API as the fuzzer calls it: steps with placeholders for their arguments, read from text files.

`{kind}` is a value of that kind (see `values.py`), sometimes absurd; `{kind!}` is never absurd: what a method is called
on. `{kind@}` is the object of that kind that was made last, for orders of calls that lead somewhere. `kind = ...` keeps
the result. The sections of `calls.txt` are the rules of the machine; `test_fuzz.py` holds them to the public API.
"""

from __future__ import annotations

from pathlib import Path

Row = tuple[str, str]
"""A public name, and a step."""

_HERE = Path(__file__).parent


def sections(name: str) -> dict[str, list[Row]]:
    """The rows of each section of a file. A line that is indented has the name of the line before."""
    found: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for line in (_HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            rows = found.setdefault(line.strip("[]"), [])
        elif line.startswith(" "):
            rows.append((rows[-1][0], line.strip()))
        elif line and not line.startswith("#"):
            row, _, step = line.partition(" ")
            rows.append((row, step.strip()))
    return found


def _by_name(rows: list[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, step in rows:
        found.setdefault(name, []).append(step)
    return found


_calls = sections("calls.txt")

MAKERS = dict(_calls.pop("makers"))
"""How an object of each kind is made when a step needs one and there is none."""

GROUPS = {group: _by_name(rows) for group, rows in _calls.items()}
"""Groups of public names, each with its steps."""

SCENARIOS = sections("scenarios.txt")
"""Orders of calls, by name."""

NAMES = {name for group in GROUPS.values() for name in group}
