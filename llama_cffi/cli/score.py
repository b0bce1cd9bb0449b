"""`llama-cffi score`: log-probabilities of given texts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from llama_cffi._core.command_parser import CommandParser
from llama_cffi.cli import options, output
from llama_cffi.engine.engine import Engine
from llama_cffi.generation.score import Score

_AT_ONCE = 8  # texts that are computed together


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "score",
        "Show how probable a model finds given texts: the sum of the log-probabilities of the tokens of each, the mean "
        "of a token, and the perplexity.",
        'score " Paris" " London" --context "The capital of France is" -m model.gguf',
    )
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("texts", nargs="*", default=[], metavar="TEXT", help="text to score; may be repeated")
    texts.add_argument("--file", metavar="FILE", help="score each line of a file that is not empty; - reads stdin")
    parser.add_argument(
        "--context", default="", metavar="TEXT", help="text before each text, such as a question; it is not scored"
    )
    parser.add_argument("--tokens", action="store_true", help="show the log-probability of each token too")
    options.add_output(parser)
    options.add_model(parser)
    options.add_context(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Score texts. Returns 0, 1 on failure, or 130 after Ctrl-C; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    texts = args.texts
    if args.file is not None:
        whole = options.read_whole(args.file, "--file")
        texts = [line for line in whole.split("\n") if line.strip()]
        if not texts:
            raise output.CommandError(f"--file {args.file} is empty: expected a text in each line")
    model, loaded = options.load(args)
    with model:
        at_once = min(_AT_ONCE, len(texts))
        params = options.context_params(args, model.nCtxTrain)
        with Engine(
            model, nCtx=params.nCtx, nSeqMax=at_once, nBatch=args.batch or 512, nThreads=args.threads, params=params
        ) as engine:
            started = time.perf_counter()
            scores = engine.score(texts, args.context)
            seconds = time.perf_counter() - started
    if args.json:
        rows = [_document(text, found) for text, found in zip(texts, scores, strict=True)]
        output.write_json({"context": args.context, "scores": rows})
    else:
        _show(texts, scores, args.tokens)
    if not args.quiet:
        n = sum(len(found.tokens) for found in scores)
        output.say(f"loaded in {loaded:.1f} s; {n} tokens scored in {seconds:.2f} s")
    return 0


def _show(texts: Sequence[str], scores: Sequence[Score], tokens: bool) -> None:
    rows = [["log-prob", "mean", "perplexity", "tokens", "text"]]
    for text, found in zip(texts, scores, strict=True):
        rows.append([f"{found.sum:.4f}", f"{found.mean:.4f}", f"{found.perplexity:.4f}", str(len(found.tokens)), text])
        if tokens:
            rows += [
                [f"{log_prob:.4f}", "", "", "", repr(piece)]
                for log_prob, piece in zip(found.logProbs, found.pieces, strict=True)
            ]
    output.write(output.table(rows, ">>>><") + "\n")


def _document(text: str, found: Score) -> dict[str, Any]:
    return {
        "text": text,
        "log_prob": found.sum,
        "mean_log_prob": found.mean,
        "perplexity": found.perplexity,
        "bytes": found.nBytes,
        "tokens": found.tokens,
        "pieces": found.pieces,
        "log_probs": list(found.logProbs),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
