"""`python -m llama_cffi score` and `perplexity`: the library's numbers as tables and documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import Context, Model, perplexity, score
from tests import tiny_models
from tests.cli.commands import document, run

TEXTS = [" jumps over", " sleeps"]
LONG = " ".join(f"{n} sheep and {n * n} goats" for n in range(60))


@pytest.fixture(scope="module")
def ctx(tiny: Model) -> Context:
    return Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=1, nThreadsBatch=1))


def test_the_document_of_scores(tiny_path: Path, ctx: Context) -> None:
    found = document("score", *TEXTS, "--context", "The fox", "-m", tiny_path)
    assert found["context"] == "The fox" and [row["text"] for row in found["scores"]] == TEXTS
    for text, row in zip(TEXTS, found["scores"], strict=True):
        expected = score(ctx, text, "The fox")
        assert row["tokens"] == expected.tokens and row["bytes"] == len(text) and row["pieces"] == expected.pieces
        assert row["log_probs"] == pytest.approx(list(expected.logProbs), abs=0.05)
        assert row["log_prob"] == pytest.approx(sum(row["log_probs"]))
        assert row["mean_log_prob"] == pytest.approx(row["log_prob"] / len(row["tokens"]))
        assert row["perplexity"] == pytest.approx(2.718281828 ** -row["mean_log_prob"], rel=1e-6)


def test_the_table_of_scores(tiny_path: Path, tmp_path: Path) -> None:
    result = run("score", *TEXTS, "-m", tiny_path, "--tokens")
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and " tokens scored in " in result.stderr
    assert lines[0].split() == ["log-prob", "mean", "perplexity", "tokens", "text"]
    totals = [line.split() for line in lines[1:] if len(line.split()) > 3]
    assert [" ".join(row[4:]) for row in totals] == [text.strip() for text in TEXTS]
    pieces = [line.split() for line in lines[1:] if len(line.split()) <= 3]
    assert len(pieces) == sum(int(row[3]) for row in totals)
    assert sum(float(row[0]) for row in totals) == pytest.approx(sum(float(row[0]) for row in pieces), abs=0.01)
    (tmp_path / "lines.txt").write_text("\n".join([TEXTS[0], "", TEXTS[1], ""]))
    from_file = run("score", "--file", tmp_path / "lines.txt", "-m", tiny_path, "--tokens", "-q")
    from_stdin = run("score", "--file", "-", "-m", tiny_path, "--tokens", "-q", stdin="\n".join(TEXTS) + "\n")
    assert from_file.stdout == from_stdin.stdout == result.stdout and from_file.stderr == ""


@pytest.mark.parametrize("stride", [None, 40])
def test_perplexity(tiny_path: Path, ctx: Context, tmp_path: Path, stride: int | None) -> None:
    (tmp_path / "long.txt").write_text(LONG + "\n")
    options = [] if stride is None else ["--stride", stride]
    expected = perplexity(ctx, LONG, nCtx=64, stride=stride)
    found = document("perplexity", "--file", tmp_path / "long.txt", "-m", tiny_path, "-c", 64, *options)
    assert (found["tokens"], found["windows"]) == (expected.nTokens, expected.nWindows)
    assert (found["ctx"], found["stride"]) == (64, stride)
    assert found["perplexity"] == pytest.approx(expected.value, rel=0.01)
    assert found["log_prob"] == pytest.approx(expected.logProb, rel=0.001)
    if stride is None:
        result = run("perplexity", "--file", "-", "-m", tiny_path, "-c", 64, stdin=LONG + "\n")
        assert result.stdout.split()[0] == "perplexity" and float(result.stdout.split()[1]) > 1
        assert f"{expected.nTokens} tokens" in result.stderr and result.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["score"], 2, "--file"),
        (["score", ""], 1, "texts[0]"),
        (["score", "--file", "-"], 1, "empty"),
        (["score", "word " * 600, "-c", "64"], 1, "shorten it, or raise --ctx"),
        (["perplexity"], 2, "--file"),
        (["perplexity", "--file", "-"], 1, "smaller --ctx, or --stride"),
        (["perplexity", "--file", "-"], 1, "512"),
        (["perplexity", "--file", "/nowhere/a"], 1, "No such file"),
        (["perplexity", "--file", "-", "-c", "64", "--stride", "65"], 2, "64"),
    ],
)
def test_errors(tiny_path: Path, arguments: list[str], status: int, says: str) -> None:
    result = run(*arguments, "-m", tiny_path)
    assert (result.returncode, result.stdout) == (status, "")
    assert says in result.stderr and "Traceback" not in result.stderr


def test_a_model_without_a_decoder(tmp_path: Path) -> None:
    bert = tiny_models.write_bert(tmp_path / "bert.gguf")
    for arguments in (("score", "a"), ("perplexity", "--file", "-", "-c", "16")):
        result = run(*arguments, "-m", bert, stdin="word " * 40)
        assert (result.returncode, result.stdout) == (1, "") and "decoder" in result.stderr
