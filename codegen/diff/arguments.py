"""Command-line arguments of `diff`, `history` and `changes`. `command.py` runs the commands.

Separate from `command.py` so that `python -m codegen check` need not import `vendor`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

COMMANDS = ("diff", "history", "changes")

FORMATS = ("text", "markdown", "json")

_EPILOG = """\
OLD and NEW are each a snapshot file, a llama.cpp source tree (a folder with include/llama.h), or a release as
`make upgrade VERSION=` takes it: 0.3.26 of llama-cpp-python, or xllamacpp==2026.10.11549. The exit status is 0 without
differences, 1 with differences, 2 for an error."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `python -m codegen`."""
    formatter = argparse.RawDescriptionHelpFormatter
    text = "show what changed between two versions of llama.cpp's API, and which code it breaks"
    parser = commands.add_parser("diff", help=text, epilog=_EPILOG, formatter_class=formatter)
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--changelog", action="store_true", help="print an entry for CHANGELOG.md")
    parser.add_argument("--build", action="store_true", help="build missing libraries, to compare default values")
    for side in ("old", "new"):
        parser.add_argument(f"--{side}-lib", type=Path, metavar="FOLDER", help=f"shared libraries of {side.upper()}")
    text = "write codegen/diff/history/ for the releases in vendor/source/releases.json"
    parser = commands.add_parser("history", help=text)
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="only these versions")
    parser.add_argument(
        "--lib",
        action="append",
        default=[],
        metavar="VERSION=FOLDER",
        help="shared libraries to read default values from",
    )
    commands.add_parser("changes", help="write docs/changes.md from codegen/diff/history/")
