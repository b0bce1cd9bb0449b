"""Type checkers: the package, the examples and every name of the specification pass; wrong uses do not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
WRONG = ROOT / "tests" / "typing" / "wrong_uses.py"
RIGHT = ["llama_cffi", "examples", "tests/api/test_specification.py"]


def _mypy(*paths: str) -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", *paths]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode in (0, 1), result.stderr
    found = re.findall(r"^(\S+?):(\d+): error", result.stdout, re.MULTILINE)
    return {(Path(name).name, int(line)) for name, line in found}


def _pyright(*paths: str) -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *paths]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode in (0, 1), result.stderr
    found = json.loads(result.stdout)["generalDiagnostics"]
    rows = [row for row in found if row["severity"] == "error"]
    return {(Path(row["file"]).name, row["range"]["start"]["line"] + 1) for row in rows}


CHECKERS = pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])


@CHECKERS
def test_the_package_and_every_name_of_the_specification(check: object) -> None:
    assert check(*RIGHT) == set()  # type: ignore[operator]


@CHECKERS
def test_wrong_uses_are_errors(check: object) -> None:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    expected = {(WRONG.name, number) for number, line in enumerate(lines, 1) if "# wrong" in line and number > 1}
    assert len(expected) > 20
    assert check(str(WRONG)) == expected  # type: ignore[operator]
