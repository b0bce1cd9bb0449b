"""`python -m llama_cffi complete`: the text, the options, the errors, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi import Context, Generation, Model, Sampler
from tests.cli.commands import ROOT, document, environment, run

PROMPT = "Once upon a time"
SPEEDS = re.compile(r"loaded in [\d.]+ s; prompt \d+ tokens, [\d.]+ tokens/s; answer (\d+) tokens, [\d.]+ tokens/s\n")


@pytest.fixture(scope="module")
def expected(tiny: Model) -> str:
    """What 20 likeliest tokens say, by the library itself."""
    params = Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)
    with Context.initFromModel(tiny, params) as ctx, Sampler.initGreedy() as sampler:
        text = "".join(Generation(ctx, PROMPT, sampler=sampler, maxTokens=20))
    assert not set(text) & set("\r\x85\u2028")  # which would be read back as other ends of lines
    return text


def greedy(*arguments: object) -> list[object]:
    return ["complete", PROMPT, "-n", 20, "--temperature", 0, "-t", 2, *arguments]


def test_the_text_goes_to_stdout_and_the_speeds_to_stderr(tiny_path: Path, expected: str) -> None:
    result = run(*greedy("-m", tiny_path))
    assert (result.returncode, result.stdout) == (0, expected + "\n")
    match = SPEEDS.fullmatch(result.stderr)
    assert match and match[1] == "20"
    result = run(*greedy("-q", "--echo"), LLAMA_CFFI_MODEL=str(tiny_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, PROMPT + expected + "\n", "")


def test_the_document(tiny_path: Path, tiny: Model, expected: str) -> None:
    found = document(*greedy("-m", tiny_path))
    assert found["text"] == expected and found["prompt"] == PROMPT
    assert len(found["tokens"]) == found["usage"]["generated_tokens"] == 20
    assert found["stop_reason"] == "length" and found["stop_string"] is None
    assert found["usage"]["prompt_tokens"] == 5 and found["usage"]["prompt_seconds"] > 0


def test_a_stop_string_ends_the_text_before_it(tiny_path: Path, expected: str) -> None:
    middle = expected[len(expected) // 2 : len(expected) // 2 + 3]
    found = document(*greedy("-m", tiny_path, "--stop", middle, "--stop", "never to be seen"))
    assert found["text"] == expected.split(middle)[0]
    assert (found["stop_reason"], found["stop_string"]) == ("stop string", middle)


def test_the_prompt_from_stdin(tiny_path: Path, expected: str) -> None:
    arguments = greedy("-m", tiny_path, "-q")
    arguments[1] = "-"
    assert run(*arguments, stdin=PROMPT + "\n").stdout == expected + "\n"


def test_sampling_options(tiny_path: Path, expected: str) -> None:
    base = ["complete", PROMPT, "-n", 12, "-m", tiny_path, "-q"]
    one, same, other = (run(*base, "--seed", seed, "--temperature", 1.5).stdout for seed in (7, 7, 8))
    assert one == same != other
    likeliest = run(*base, "--temperature", 0).stdout
    for others in (["--top-k", 1], ["--top-p", 0], ["--min-p", 1]):
        assert run(*base, *others, "--seed", 3).stdout == likeliest
    assert expected.startswith(likeliest.rstrip("\n"))


def test_a_penalty_for_repetitions(tiny_path: Path) -> None:
    base = ["complete", "a a a a", "-n", 60, "-m", tiny_path, "--temperature", 0]
    plain, favoured = (document(*base, *more)["tokens"] for more in ([], ["--repeat-penalty", 0.05]))
    assert len(set(favoured)) < len(set(plain)) / 2  # less than 1 asks for repetitions


def test_a_grammar(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "digits.gbnf").write_text('root ::= [0-9]{3} "-" [0-9]{3}\n')
    result = run("complete", PROMPT, "-m", tiny_path, "-n", 40, "--grammar", tmp_path / "digits.gbnf", "-q")
    assert result.returncode == 0 and re.fullmatch(r"\d{3}-\d{3}\n", result.stdout)
    (tmp_path / "broken.gbnf").write_text("root ::= (\n")
    result = run("complete", PROMPT, "-m", tiny_path, "--grammar", tmp_path / "broken.gbnf")
    assert (
        result.returncode == 1 and "error: llama.cpp cannot read this grammar" in result.stderr and result.stdout == ""
    )


def test_a_json_schema(tiny_path: Path, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["colour", "n"],
        "additionalProperties": False,
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    for seed in (1, 2, 3):
        result = run("complete", PROMPT, "-m", tiny_path, "-n", 80, "--json-schema", path, "--seed", seed, "-q")
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout)
        assert found["colour"] in ("red", "green") and 1 <= found["n"] <= 9 and len(found) == 2
    path.write_text("{broken")
    result = run("complete", PROMPT, "-m", tiny_path, "--json-schema", path)
    assert result.returncode == 1 and result.stderr.startswith(f"error: --json-schema {path}: schema is text, but no")


def test_a_full_context(tiny_path: Path) -> None:
    base = ["complete", PROMPT, "-m", tiny_path, "-c", 256, "-n", 300, "--seed", 1]
    result = run(*base)
    assert result.returncode == 0 and "the context is full: raise --ctx, or use --shift" in result.stderr
    found = document(*base, "--shift")
    assert found["usage"]["generated_tokens"] == 300 and found["stop_reason"] == "length"
    result = run("complete", "word " * 500, "-m", tiny_path, "-c", 256)
    assert result.returncode == 1 and "the context takes 256: raise it with --ctx" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "the following arguments are required: PROMPT"),
        (["x"], 2, "no model: name one with -m FILE.gguf, or in the environment variable LLAMA_CFFI_MODEL"),
        (["x", "-m", "/nowhere.gguf"], 1, "No such file or directory: '/nowhere.gguf'"),
        (["x", "-m", __file__], 1, "could not be loaded as a model"),
        (["x", "-m", "hf:a/b/c.bin"], 1, "does not name a file that ends in .gguf"),
        (["x", "-n", "0"], 2, "0 does not fit: from 1"),
        (["x", "--temperature", "-1"], 2, "-1 does not fit: from 0"),
        (["x", "--top-p", "2"], 2, "2 does not fit: from 0 to 1"),
        (["x", "--seed", "x"], 2, "'x' is no whole number"),
        (["x", "--min-p", "nan"], 2, "nan does not fit"),
        (["x", "--grammar", "/nowhere.gbnf", "-m", "TINY"], 1, "--grammar /nowhere.gbnf: No such file or directory"),
        (["", "-m", "TINY", "--tempo", "1"], 2, "unrecognized arguments: --tempo"),
    ],
)
def test_errors(arguments: list[str], status: int, says: str, tiny_path: Path) -> None:
    result = run("complete", *(str(tiny_path) if argument == "TINY" else argument for argument in arguments))
    assert (result.returncode, result.stdout) == (status, "")
    assert says in result.stderr and "Traceback" not in result.stderr


def start(tiny_path: Path, *more: str, **streams: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llama_cffi", "complete", PROMPT, "-m", str(tiny_path), "-n", "100000", "--shift"]
    return subprocess.Popen([*command, *more], cwd=ROOT, env=environment(), **streams)


def test_ctrl_c(tiny_path: Path) -> None:
    with start(tiny_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.read(20)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and err == b""
    assert len(first) == 20 and out.endswith(b"\n")


def test_a_reader_that_has_had_enough(tiny_path: Path) -> None:
    with start(tiny_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.read(20)
        child.stdout.close()
        assert child.wait(60) == 1 and child.stderr.read() == b""


def test_the_bar_is_for_terminals(tiny_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llama_cffi", *map(str, greedy("-m", tiny_path))]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(TERM="xterm", COLUMNS="60"), stdout=subprocess.PIPE, stderr=theirs
    ) as child:
        child.communicate(timeout=120)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # how a terminal's end is told
        pass
    os.close(ours)
    text = shown.decode()
    assert "loading tiny.gguf [" in text and "100%" in text
    assert max(len(line) for line in re.split(r"\r|\n|\033\[K", text.split("loaded in")[0])) < 60
    assert re.search(r"\r\033\[Kloaded in .* tokens/s", text)  # the bar is gone by then


def test_bytes_that_the_encoding_lacks(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "accents.gbnf").write_text('root ::= "né à Łódź"\n')
    options = ["-m", tiny_path, "--grammar", tmp_path / "accents.gbnf", "-q", "-n", 40]
    assert run("complete", PROMPT, *options, PYTHONIOENCODING="utf-8").stdout == "né à Łódź\n"
    assert run("complete", PROMPT, *options, PYTHONIOENCODING="ascii").stdout == "n? ? ??d?\n"


def test_gemma(gemma_path: Path) -> None:
    found = document("complete", "The capital of France is", "-m", gemma_path, "-n", 8, "--temperature", 0, "-c", 128)
    assert "France" in found["text"] or "Paris" in found["text"]


def test_bench(tiny_path: Path) -> None:
    result = run("bench", "-m", tiny_path, "-p", 16, "-n", 4, "-r", 2, "-t", 2)
    assert (result.returncode, result.stderr) == (0, "")
    head, titles, *rows = result.stdout.splitlines()
    assert head.startswith("llama ") and "CPU (" in head and head.endswith("2 threads")
    assert titles.split() == ["tokens", "tokens/s", "slowest", "fastest"]
    assert [row.split()[-4] for row in rows] == ["16", "4", "4"]
    found = json.loads(run("bench", "-m", tiny_path, "-p", 16, "-n", 4, "-r", 2, "--json").stdout)
    assert {name: len(values) for name, values in found["tokens_per_second"].items()} == {
        "prompt": 2,
        "decode": 2,
        "generate": 2,
    }
    assert all(value > 0 for values in found["tokens_per_second"].values() for value in values)


def test_an_unknown_command_and_the_help() -> None:
    result = run("compleat")
    assert result.returncode == 2 and "there is no command 'compleat'" in result.stderr
    result = run("--help")
    assert result.returncode == 0
    for command in re.findall(r"^  ([\w-]+) ", result.stdout, re.MULTILINE):
        assert run(command, "--help").stdout.startswith(f"usage: python -m llama_cffi {command} ")
