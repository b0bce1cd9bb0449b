"""`python -m llama_cffi.compat script.py [ARGUMENT ...]`: run a program that imports `llama_cpp`."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from llama_cffi.compat.modules import install

_USAGE = "usage: python -m llama_cffi.compat (SCRIPT | -m MODULE) [ARGUMENT ...]"


def main(argv: Sequence[str]) -> int:
    """Run a script or a module, with `llama_cpp` made of this package. Returns 2 without one."""
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"{_USAGE}\n\nRuns a program that imports llama_cpp on llama_cffi instead.",
            file=sys.stderr if not argv else sys.stdout,
        )
        return 0 if argv else 2
    install()
    if argv[0] == "-m":
        if len(argv) < 2:
            print(_USAGE, file=sys.stderr)
            return 2
        sys.argv = list(argv[1:])
        sys.path.insert(0, os.getcwd())
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return 0
    if not os.path.isfile(argv[0]):
        print(f"error: the script {argv[0]} does not exist\n{_USAGE}", file=sys.stderr)
        return 2
    sys.argv = list(argv)
    sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
    runpy.run_path(argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
