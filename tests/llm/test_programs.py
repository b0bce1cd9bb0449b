"""examples/users: ten programs of a first day. Each is short, and runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.fake_hub import FakeHub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted((ROOT / "examples" / "users").glob("*.py"))
HUB_REPO, HUB_FILE = "ggml-org/gemma-3-270m-it-GGUF", "gemma-3-270m-it-Q8_0.gguf"
# What each must print whatever the model says.
SAYS = {
    "chat_with_memory": "You: What is my name?\nModel: ",
    "complete": "Paris",
    "count_tokens": "8 tokens in the text",
    "several": "A short poem about fog:",
    "similarity": "Cats sleep most of the day.",
}


def _run(program: Path, folder: Path, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-W", "error", str(program)]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=180)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def test_there_are_ten_and_each_is_short() -> None:
    assert len(PROGRAMS) == 10 and set(SAYS) <= {program.stem for program in PROGRAMS}
    for program in PROGRAMS:
        assert len(program.read_text(encoding="utf-8").splitlines()) < 15, program.name


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.stem != "from_hub"], ids=lambda program: program.stem)
def test_a_program(program: Path, smol_path: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(smol_path)
    said = _run(program, tmp_path)
    assert said.strip() and SAYS.get(program.stem, "") in said


def test_the_program_that_downloads(smol_path: Path, tmp_path: Path) -> None:
    with FakeHub({HUB_FILE: smol_path.read_bytes()}, HUB_REPO) as hub:
        said = _run(
            ROOT / "examples" / "users" / "from_hub.py", tmp_path, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path)
        )
    assert said.strip()
