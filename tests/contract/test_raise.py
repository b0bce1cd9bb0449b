"""The C++ code finds Python functions by name, and only when something fails: every such name exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "llama_cffi" / "_shim").glob("*.cpp"))
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
CALLED = re.findall(r'\bcall_python\(\s*"([\w.]+)",\s*"(\w+)"', TEXT)


def test_every_call_is_found() -> None:
    calls = re.findall(r"\bcall_python\((?!const char)", TEXT)
    assert len(calls) == len(CALLED) >= 3
    assert set(re.findall(r'"(llama_cffi\.(?!_native)[\w.]+)"', TEXT)) == {module for module, _ in CALLED}


@pytest.mark.parametrize(("module", "name"), CALLED, ids=[name for _, name in CALLED])
def test_a_name_that_c_calls_exists(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))
