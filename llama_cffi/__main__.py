"""The command line: `llama-cffi COMMAND`, or `python -m llama_cffi COMMAND`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import llama_cffi
from llama_cffi._core.command_parser import SCRIPT, USAGE_STATUS, program, suggestion
from llama_cffi._generated.pin import PIN
from llama_cffi.cli.commands import ALIASES, COMMANDS, ELSEWHERE

_INTERRUPTED = 130


def usage() -> str:
    """The help text."""
    width = max(map(len, COMMANDS))
    also = {name: f" (alias: {alias})" for alias, name in ALIASES.items()}
    lines = "".join(f"  {name:{width}}  {text}{also.get(name, '')}\n" for name, (_, text) in COMMANDS.items())
    return (
        f"usage: {program()} COMMAND [OPTION ...]\n\n"
        f"Run models in GGUF files with llama.cpp.\n\ncommands:\n{lines}\n"
        "options:\n  -h, --help     show this help; COMMAND --help explains a command\n"
        "  -V, --version  show the version of the package and of llama.cpp\n\n"
        "examples:\n"
        f"  {program()} pull hf:ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf\n"
        f"  {program()} chat -m hf:ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf\n"
        f'  {program()} complete "Once upon a time" -m model.gguf\n'
    )


def _open_streams() -> bool:
    """Put /dev/null in place of standard streams that are closed. Returns False if stdout was.

    Otherwise Python has no such streams, and the next file that is opened gets their number: the model, for example.
    """
    written = sys.stdout is not None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    return written


def _fail(text: str, status: int) -> int:
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"error: {line}", file=sys.stderr)
    return status


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit status; wrong arguments are status 2."""
    written = _open_streams()
    try:
        try:
            status = _run(argv, written)
        except SystemExit as stop:  # argparse: --help, or wrong arguments
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:  # while modules are imported; the commands handle their own
        return _INTERRUPTED
    except OSError as error:  # stdout cannot be written to
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout at exit
        # A reader that closed the pipe, as `| head` does, needs no message.
        return 1 if isinstance(error, BrokenPipeError) else _fail(str(error), 1)


def _run(argv: Sequence[str], written: bool) -> int:
    name, rest = (argv[0], list(argv[1:])) if argv else ("--help", [])
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if name in ("-V", "--version"):
        print(f"{SCRIPT} {llama_cffi.__version__}, {PIN}")
        return 0
    module, _ = COMMANDS.get(ALIASES.get(name, name), ("", ""))
    if not module:
        kind = "option" if name.startswith("-") else "command"
        known = ("--help", "--version") if kind == "option" else [*COMMANDS, *ALIASES]
        meant = ELSEWHERE.get(name) or suggestion(name, known)
        hint = f"did you mean {meant}?" if meant else f"{program()} --help lists them"
        return _fail(f"unknown {kind} {name if kind == 'option' else repr(name)}: {hint}", USAGE_STATUS)
    if not written:
        return _fail("stdout is closed, so there is nowhere to write to", 1)
    try:
        command = importlib.import_module(module)
    except ImportError as error:
        return _fail(f"{error}: `{program()} doctor` checks the installation", 1)
    status: int = command.main(rest)
    return status


def console() -> int:
    """The entry point of the console script `llama-cffi`."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(console())
