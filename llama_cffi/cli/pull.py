"""`llama-cffi pull`: download a model from the Hugging Face Hub into the cache, and check it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from llama_cffi._core.arguments import is_hub_name
from llama_cffi._core.command_parser import CommandParser
from llama_cffi.cli import options, output
from llama_cffi.ggml.gguf_native import open_gguf
from llama_cffi.model.hub import downloaded
from llama_cffi.model.hub_cache import verify


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "pull",
        "Download a model from the Hugging Face Hub into the cache, compare it with its checksum, and print its path. "
        "A model that is there already is checked again. An interrupted download continues where it stopped.",
        "pull hf:ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf",
    )
    parser.add_argument(
        "name", metavar="NAME", help="hf:ORG/REPO/FILE.gguf; hf:ORG/REPO lists the files of a repository"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print no progress bar")
    return parser


def main(argv: Sequence[str]) -> int:
    """Download. Returns 0, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if not is_hub_name(args.name):
        raise output.CommandError(f"NAME: expected hf:ORG/REPO/FILE.gguf, got {args.name!r}", 2)
    options.quiet_downloads(not args.quiet and sys.stderr.isatty())
    paths = downloaded(args.name)
    for path in paths:
        progress = output.Progress("checking", os.path.basename(path), args.quiet)
        try:
            verify(path, progress)
        finally:
            progress.end()
        with open_gguf(os.fsencode(path)) as file:
            if file is None:
                raise output.CommandError(f"{path} cannot be read as a GGUF file")
    output.write(f"{paths[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
