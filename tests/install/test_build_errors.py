"""A build that cannot be done says what is missing and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vendor import fetch

ROOT = Path(__file__).resolve().parents[2]


def _build(tmp_path: Path, tools: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The native build with a PATH of these tools alone and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in tools:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    python = tmp_path / "python"  # a Python with nothing beside it, such as a ninja of this environment
    python.symlink_to(sys.executable)
    env = {"PATH": str(folder), "HOME": str(tmp_path), "LLAMA_CFFI_CACHE": str(tmp_path / "cache"), **environment}
    command = [str(python), "-m", "vendor.native"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([], "build-essential"),
        (["cc"], "build-essential"),
        (["cc", "c++"], "apt install cmake"),
        (["cc", "c++", "cmake"], "apt install ninja-build"),
    ],
)
def test_what_is_missing(tmp_path: Path, tools: list[str], words: str) -> None:
    result = _build(tmp_path, tools, LLAMA_CPP_SOURCE=str(fetch.source_dir()))
    assert result.returncode == 1
    assert words in result.stderr and "Traceback" not in result.stderr


def test_a_source_that_is_none(tmp_path: Path) -> None:
    result = _build(tmp_path, [], LLAMA_CPP_SOURCE=str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert "is not a llama.cpp checkout" in result.stderr


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"something else")
    with pytest.raises(fetch.FetchError, match="the pin says 00"):
        fetch._verify(path, "00")


def test_an_unknown_backend(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vendor.native", "cuda"], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 1 and "choose from cpu, rpc, vulkan" in result.stderr
