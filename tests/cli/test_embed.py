"""`python -m llama_cffi embed`: the library's vectors in three output formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llama_cffi import Embedder, Model
from tests import tiny_models
from tests.cli.commands import document, run

TEXTS = ["the cat sat", "a dog ran away", "the cat sat"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture(scope="module")
def expected(bert: Path) -> np.ndarray:
    with Model.load(bert) as model, Embedder(model) as embedder:
        return embedder.embed(TEXTS)


def test_lines_of_numbers(bert: Path, expected: np.ndarray) -> None:
    result = run("embed", *TEXTS, "-m", bert)
    assert result.returncode == 0 and "3 texts in " in result.stderr
    found = np.array([[float(number) for number in line.split()] for line in result.stdout.splitlines()])
    assert np.allclose(found, expected, atol=1e-5)
    from_stdin = run("embed", "-", "-m", bert, "-q", stdin="\n".join(TEXTS) + "\n")
    assert (from_stdin.stdout, from_stdin.stderr) == (result.stdout, "")


def test_the_document(bert: Path, expected: np.ndarray) -> None:
    found = document("embed", *TEXTS, "-m", bert)
    assert found["texts"] == TEXTS and found["pooling"] == "mean" and found["normalized"]
    assert np.allclose(found["embeddings"], expected, atol=1e-6)
    longer = np.array(document("embed", *TEXTS, "-m", bert, "--no-normalize")["embeddings"])
    lengths = np.linalg.norm(longer, axis=1)
    assert np.allclose(longer / lengths[:, None], expected, atol=1e-5) and not np.allclose(lengths, 1)
    first = document("embed", *TEXTS, "-m", bert, "--pooling", "cls")
    assert first["pooling"] == "cls" and not np.allclose(first["embeddings"], expected, atol=1e-3)


def test_similarities_and_a_file(bert: Path, expected: np.ndarray, tmp_path: Path) -> None:
    result = run("embed", *TEXTS, "-m", bert, "--similarities", "--output", tmp_path / "v.npy")
    rows = [line.rsplit(maxsplit=3) for line in result.stdout.splitlines()]
    assert [row[0].strip() for row in rows] == TEXTS
    assert np.allclose(np.array([row[1:] for row in rows], float), expected @ expected.T, atol=1e-3)
    assert np.allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "error: TEXT is missing"),
        (["-"], 1, "stdin is empty"),
        (["word " * 600], 1, "text 0"),
        (["a", "--pooling", "max"], 2, "mean, cls or last, got 'max'"),
        (["a", "--output", "/nowhere/v.npy"], 1, "No such file or directory"),
    ],
)
def test_errors(bert: Path, arguments: list[str], status: int, says: str) -> None:
    result = run("embed", *arguments, "-m", bert)
    assert (result.returncode, result.stdout) == (status, "")
    assert says in result.stderr and "Traceback" not in result.stderr


def test_a_text_that_is_too_long_is_cut(bert: Path) -> None:
    result = run("embed", "word " * 600, "-m", bert, "--truncate", "-q")
    assert result.returncode == 0 and len(result.stdout.split()) == 64
