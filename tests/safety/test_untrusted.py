"""`untrusted=True`: a child process is the first to load a model, and the only one to die of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import LoadMode, Model, ModelLoadError, UnavailableError
from llama_cffi.model import untrusted as _trial

DIES = "import os; print('last words', file=__import__('sys').stderr); os.kill(os.getpid(), 11)"
HANGS = "import time; time.sleep(60)"


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program to write, which runs in place of the real child."""
    path = tmp_path / "child.py"
    monkeypatch.setattr(_trial, "_CHILD", path)
    return path


def test_a_good_model(tiny_path: Path) -> None:
    with Model.load(tiny_path, untrusted=True) as model:
        assert model.vocab.nTokens == 32000
        assert model._params.loadMode == LoadMode.NONE  # a mapped file that shrinks is a SIGBUS
    with Model.load(tiny_path, Model.Params(loadMode=LoadMode.MMAP), untrusted=True) as model:
        assert model._params.loadMode == LoadMode.MMAP
    with Model.loadSplits([tiny_path], untrusted=True) as model:
        assert model.nLayer == 2


def test_parameters_reach_the_child(tiny_path: Path) -> None:
    with Model.load(tiny_path, Model.Params(vocabOnly=True), untrusted=True) as model:
        assert model.vocab.nTokens == 32000
    wrong = Model.Params(kvOverrides={"llama.feed_forward_length": 77})
    with pytest.raises(
        ModelLoadError, match=r"trial load in a child process raised ModelLoadError: (.|\n)*wrong shape"
    ):
        Model.load(tiny_path, wrong, untrusted=True)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelLoadError, match="trial load in a child process raised ModelLoadError"):
        Model.load(path, untrusted=True)
    with pytest.raises(FileNotFoundError):
        Model.load(tmp_path / "none", untrusted=True)


def test_a_child_that_dies(tiny_path: Path, child: Path) -> None:
    child.write_text(DIES)
    with pytest.raises(ModelLoadError, match=r"ended by signal 11 \(SIGSEGV\)(.|\n)*last words") as caught:
        Model.load(tiny_path, untrusted=True)
    assert str(tiny_path) in str(caught.value)


def test_a_child_that_hangs(tiny_path: Path, child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child.write_text(HANGS)
    monkeypatch.setattr(_trial, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(_trial, "_BYTES_PER_SECOND", 1 << 60)
    with pytest.raises(ModelLoadError, match="did not end within 0 seconds"):
        Model.load(tiny_path, untrusted=True)


def test_a_child_that_says_nothing(tiny_path: Path, child: Path) -> None:
    child.write_text("raise SystemExit(3)")
    with pytest.raises(ModelLoadError, match="exit code 3 and without a result"):
        Model.load(tiny_path, untrusted=True)


def test_a_child_that_runs_out_of_memory(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trial, "_EXTRA_MEMORY", 1 << 20)
    with pytest.raises(ModelLoadError, match="trial load in a child process"):
        Model.load(tiny_path, untrusted=True)


def test_a_file_that_changes_between_trial_and_load(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_path.read_bytes())
    monkeypatch.setattr(_trial, "load_in_child", lambda *arguments: os.utime(path, (1, 1)))
    with pytest.raises(ModelLoadError, match="model.gguf changed between its trial and its load"):
        Model.load(path, untrusted=True)


def test_a_file_that_changes_during_the_load(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_path.read_bytes())
    loaded: list[Model] = []
    natively = Model._load_natively

    def load(*arguments: Any) -> Model:
        loaded.append(natively(*arguments))
        os.utime(path, (1, 1))
        return loaded[0]

    monkeypatch.setattr(_trial, "load_in_child", lambda *arguments: None)
    monkeypatch.setattr(Model, "_load_natively", load)
    with pytest.raises(ModelLoadError, match=r"model.gguf changed"):
        Model.load(path, untrusted=True)
    assert len(loaded) == 1 and loaded[0].closed


def test_without_an_interpreter_to_start(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(UnavailableError, match="sys.executable"):
        Model.load(tiny_path, untrusted=True)


def test_the_package_is_found_where_this_process_has_it(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cffi.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    Model.load(tiny_path, untrusted=True).free()
