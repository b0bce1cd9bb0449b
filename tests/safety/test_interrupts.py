"""A slice of `make interrupts`: each operation is interrupted at random points of a kind, or by real signals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interrupts.__main__ import Journal, interrupt, prepare, whole
from tests.interrupts.faulty import VERDICTS
from tests.interrupts.operations import NAMES, WITHOUT_SIGNALS
from tests.interrupts.points import KINDS

_SECONDS = 0.4  # for each operation


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    prepare(folder)
    return folder


def test_there_are_enough_operations() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 20


@pytest.mark.parametrize(("operation", "kind"), list(zip(VERDICTS, KINDS * 3, strict=False)))
def test_what_does_not_survive_is_found(small_models: Path, operation: str, kind: str) -> None:
    outcome = interrupt(small_models, operation, kind, program="tests.interrupts.faulty")
    assert (set(outcome.bad), bool(outcome.text)) == ({VERDICTS[operation]} - {""}, VERDICTS[operation] != "")
    assert outcome.points == outcome.tried > 0 or outcome.next > 0


def test_a_run_that_was_stopped_is_continued(small_models: Path, tmp_path: Path) -> None:
    """Also behind a point that killed the process; and what is done is not done again."""
    path = tmp_path / "journal"
    path.write_text(
        '{"operation": "Batch", "kind": "line", "points": 100, "tried": 40, "next": 41, "bad": {}, "text": ""}\n'
    )
    first = whole(small_models, "Batch", "line", Journal(path))
    assert first.ok and first.points == first.tried and not first.next
    assert len(path.read_text().splitlines()) == 2
    again = whole(small_models, "Batch", "line", Journal(path))
    assert again == first and len(path.read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(NAMES)), ids=lambda index: NAMES[index])
def test_interrupted(small_models: Path, index: int) -> None:
    """Each operation by another kind; `make interrupts` does all."""
    kinds = KINDS if NAMES[index] in WITHOUT_SIGNALS else (*KINDS, "signal")
    kind = kinds[index % len(kinds)]
    outcome = interrupt(small_models, NAMES[index], kind, seconds=_SECONDS, seed=0)
    assert outcome.ok, f"{outcome}\n{outcome.text}"
