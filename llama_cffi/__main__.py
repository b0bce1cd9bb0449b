"""`python -m llama_cffi COMMAND`: the commands of this package."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {"rpc-worker": ("llama_cffi.rpc_worker", "offer this machine's devices to other machines")}


def main() -> int:
    """Run the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print("usage: python -m llama_cffi COMMAND ...", file=sys.stderr)
        for name, (_, help_line) in COMMANDS.items():
            print(f"  {name}: {help_line}", file=sys.stderr)
        return 2
    status: int = importlib.import_module(COMMANDS[sys.argv[1]][0]).main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
