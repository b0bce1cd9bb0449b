"""The command line as a whole: its help, its names, and its errors, for every command."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import llama_cffi
import llama_cffi.ggml as Ggml
from llama_cffi import __main__
from llama_cffi._core.command_parser import CommandParser
from llama_cffi._generated.enums import GgmlBackendDevType
from llama_cffi._generated.pin import PIN
from llama_cffi.cli import output
from llama_cffi.cli.commands import ALIASES, COMMANDS, ELSEWHERE
from llama_cffi.cli.options import prepare
from tests.cli.commands import ROOT, environment, run

PARSERS = {name: importlib.import_module(module).make_parser() for name, (module, _) in COMMANDS.items()}
# Sentences and phrases may begin with these.
NAMES = ("GGUF", "IPv4", "CPU", "HF", "JSON", "Jinja", "LoRA", "RPC", "N ", "hf:", "Vulkan")

Captured = pytest.CaptureFixture[str]


def main(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    """Run the program in this process. Returns its status, stdout and stderr."""
    status = __main__.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


# Names and versions


def test_the_console_script_is_declared_and_says_its_name() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    module, _, function = re.findall(r'^llama-cffi = "([\w.]+)(:)(\w+)"$', text, re.MULTILINE)[0]
    code = f"import sys; sys.argv = sys.argv[1:]; from {module} import {function}; sys.exit({function}())"
    for more, usage in (["--help"], "usage: llama-cffi COMMAND"), (["chat", "--help"], "usage: llama-cffi chat "):
        command = [sys.executable, "-c", code, "/usr/bin/llama-cffi", *more]
        result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith(usage)
        assert "python -m" not in result.stdout


def test_the_module_says_its_name() -> None:
    assert run("bench", "--help").stdout.startswith("usage: python -m llama_cffi bench ")


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(capsys: Captured, option: str) -> None:
    assert main(capsys, option) == (0, f"llama-cffi {llama_cffi.__version__}, {PIN}\n", "")


def test_the_version_and_the_help_need_no_extension() -> None:
    code = "import sys; sys.modules['llama_cffi._native'] = None\nfrom llama_cffi.__main__ import main\n"
    for arguments, status in (["--version"], 0), (["--help"], 0), (["compleet"], 2), (["doctor", "--help"], 0):
        command = [sys.executable, "-c", f"{code}sys.exit(main({arguments}))"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert result.returncode == status and "Traceback" not in result.stderr
    command = [sys.executable, "-c", f"{code}sys.exit(main(['list']))"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and re.fullmatch("error: .*doctor.*\n", result.stderr)


# Help


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_help_lists_every_command(capsys: Captured, arguments: list[str]) -> None:
    status, out, err = main(capsys, *arguments)
    assert (status, err) == (0, "")
    assert set(re.findall(r"^  ([\w-]+)  +\w", out, re.MULTILINE)) == {*COMMANDS}
    assert all(alias in out for alias in ALIASES)


@pytest.mark.parametrize("command", [*COMMANDS, *ALIASES])
def test_the_help_of_a_command(capsys: Captured, command: str) -> None:
    status, out, err = main(capsys, command, "--help")
    name = ALIASES.get(command, command)
    assert (status, err) == (0, "") and out.startswith(f"usage: python -m llama_cffi {name} [OPTION ...]")
    assert main(capsys, "help", command) == (0, out, "")
    assert max(map(len, out.split("\nexample")[0].splitlines())) <= 80


def test_names_of_other_programs_lead_to_commands() -> None:
    assert not ELSEWHERE.keys() & {*COMMANDS, *ALIASES}
    assert {*ELSEWHERE.values()} <= {*COMMANDS, "--version"}


def test_the_actions_of_a_command_are_a_list(capsys: Captured) -> None:
    out = main(capsys, "gguf", "--help")[1]
    actions = out.partition("\nactions:\n")[2].partition("\nexamples:")[0].splitlines()
    assert [line.split()[0] for line in actions[::2]] == ["show", "set", "remove", "copy", "diff", "split", "merge"]
    assert all(line.startswith("      ") for line in actions[1::2])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_words_of_the_help(name: str) -> None:
    parser = PARSERS[name]
    description = parser.description or ""
    for sentence in re.split(r"(?<=\.) ", description):
        assert sentence[0].isupper() and sentence.endswith("."), sentence
    texts = [COMMANDS[name][1], *(action.help or "" for action in parser._actions)]
    for text in texts:
        assert text and not text.endswith("."), text
        assert text[0].islower() or text.startswith(NAMES) or not text[0].isalpha(), text
        assert text.count("(") == text.count(")"), text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_can_be_parsed(name: str) -> None:
    assert PARSERS[name].examples
    for example in PARSERS[name].examples:
        command, *arguments = shlex.split(example.partition(" >")[0])
        assert command == name
        PARSERS[name].parse_args(arguments)


# Errors: one line, status 2, what to do


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compleet"], ["'compleet'", "complete"]),
        (["Chat"], ["'Chat'", "chat"]),
        (["version"], ["'version'", "mean --version?"]),
        (["run"], ["'run'", "mean chat?"]),
        (["ls"], ["'ls'", "mean list?"]),
        (["rpc_worker"], ["'rpc_worker'", "rpc-worker"]),
        (["shwo"], ["'shwo'", "show"]),
        (["model.gguf"], ["'model.gguf'", "--help"]),
        ([""], ["''", "--help"]),
        (["a\nb\x1b[2J"], [r"a\nb\x1b[2J"]),
        (["--verison"], ["--verison", "--version"]),
        (["--json"], ["--json", "--help"]),
        (["complete", "a", "--temprature", "0"], ["--temprature", "--temperature?"]),
        (["complete", "--temprature", "0"], ["--temprature", "--temperature?"]),
        (["complete", "a", "--penalty=1"], ["--penalty:", "--repeat-penalty?"]),
        (["complete", "a", "--top_k", "3"], ["--top_k", "--top-k?"]),
        (["complete", "a", "-T", "3"], ["-T", "-t?"]),
        (["complete", "a", "--zzz"], ["--zzz", "complete --help"]),
        (["complete", "a", "--ctx-size", "3"], ["--ctx-size", "-c/--ctx"]),
        (["chat", "-ngl", "99"], ["-ngl", "-g/--gpu-layers"]),
        (["chat", "--temp", "0"], ["--temp", "--temperature"]),
        (["chat", "--te", "0"], ["--te", "--temperature", "--template"]),
        (["complete"], ["PROMPT", "complete [OPTION ...] PROMPT"]),
        (["complete", "a", "b", "c"], ["'b c'", "PROMPT", "quotes"]),
        (["bench", "model.gguf"], ["'model.gguf'", "bench", "options"]),
        (["complete", "a", "-m"], ["-m/--model", "-m FILE"]),
        (["complete", "a", "-q=1"], ["-q/--quiet", "'1'"]),
        (["complete", "a", "--shift=1"], ["--shift", "'1'"]),
        (["complete", "a", "--cache-type-k", "q8"], ["--cache-type-k", "f32", "iq4_nl", "'q8'", "q8_0?"]),
        (["completion", "tcsh"], ["SHELL", "bash, zsh or fish", "'tcsh'"]),
        (["completion"], ["SHELL", "completion [OPTION ...] SHELL"]),
        (["embed"], ["TEXT", "TEXT [TEXT ...]"]),
        (["rm"], ["NAME", "rm [OPTION ...] NAME [NAME ...]"]),
        (["complete", "a", "-t", "0"], ["-t/--threads", "1", "512", "got 0"]),
        (["complete", "a", "--grammar", "x", "--json-schema", "y"], ["--json-schema", "--grammar"]),
        (["doctor", "--second", "x"], ["--seconds", "number", "'x'"]),
        (["complete", "a"], ["-m FILE.gguf", "hf:", "LLAMA_CFFI_MODEL", "list"]),
        (["chat"], ["-m FILE.gguf", "hf:", "LLAMA_CFFI_MODEL", "list"]),
        (["show"], ["FILE.gguf", "hf:", "LLAMA_CFFI_MODEL"]),
        (["pull", "model.gguf"], ["'model.gguf'", "hf:ORG/REPO/FILE.gguf"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else str(value),
)
def test_wrong_usage(capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]) -> None:
    monkeypatch.delenv("LLAMA_CFFI_MODEL", raising=False)
    status, out, err = main(capsys, *arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err) and "usage:" not in err and err[:-1].isprintable()
    assert [word for word in words if word not in err] == [], err


def test_an_abbreviation_is_still_an_option(capsys: Captured) -> None:
    """`--temp` is llama.cpp's name too; where it is short for one option only, it is that option."""
    _, _, err = main(capsys, "complete", "a", "--temp", "0", "-t", "0")
    assert "-t/--threads" in err


def test_words_after_two_dashes_are_not_options() -> None:
    assert PARSERS["complete"].parse_args(["--", "--temprature"]).prompt == "--temprature"


def test_a_message_of_argparse_that_is_not_known_stays(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stopped:
        CommandParser("x", "X.").error("something new: 1")
    assert stopped.value.code == 2 and capsys.readouterr().err == "error: something new: 1\n"


# A model by default


def test_the_model_of_the_environment(tiny_path: Path) -> None:
    result = run("info", LLAMA_CFFI_MODEL=str(tiny_path))
    assert result.returncode == 0 and str(tiny_path) in result.stdout
    assert run("complete", "a", LLAMA_CFFI_MODEL="").returncode == 2


# GPU layers


@pytest.mark.parametrize(("layers", "built", "loads", "told"), [(5, True, 1, 0), (5, False, 0, 1), (0, False, 0, 0)])
def test_gpu_layers_need_a_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, layers: int, built: bool, loads: int, told: int
) -> None:
    """Layers for a GPU load Vulkan, and are not dropped silently in a build without it."""
    loaded: list[str] = []
    cpu = SimpleNamespace(type=GgmlBackendDevType.CPU)
    monkeypatch.setattr(Ggml.Backend, "available", lambda: ["cpu", *["vulkan"] * built])
    monkeypatch.setattr(Ggml.Backend, "devices", lambda: [cpu])
    monkeypatch.setattr(Ggml.Backend, "vkLoad", lambda: loaded.append("vulkan"))
    prepare(argparse.Namespace(verbose=False, vulkan=False, gpu_layers=layers))
    assert len(loaded) == loads
    assert capsys.readouterr().err.count("--gpu-layers") == told


# Streams


@pytest.mark.parametrize(
    ("variables", "terminal", "styled"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_styles(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], terminal: bool, styled: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert output.has_colours() is styled


@pytest.mark.parametrize("command", ["--help", "--version", "chat --help", "completion zsh", "list --json"])
@pytest.mark.parametrize("streams", ["| true", ">&-", "<&- >&- 2>&-", "> /dev/full"])
def test_streams_that_are_closed_or_full(command: str, streams: str) -> None:
    line = f"{shlex.quote(sys.executable)} -m llama_cffi {command} {streams}"
    result = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    if "/dev/full" in streams:
        assert result.returncode == 1 and re.fullmatch("error: .*No space left on device\n", result.stderr)
    if streams == "| true":
        assert result.stderr == ""
