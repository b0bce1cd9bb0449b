"""`llama-cffi perplexity`: how well a model predicts a long text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from llama_cffi._core.argparse_types import integer
from llama_cffi._core.command_parser import CommandParser
from llama_cffi.cli import options, output
from llama_cffi.context.context import Context
from llama_cffi.scoring.perplexity import Perplexity, perplexity

_DEFAULT_CTX = 512  # that of llama-perplexity


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "perplexity",
        "Compute the perplexity of a long text: the lower, the better the model predicts it. By default as llama.cpp's "
        "llama-perplexity does: in chunks, of which the second halves are counted.",
        "perplexity --file book.txt -m model.gguf --stride 256",
    )
    parser.add_argument("--file", required=True, metavar="FILE", help="file with the text, in UTF-8; - reads stdin")
    parser.add_argument(
        "-c",
        "--ctx",
        type=integer(3),
        default=_DEFAULT_CTX,
        metavar="N",
        help="size of a chunk, or of the window with --stride, in tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--stride",
        type=integer(1),
        metavar="N",
        help="move a window by N tokens instead, and count every token of the text once",
    )
    options.add_output(parser)
    options.add_model(parser)
    options.add_context(parser, sized=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Compute a perplexity. Returns 0, 1 on failure, or 130 after Ctrl-C; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.stride is not None and args.stride > args.ctx:
        raise output.CommandError(f"--stride must be between 1 and {args.ctx}, the size of --ctx, got {args.stride}", 2)
    whole = options.read_whole(args.file, "--file")
    text = whole.removesuffix("\n")  # as llama-perplexity reads a file
    model, loaded = options.load(args)
    progress = output.Progress("perplexity of", os.path.basename(args.file), args.quiet)

    def show(done: int, total: int, so_far: Perplexity) -> None:
        progress.label = output.plain(f"{args.file}: {so_far.value:.4f} after {done} of {total}")
        progress(done / total)

    with model:
        params = options.context_params(args, model.nCtxTrain, args.ctx)
        with Context.initFromModel(model, params) as ctx:
            try:
                found = perplexity(ctx, text, nCtx=args.ctx, stride=args.stride, progress=show)
            except ValueError as error:
                raise output.CommandError(str(error).replace("nCtx", "--ctx").replace("a stride", "--stride")) from None
            finally:
                seconds = progress.end()
    if args.json:
        output.write_json(
            {
                "perplexity": found.value,
                "error": found.error,
                "log_prob": found.logProb,
                "tokens": found.nTokens,
                "windows": found.nWindows,
                "ctx": args.ctx,
                "stride": args.stride,
            }
        )
    else:
        output.write(f"perplexity {found.value:.4f} +/- {found.error:.4f}\n")
    if not args.quiet:
        output.say(
            f"loaded in {loaded:.1f} s; {found.nTokens} tokens counted in {found.nWindows} windows of {args.ctx} "
            f"tokens, in {seconds:.1f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
