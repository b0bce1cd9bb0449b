"""The command line: `python -m llama_cffi COMMAND`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

# name -> module with `main(argv) -> int`, and the line in the help
COMMANDS = {
    "complete": ("llama_cffi.cli.complete", "complete a prompt"),
    "chat": ("llama_cffi.cli.chat", "chat with a model"),
    "embed": ("llama_cffi.cli.embed", "compute embeddings of texts"),
    "serve": ("llama_cffi.cli.serve", "serve models over HTTP by OpenAI's protocol"),
    "info": ("llama_cffi.cli.info", "show what a GGUF file holds, how much memory it needs, and whether that fits"),
    "bench": ("llama_cffi.cli.bench", "measure the speed of a model on this machine"),
    "doctor": ("llama_cffi.doctor.command", "check the installation and the devices, and say how to fix what fails"),
    "rpc-worker": ("llama_cffi.cli.rpc_worker", "offer the devices of this machine to models on other machines"),
}


def usage() -> str:
    """The help text."""
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name:{width}}  {text}\n" for name, (_, text) in COMMANDS.items())
    return (
        f"usage: python -m llama_cffi COMMAND [OPTION ...]\n\n{lines}\nCOMMAND --help lists the options of a command.\n"
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


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit status; an unknown command is status 2."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if argv[0] not in COMMANDS:
        print(f"llama_cffi: unknown command {argv[0]!r}\n\n{usage()}", end="", file=sys.stderr)
        return 2
    if not _open_streams():
        print("error: stdout is closed, so there is nowhere to write to", file=sys.stderr)
        return 1
    module, _ = COMMANDS[argv[0]]
    status: int = importlib.import_module(module).main(argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
