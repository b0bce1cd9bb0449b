"""`python -m llama_cffi embed`: turn texts into vectors."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from llama_cffi._core.atomic_write import atomic_write
from llama_cffi._generated.enums import PoolingType
from llama_cffi._host.resources import usable_cpus
from llama_cffi.cli import options, output
from llama_cffi.embedding.embedding import Embedder

_POOLINGS = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "last": PoolingType.LAST}


def main(argv: Sequence[str]) -> int:
    """Embed texts. Returns 1 where that fails; wrong arguments are status 2."""
    parser = options.parser("embed", "Turns texts into vectors: each is a line of numbers on stdout.")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="a text; a single - reads one of each line of stdin")
    parser.add_argument("--pooling", choices=_POOLINGS, help="how a text becomes one vector (default: the model's own)")
    parser.add_argument("--no-normalize", action="store_true", help="leave the vectors as long as they are")
    parser.add_argument("--truncate", action="store_true", help="cut off what is too long of a text")
    parser.add_argument(
        "--similarities", action="store_true", help="print how similar each is to each, in place of them"
    )
    parser.add_argument("--output", metavar="FILE.npy", help="write the vectors to a file of numpy's, and print none")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-q", "--quiet", action="store_true", help="no bar, no speeds")
    parser.add_argument("-c", "--ctx", type=options.whole(1), metavar="N", help="how many tokens a text may have")
    parser.add_argument(
        "-b", "--batch", type=options.whole(1), metavar="N", help="how many tokens are computed at once"
    )
    parser.add_argument("-t", "--threads", type=options.whole(1, 512), metavar="N", help="default: one for each CPU")
    options.add_model(parser)
    args = parser.parse_args(argv)
    return output.guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    texts = args.texts
    if texts == ["-"]:
        texts = options.read_text("-").splitlines()
        if not texts:
            raise output.Refused("stdin is empty: write a text on each line")
    model, loaded = options.load(args)
    pooling = _POOLINGS[args.pooling] if args.pooling else None
    with (
        model,
        Embedder(
            model,
            pooling,
            nCtx=args.ctx,
            nBatch=args.batch,
            nThreads=args.threads or usable_cpus(),
            normalize=not args.no_normalize,
        ) as embedder,
    ):
        started = time.perf_counter()
        vectors = embedder.embed(texts, truncate=args.truncate)
        seconds = time.perf_counter() - started
        used = embedder.poolingType.name.lower()
    _show(args, texts, vectors, used)
    if not args.quiet:
        many = f"{len(texts)} texts" if len(texts) > 1 else "1 text"
        output.say(f"loaded in {loaded:.1f} s; {many} in {seconds:.2f} s")
    return 0


def _show(args: argparse.Namespace, texts: Sequence[str], vectors: Any, pooling: str) -> None:
    similar = _similarities(vectors) if args.similarities else None
    if args.output:
        import numpy as np

        with atomic_write(os.path.abspath(args.output)) as scratch, open(scratch, "wb") as file:
            np.save(file, vectors)
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
    """Cosines: 1 where two texts point the same way."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths == 0, 1, lengths)
    return directions @ directions.T


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
