"""Child processes: their answer, and how an end without one is reported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from llama_cffi._host.child_process import ChildError, ask, can_ask


def program(folder: Path, code: str) -> Path:
    path = folder / "child.py"
    path.write_text(f"import json, os, sys\nrequest = json.load(sys.stdin)\n{code}\n", encoding="utf-8")
    return path


def test_a_child_gets_the_request_the_path_and_the_environment(tmp_path: Path) -> None:
    path = program(tmp_path, 'json.dump({**request, "X": os.environ["X"], "flags": sys.flags.isolated}, sys.stdout)')
    answer = ask(path, {"question": [1, 2]}, 60, {"X": "y"})
    assert answer == {"path": sys.path, "question": [1, 2], "X": "y", "flags": 1}
    assert "X" not in os.environ


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.kill(os.getpid(), 11)", r"signal 11 \(SIGSEGV\)"),
        ("sys.exit(3)", "exit code 3"),
        ("print('no JSON')", "exit code 0"),
    ],
)
def test_a_child_that_ends_without_an_answer(tmp_path: Path, code: str, how: str) -> None:
    with pytest.raises(ChildError, match=how) as caught:
        ask(program(tmp_path, f"print('last words', file=sys.stderr, flush=True)\n{code}"), {}, 60, {})
    assert caught.value.log == "last words\n"


def test_a_child_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="1 second"):
        ask(program(tmp_path, "import time; time.sleep(60)"), {}, 1, {})


def test_where_no_python_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_ask()
    monkeypatch.setattr(sys, "executable", "")
    assert not can_ask()
