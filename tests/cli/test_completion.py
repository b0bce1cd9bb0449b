"""`llama-cffi completion`: the scripts of bash, zsh and fish, each in its shell where that is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llama_cffi.cli import completion
from llama_cffi.cli.commands import ALIASES, COMMANDS
from tests.cli.commands import run

BASH = """\
source {script}
compopt() {{ :; }}
llama-cffi() {{ [[ "$1 $2" == "list --names" ]] && printf '%s\\n' hf:acme/one.gguf hf:acme/two.gguf /c/three.gguf; }}
COMP_LINE=$1; COMP_POINT=${{#1}}
COMP_WORDBREAKS=$' \\t\\n"><=;|&(:'
read -ra COMP_WORDS <<< "${{1//=/ = }}"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_llama_cffi
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    parsers = completion._parsers()
    found = {}
    for shell, write in completion._WRITERS.items():
        found[shell] = folder / f"llama-cffi.{shell}"
        found[shell].write_text(write(parsers), encoding="utf-8")
    return found


def bash(scripts: dict[str, Path], line: str, folder: Path) -> list[str]:
    """What bash offers for the last word of a line."""
    code = BASH.format(script=scripts["bash"])
    result = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", line], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("llama-cffi ", [*COMMANDS, *ALIASES, "--help", "--version"]),
        ("llama-cffi co", ["complete", "completion"]),
        ("llama-cffi chat --th", ["--thoughts", "--thinking-budget", "--threads"]),
        ("llama-cffi chat --thoughts ", ["show", "hide"]),
        ("llama-cffi complete x --cache-type-k q8", ["q8_0"]),
        ("llama-cffi complete x --cache-type-k=q8", ["q8_0"]),
        ("llama-cffi complete x -n ", []),
        ("llama-cffi complete ", []),
        ("llama-cffi complete x -m m", ["model.gguf"]),
        ("llama-cffi show mo", ["model.gguf"]),
        ("llama-cffi rpc-worker --cache ", ["a-folder"]),
        ("llama-cffi completion ", ["bash", "zsh", "fish"]),
        ("llama-cffi rm ", ["hf:acme/one.gguf", "hf:acme/two.gguf", "/c/three.gguf"]),
        ("llama-cffi rm hf:acme/t", ["acme/two.gguf"]),
        ("llama-cffi gguf ", ["show", "set", "remove", "copy", "diff", "split", "merge"]),
        ("llama-cffi gguf se", ["set"]),
        ("llama-cffi gguf set mo", ["model.gguf"]),
        ("llama-cffi gguf set model.gguf x 5 --type uint3", ["uint32"]),
        ("llama-cffi quantize mo", ["model.gguf"]),
        ("llama-cffi quantize --output-type q8", ["q8_0"]),
        ("llama-cffi nothing ", []),
    ],
)
def test_bash(scripts: dict[str, Path], tmp_path: Path, line: str, offered: list[str]) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "a-folder").mkdir()
    assert bash(scripts, line, tmp_path) == offered


@pytest.mark.parametrize("shell", [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)])
def test_the_shell_accepts_it(scripts: dict[str, Path], shell: str) -> None:
    result = subprocess.run([shell, "-n", str(scripts[shell])], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_has_every_option_of_every_command(scripts: dict[str, Path], shell: str) -> None:
    lines = scripts[shell].read_text(encoding="utf-8").splitlines()
    for name, parser in completion._parsers().items():
        if shell == "fish":
            head = f"complete -c llama-cffi -n '__llama_cffi_command {name}' "
            part = "\n".join(line for line in lines if line.startswith(head))
        else:
            start = lines.index(f"    {name})")
            end = next(
                number
                for number in range(start, len(lines))
                if lines[number].endswith(";;") and "return;;" not in lines[number]
            )
            part = "\n".join(lines[start : end + 1])
        for action in parser.options:
            for option in action.option_strings:
                shown = option if shell != "fish" else f"-{'l' if option[:2] == '--' else 's'} {option.lstrip('-')} "
                assert shown in part, (name, option)


def test_fish(scripts: dict[str, Path], tmp_path: Path) -> None:
    text = scripts["fish"].read_text(encoding="utf-8")
    assert (
        "complete -c llama-cffi -n '__llama_cffi_command chat' -l thoughts -r -f -a 'show hide' -d 'show what" in text
    )
    assert "complete -c llama-cffi -n '__llama_cffi_command info' -F" in text
    assert "complete -c llama-cffi -n '__llama_cffi_command gguf' -f -a 'show set remove copy diff split merge'" in text
    assert "complete -c llama-cffi -n '__llama_cffi_command gguf' -F" in text
    assert r"OpenAI\'s protocol" in text


def test_zsh(scripts: dict[str, Path]) -> None:
    text = scripts["zsh"].read_text(encoding="utf-8")
    assert text.startswith("#compdef llama-cffi\n")
    assert "'(--thoughts)--thoughts[show what the model thinks before it answers]:thoughts:(show hide)'" in text
    assert r"'(-m --model)-m[GGUF file, hf\:ORG/REPO/FILE.gguf, which is downloaded once, or " in text
    assert "'*--stop[" in text
    assert "'1:ACTION:(show set remove copy diff split merge)'" in text and "'*:FILE:_files'" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_it(scripts: dict[str, Path], shell: str) -> None:
    result = run("completion", shell)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == scripts[shell].read_text(encoding="utf-8")
