"""Markers for what an older llama.cpp lacks, or does otherwise. They do nothing for the pinned version.

`@pytest.mark.needs("llama_x", "llama_y_params.z")`: the test is skipped, and counted as "unavailable", where llama.cpp
lacks one of these names.

`@pytest.mark.older("llama_x", "what differs")`: the test must fail where llama.cpp lacks `llama_x`, whose absence dates
it. The API is the same there, its behaviour is not. A test that passes there fails the run: the marker is wrong, or
names the wrong release. With `some=True`, it is a test of many cases, of which only some fail there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from llama_cffi._generated.absent import ABSENT
from llama_cffi.errors import UnavailableError

_NEEDS = Path(__file__).resolve().parent.parent / "codegen" / "fit" / "needs.json"


@cache
def known() -> frozenset[str]:
    """The C names, and fields as `struct.field`, that the facade uses and a llama.cpp can lack."""
    return frozenset(json.loads(_NEEDS.read_text(encoding="utf-8"))["versions"])


def checked(mark: pytest.Mark) -> tuple[str, ...]:
    """The names in a marker. Raises pytest.UsageError if it has none, or one that the facade does not use."""
    names = mark.args[:1] if mark.name == "older" else mark.args
    texts = mark.args[1:] if mark.name == "older" else ("",)
    known_words = mark.kwargs in ({}, {"some": True}) if mark.name == "older" else not mark.kwargs
    if not names or len(texts) != 1 or not known_words or not all(isinstance(text, str) for text in mark.args):
        raise pytest.UsageError(f'expected needs("name", ...) or older("name", "what differs"), got {mark}')
    unknown = [name for name in names if name not in known()]
    if unknown:
        raise pytest.UsageError(f"@pytest.mark.{mark.name}: {', '.join(unknown)} is not in codegen/fit/needs.json")
    return names


def marks(mark: pytest.Mark, absent: Mapping[str, str] = ABSENT) -> list[pytest.MarkDecorator]:
    """What a marker means for a llama.cpp that lacks the names in `absent`."""
    missing = [name for name in checked(mark) if name in absent]
    if not missing:
        return []
    if mark.name == "needs":
        return [pytest.mark.skip(reason="unavailable: " + ", ".join(f"{n} ({absent[n]})" for n in missing))]
    strict = not mark.kwargs.get("some", False)
    return [pytest.mark.xfail(reason=f"{absent[missing[0]]} differ: {mark.args[1]}", strict=strict)]


def apply(item: pytest.Item) -> None:
    """Skip a test, or expect it to fail, as its markers say."""
    for mark in [*item.iter_markers("needs"), *item.iter_markers("older")]:
        for found in marks(mark):
            item.add_marker(found)


def advice(error: BaseException) -> str:
    """The marker that a test lacks which ended with this error; empty if a marker is not the answer."""
    name = str(error).partition(":")[0]
    if not isinstance(error, UnavailableError) or name not in ABSENT:
        return ""
    return f'If the test is about {name}, mark it: @pytest.mark.needs("{name}")'
