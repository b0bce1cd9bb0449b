"""A slice of `make interrupts`: each operation is interrupted at random points of a kind, or by real signals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.models import write_all
from tests.interrupts.__main__ import interrupt
from tests.interrupts.operations import NAMES, WITHOUT_SIGNALS
from tests.interrupts.points import KINDS

_SECONDS = 0.4  # for each operation


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    write_all(folder)
    return folder


def test_there_are_enough_operations() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(NAMES)), ids=lambda index: NAMES[index])
def test_interrupted(small_models: Path, index: int) -> None:
    """Each operation by another kind; `make interrupts` does all."""
    kinds = KINDS if NAMES[index] in WITHOUT_SIGNALS else (*KINDS, "signal")
    kind = kinds[index % len(kinds)]
    outcome = interrupt(small_models, NAMES[index], kind, seconds=_SECONDS, seed=0)
    assert outcome.ok, f"{outcome}\n{outcome.text}"
