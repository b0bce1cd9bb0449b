"""Every known misuse ends in a Python exception or a documented result, and everything else lives on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.safety.misuse import AREAS
from tests.safety.misuse.case import Case

_ALL = [(f"{area}: {case.name}", case) for area, cases in AREAS.items() for case in cases]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in _ALL])
def test_misuse(case: Case, folder: Path) -> None:
    ended = case.run(folder)
    assert ended.passed, f"{case.code.strip()}\n-> {ended}"


def test_names_are_unique() -> None:
    names = [name for name, _ in _ALL]
    assert len(set(names)) == len(names)
