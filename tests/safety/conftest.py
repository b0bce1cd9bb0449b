"""Models for the safety tests, written once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.safety import models


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all models of `models.py`."""
    return models.write_all(tmp_path_factory.mktemp("safety"))
