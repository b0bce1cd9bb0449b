"""`llama-cffi completion`: print a script that completes commands and options in bash, zsh or fish.

The script is written from the parsers of the commands. It holds everything that it completes, and only asks the program
for the models in the cache, after `rm`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence

from llama_cffi._core.command_parser import SCRIPT, CommandParser
from llama_cffi.cli import options, output
from llama_cffi.cli.commands import ALIASES, COMMANDS

_FUNCTION = "_llama_cffi"
_FILE, _FOLDER, _CACHED, _NOTHING = "file", "folder", "cached model", "nothing"
_TOP = {"--help": "show the help", "--version": "show the versions"}


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "completion",
        f"Print a script that completes the commands and options of {SCRIPT}. Write it to where your shell looks for "
        "such scripts, and start a new shell.",
        "completion bash > ~/.local/share/bash-completion/completions/llama-cffi",
        'completion zsh > "${fpath[1]}/_llama-cffi"',
        "completion fish > ~/.config/fish/completions/llama-cffi.fish",
    )
    parser.add_argument("shell", choices=_WRITERS, metavar="SHELL", help=f"{', '.join(_WRITERS)}")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the script. Returns 0, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    output.write(_WRITERS[args.shell](_parsers()))
    return 0


def _parsers() -> dict[str, CommandParser]:
    """The parsers of all commands, by all their names."""
    found = {name: importlib.import_module(module).make_parser() for name, (module, _) in COMMANDS.items()}
    return found | {alias: found[name] for alias, name in ALIASES.items()}


def _summaries() -> dict[str, str]:
    """The lines of the commands in the help, by all their names."""
    found = {name: text for name, (_, text) in COMMANDS.items()}
    return found | {alias: found[name] for alias, name in ALIASES.items()}


def _values(action: argparse.Action, command: str = "") -> str | list[str]:
    """What completes the value of an option or an argument: words, or a kind of thing."""
    if action.nargs == 0:
        return []
    if action.choices:
        return [str(choice) for choice in action.choices]
    name = str(action.metavar or "")
    if command == "rm":
        return _CACHED
    return _FILE if "FILE" in name else _FOLDER if "DIR" in name else _NOTHING


def _arguments(parser: CommandParser) -> list[str | list[str]]:
    """What completes the arguments of a command: the first if it is a choice and others follow, then the others."""
    found = parser.positionals
    chosen = found[:2] if len(found) > 1 and found[0].choices else found[:1]
    return [_values(action, parser.command) for action in chosen] or [_NOTHING]


def _summary(action: argparse.Action) -> str:
    """The start of an option's help, up to the first semicolon, parenthesis or end of a sentence."""
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return re.split(r" \(|; |\. ", text)[0].strip()


def _quoted(text: str) -> str:
    """Text in single quotes for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


# bash


def _bash(parsers: dict[str, CommandParser]) -> str:
    cases = []
    for name, parser in parsers.items():
        words = " ".join(option for action in parser.options for option in action.option_strings)
        values = []
        for action in parser.options:
            if action.nargs != 0:
                values.append(
                    f"            {'|'.join(action.option_strings)}) {_bash_reply(_values(action))}; return;;\n"
                )
        cases.append(
            f"    {name})\n        case $previous in\n{''.join(values)}        esac\n"
            f"        if [[ $current == -* ]]; then {_bash_reply(words.split())}\n"
            f"        {_bash_first(parser)}else {_bash_reply(_arguments(parser)[-1])}; fi;;\n"
        )
    top = " ".join([*parsers, *_TOP])
    return f"""\
# bash completion of {SCRIPT}
{_FUNCTION}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then {_bash_reply(top.split())}; return; fi
    if [[ $current == "=" ]]; then current=
    elif [[ $previous == "=" ]]; then previous=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    case ${{COMP_WORDS[1]}} in
{"".join(cases)}    esac
}}
{_FUNCTION}_cached() {{
    # A name has a colon, where bash ends a word: complete what comes after the last one.
    local IFS=$'\\n' typed=${{COMP_LINE:0:COMP_POINT}} before
    typed=${{typed##*[[:space:]]}}
    mapfile -t COMPREPLY < <(compgen -W "$({SCRIPT} list --names 2>/dev/null)" -- "$typed")
    if [[ $COMP_WORDBREAKS == *:* && $typed == *:* ]]; then
        before=${{typed%"${{typed##*:}}"}}
        COMPREPLY=("${{COMPREPLY[@]#"$before"}}")
    fi
}}
complete -F {_FUNCTION} {SCRIPT}
"""


def _bash_first(parser: CommandParser) -> str:
    """The branch of a first argument that is completed in another way than the others."""
    found = _arguments(parser)
    return f"elif (( COMP_CWORD == 2 )); then {_bash_reply(found[0])}\n        " if len(found) > 1 else ""


def _bash_reply(values: str | list[str]) -> str:
    if isinstance(values, list):
        return f'mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(values))} -- "$current")'
    if values in (_FILE, _FOLDER):
        kind = "-f" if values == _FILE else "-d"
        return f'compopt -o filenames; mapfile -t COMPREPLY < <(compgen {kind} -- "$current")'
    return f"{_FUNCTION}_cached" if values == _CACHED else ":"


# zsh


def _zsh(parsers: dict[str, CommandParser]) -> str:
    commands = "".join(f"    {_quoted(f'{name}:{_zsh_text(text)}')}\n" for name, text in _summaries().items())
    cases = []
    for name, parser in parsers.items():
        specs = []
        for action in parser.options:
            names = action.option_strings
            some = f"({' '.join(names)})" if not _repeats(action) else "*"
            value = (
                "" if action.nargs == 0 else f":{_zsh_text(str(action.metavar or action.dest))}:{_zsh_values(action)}"
            )
            specs += [_quoted(f"{some}{option}[{_zsh_text(_summary(action))}]{value}") for option in names]
        count = len(_arguments(parser))
        for number, action in enumerate(parser.positionals[:count], 1):
            place = number if number < count else "*"
            specs.append(_quoted(f"{place}:{_zsh_text(str(action.metavar))}:{_zsh_values(action, parser.command)}"))
        joined = " \\\n            ".join(specs)
        cases.append(f"    {name})\n        _arguments -s \\\n            {joined};;\n")
    top = " ".join(_quoted(f"{option}[{text}]") for option, text in _TOP.items())
    return f"""\
#compdef {SCRIPT}
# zsh completion of {SCRIPT}
{_FUNCTION}_cached() {{
    local -a names
    names=(${{(f)"$({SCRIPT} list --names 2>/dev/null)"}})
    compadd -a names
}}
{_FUNCTION}() {{
    local curcontext=$curcontext state line
    local -a commands
    commands=(
{commands}    )
    _arguments -C {top} '1: :->command' '*:: :->arguments' && return
    case $state in
    command) _describe command commands; return;;
    esac
    case $words[1] in
{"".join(cases)}    esac
}}
if [[ $funcstack[1] == _llama-cffi ]]; then {_FUNCTION} "$@"; else compdef {_FUNCTION} {SCRIPT}; fi
"""


def _repeats(action: argparse.Action) -> bool:
    return type(action).__name__ == "_AppendAction"


def _zsh_text(text: str) -> str:
    """Text inside of a specification of _arguments."""
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _zsh_values(action: argparse.Action, command: str = "") -> str:
    values = _values(action, command)
    if isinstance(values, list):
        return f"({' '.join(values)})"
    return {_FILE: "_files", _FOLDER: "_files -/", _CACHED: f"{_FUNCTION}_cached"}.get(values, " ")


# fish


def _fish(parsers: dict[str, CommandParser]) -> str:
    lines = [
        f"# fish completion of {SCRIPT}",
        f"function _{_FUNCTION}_command -d 'The command that was typed is one of the arguments'",
        "    set -l words (commandline -opc)",
        '    contains -- "$words[2]" $argv',
        "end",
        f"complete -c {SCRIPT} -f",
    ]
    first = f"_{_FUNCTION}_command ''"
    lines += [
        f"complete -c {SCRIPT} -n {_fish_quoted(first)} -a {name} -d {_fish_quoted(text)}"
        for name, text in _summaries().items()
    ]
    lines += [
        f"complete -c {SCRIPT} -n {_fish_quoted(first)} -l {option[2:]} -d {_fish_quoted(text)}"
        for option, text in _TOP.items()
    ]
    for name, parser in parsers.items():
        head = f"complete -c {SCRIPT} -n {_fish_quoted(f'_{_FUNCTION}_command {name}')}"
        for action in parser.options:
            names = " ".join(
                f"-l {name[2:]}" if name[:2] == "--" else f"-s {name[1:]}" for name in action.option_strings
            )
            lines.append(f"{head} {names}{_fish_values(_values(action))} -d {_fish_quoted(_summary(action))}")
        if parser.positionals:
            lines += [head + _fish_values(values).replace(" -r", "", 1) for values in _arguments(parser)]
    return "\n".join(lines) + "\n"


def _fish_values(values: str | list[str]) -> str:
    if isinstance(values, list):
        return f" -r -f -a {_fish_quoted(' '.join(values))}" if values else ""
    return {
        _FILE: " -r -F",
        _FOLDER: " -r -f -a '(__fish_complete_directories)'",
        _CACHED: f" -r -f -a '({SCRIPT} list --names 2>/dev/null)'",
    }.get(values, " -r -f")


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_WRITERS: dict[str, Callable[[dict[str, CommandParser]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
