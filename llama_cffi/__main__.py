"""`python -m llama_cffi COMMAND`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# name -> its module, which has `main(argv) -> int`, and what it is for
COMMANDS = {
    "complete": ("llama_cffi.cli.complete", "go on with a text"),
    "chat": ("llama_cffi.cli.chat", "hold a conversation"),
    "embed": ("llama_cffi.cli.embed", "turn texts into vectors"),
    "info": ("llama_cffi.cli.info", "what is in a GGUF file, how much memory it takes, and whether that fits"),
    "bench": ("llama_cffi.cli.bench", "how fast a model is on this machine"),
    "doctor": ("llama_cffi.doctor.command", "what works on this machine, what is missing, and what to do about it"),
    "rpc-worker": ("llama_cffi.cli.rpc_worker", "lend this machine's devices to models on another one"),
}


def usage() -> str:
    """The help text."""
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name:{width}}  {text}\n" for name, (_, text) in COMMANDS.items())
    return f"usage: python -m llama_cffi COMMAND [OPTION ...]\n\n{lines}\nCOMMAND --help says more of each.\n"


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit status; 2 for one that there is not."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if argv[0] not in COMMANDS:
        print(f"llama_cffi: there is no command {argv[0]!r}\n\n{usage()}", end="", file=sys.stderr)
        return 2
    module, _ = COMMANDS[argv[0]]
    status: int = importlib.import_module(module).main(argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
