"""Every known misuse ends in a Python exception or a documented result, and everything else lives on."""

from __future__ import annotations

from pathlib import Path

import pytest

import llama_cffi
from llama_cffi import lib
from llama_cffi._generated.names import FUNCTIONS
from tests.safety.misuse import AREAS, unreachable
from tests.safety.misuse.case import Case

_ALL = [(f"{area}: {case.name}", case) for area, cases in AREAS.items() for case in cases]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in _ALL])
def test_misuse(case: Case, folder: Path) -> None:
    ended = case.run(folder)
    assert ended.passed, f"{case.code.strip()}\n-> {ended}"


def test_names_are_unique() -> None:
    names = [name for name, _ in _ALL]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("function", unreachable.FUNCTIONS)
def test_functions_that_are_not_there(function: str) -> None:
    assert not _reachable(FUNCTIONS[function])
    assert hasattr(lib, function) is (function not in unreachable.ABSENT_FROM_LIB)


@pytest.mark.parametrize("name", unreachable.FIELDS)
def test_fields_that_are_not_there(name: str) -> None:
    owner, _, field = name.rpartition(".")
    assert _reachable(owner)
    assert not _reachable(name)


def _reachable(name: str) -> bool:
    holder: object = llama_cffi
    for part in name.split("."):
        if not hasattr(holder, part):
            return False
        holder = getattr(holder, part)
    return True
