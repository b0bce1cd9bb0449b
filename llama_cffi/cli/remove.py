"""`llama-cffi rm`: remove models from the cache, after asking."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from llama_cffi._core.command_parser import CommandParser, program, suggestion
from llama_cffi.cli import options, output
from llama_cffi.model.hub_cache import CachedModel, models, remove


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "rm",
        "Remove models from the cache, after asking. Files outside of the cache are never removed.",
        "rm hf:ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf",
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help=f"name of a model, as `{program()} list` prints it, or of its file"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="remove without asking")
    return parser


def main(argv: Sequence[str]) -> int:
    """Remove. Returns 0, or 1 on failure and if the answer is no; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    known = models()
    chosen = list(dict.fromkeys(_find(name, known) for name in args.names))
    if not args.yes and not _agreed(chosen):
        output.say("nothing was removed")
        return 1
    for model in chosen:
        output.say(f"removed {model.name}, {output.size(remove(model))}")
    return 0


def _find(name: str, known: list[CachedModel]) -> CachedModel:
    """The model in the cache with this name. Raises CommandError with the name that was meant."""
    for model in known:
        if name in model.names:
            return model
    named = [model for model in known if os.path.basename(model.name) in (name, f"{name}.gguf")]
    if len(named) == 1 and not os.path.exists(name):
        return named[0]
    if len(named) > 1:
        either = " or ".join(model.name for model in named)
        raise output.CommandError(f"{name!r} is the name of several models in the cache: write {either}")
    same_file = [model.name for model in known if os.path.basename(model.name) == os.path.basename(name)]
    meant = same_file[0] if same_file else suggestion(name, [model.name for model in known])
    hint = f"did you mean {meant}?" if meant else f"`{program()} list` shows what is in the cache"
    if os.path.exists(name) and not same_file:
        hint = "only models in the cache are removed"
    raise output.CommandError(f"{name!r} is not a model in the cache: {hint}")


def _agreed(chosen: list[CachedModel]) -> bool:
    if not sys.stdin.isatty():
        raise output.CommandError("rm asks before it removes, but stdin is not a terminal: use --yes", 2)
    for model in chosen:
        output.say(f"{model.name}, {output.size(model.size)}")
    print("remove? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
