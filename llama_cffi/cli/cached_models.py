"""`llama-cffi list`: list the models in the cache."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from llama_cffi._core.command_parser import CommandParser, program
from llama_cffi.cli import options, output
from llama_cffi.model.hub import cache_folder
from llama_cffi.model.hub_cache import CachedModel, models, tools_folder

_UNITS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "list",
        "List the models in the cache, with their sizes and when they were last used. The names are those that -m "
        "takes.",
        "list",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print one JSON document")
    group.add_argument("--names", action="store_true", help="print the names only, one per line")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the models. Returns 0, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    found = models()
    if args.json:
        output.write_json([_document(model) for model in found])
    elif args.names:
        output.write("".join(f"{output.plain(model.name)}\n" for model in found))
    elif not found:
        output.say(f"no models in {cache_folder()} or {tools_folder()}: `{program()} pull` downloads one")
    else:
        output.write(_table(found))
    return 0


def _table(found: list[CachedModel]) -> str:
    rows = [["name", "size", "last used"]]
    for model in found:
        incomplete = "" if model.complete else " (parts are missing)"
        rows.append([output.plain(model.name), output.size(model.size), _ago(model.used) + incomplete])
    total = output.size(sum(model.size for model in found))
    return f"{output.table(rows, align='<><')}\n{len(found)} model{'s' if len(found) > 1 else ''}, {total}\n"


def _ago(moment: float) -> str:
    seconds = time.time() - moment
    for length, unit in _UNITS:
        if seconds >= length:
            count = int(seconds / length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _document(model: CachedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "size": model.size,
        "last_used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.used)),
        "complete": model.complete,
        "files": sorted(model.entries),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
