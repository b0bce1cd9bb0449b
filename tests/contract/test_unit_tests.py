"""tests/unit runs where nothing was built: a build takes minutes, and these tests are for the time before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# `llama_cffi._native` cannot be imported, and the attempt is told.
RUN = """
import sys, pytest

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "llama_cffi._native":
            raise ModuleNotFoundError("a unit test needs native code: move it to another folder of tests")

sys.meta_path.insert(0, Finder())
try:
    from llama_cffi import lib
except ImportError as error:
    assert "is not built" in str(error)
else:
    raise SystemExit("the extension was imported, so that this run shows nothing")
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/unit"]))
"""


@pytest.mark.slow
def test_unit_tests_import_no_native_code() -> None:
    result = subprocess.run([sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert " passed" in result.stdout.splitlines()[-1]
