"""`llama-cffi embed`: compute embeddings of texts."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from llama_cffi._core.argparse_types import integer
from llama_cffi._core.atomic_write import atomic_write
from llama_cffi._core.command_parser import CommandParser
from llama_cffi._generated.enums import PoolingType
from llama_cffi.cli import options, output
from llama_cffi.embedding.embedding import Embedder

_POOLINGS = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "last": PoolingType.LAST}


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "embed",
        "Compute embeddings, the vectors that stand for the meaning of texts. Each text becomes a line of numbers.",
        'embed "a cat" "a small dog" -m model.gguf --similarities',
    )
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT", help="text to embed; a single - reads one text per line from stdin"
    )
    parser.add_argument(
        "--pooling", choices=_POOLINGS, help="how token vectors become one vector (default: the model's)"
    )
    parser.add_argument("--no-normalize", action="store_true", help="do not scale the vectors to length 1")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of failing")
    parser.add_argument(
        "--similarities", action="store_true", help="print a table of cosine similarities instead of the vectors"
    )
    parser.add_argument(
        "--output", metavar="FILE.npy", help="write the vectors to a numpy file instead of printing them"
    )
    options.add_output(parser)
    parser.add_argument("-c", "--ctx", type=integer(1), metavar="N", help="allow at most N tokens per text")
    parser.add_argument("-b", "--batch", type=integer(1), metavar="N", help="compute at most N tokens at once")
    options.add_threads(parser)
    options.add_model(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Embed texts. Returns 0, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    texts = args.texts
    if texts == ["-"]:
        texts = options.read_text("-").splitlines()
        if not texts:
            raise output.CommandError("stdin is empty: expected one text per line")
    model, loaded = options.load(args)
    pooling = _POOLINGS[args.pooling] if args.pooling else None
    with (
        model,
        Embedder(
            model,
            pooling,
            nCtx=args.ctx,
            nBatch=args.batch,
            nThreads=args.threads,
            normalize=not args.no_normalize,
        ) as embedder,
    ):
        started = time.perf_counter()
        vectors = embedder.embed(texts, truncate=args.truncate)
        seconds = time.perf_counter() - started
        used = embedder.poolingType.name.lower()
    _show(args, texts, vectors, used)
    if not args.quiet:
        count = f"{len(texts)} texts" if len(texts) > 1 else "1 text"
        output.say(f"loaded in {loaded:.1f} s; {count} in {seconds:.2f} s")
    return 0


def _show(args: argparse.Namespace, texts: Sequence[str], vectors: Any, pooling: str) -> None:
    similar = _similarities(vectors) if args.similarities else None
    if args.output:
        import numpy as np

        data = io.BytesIO()  # numpy's own errors of a full disk do not say so
        np.save(data, vectors)
        with atomic_write(os.path.abspath(args.output)) as scratch, open(scratch, "wb") as file:
            file.write(data.getbuffer())
    if args.json:
        found = {"texts": list(texts), "pooling": pooling, "normalized": not args.no_normalize}
        if similar is not None:
            found["similarities"] = similar.tolist()
        elif not args.output:
            found["embeddings"] = vectors.tolist()
        output.write_json(found)
    elif similar is not None:
        rows = [[_short(text), *(f"{value:.3f}" for value in row)] for text, row in zip(texts, similar, strict=True)]
        output.write(output.table(rows) + "\n")
    elif not args.output:
        for vector in vectors:
            output.write(" ".join(f"{value:.7g}" for value in vector) + "\n")


def _similarities(vectors: Any) -> Any:
    """The matrix of cosine similarities: 1 for vectors of the same direction."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths == 0, 1, lengths)
    return directions @ directions.T


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
