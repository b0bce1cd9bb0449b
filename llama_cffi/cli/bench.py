"""`llama-cffi bench`: measure the speed of a model on this machine."""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from llama_cffi._core.argparse_types import integer
from llama_cffi._core.command_parser import CommandParser
from llama_cffi._host.resources import usable_cpus
from llama_cffi.cli import options, output
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.ggml.backend import Backend
from llama_cffi.model.model import Model
from llama_cffi.model.placement import is_on_cpu, spread_over
from llama_cffi.sampling.sampler import Sampler
from llama_cffi.system import version

_TESTS = {
    "prompt": "process a prompt",
    "decode": "decode random tokens one by one",
    "generate": "generate greedily",
}


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "bench", "Measure the speed of a model on this machine, in tokens per second.", "bench -m model.gguf"
    )
    parser.add_argument(
        "-p", "--prompt", type=integer(1), default=512, metavar="N", help="tokens of the prompt (default: %(default)s)"
    )
    parser.add_argument(
        "-n",
        "--tokens",
        type=integer(1),
        default=64,
        metavar="N",
        help="tokens to decode and to generate (default: %(default)s)",
    )
    parser.add_argument(
        "-r", "--runs", type=integer(1, 1000), default=3, metavar="N", help="runs of each test (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options.add_model(parser)
    options.add_context(parser, sized=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Measure and print a table. Returns 0, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    return output.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    model, loaded = options.load(args)
    with model:
        if not model.hasDecoder:
            raise output.CommandError("this model has no decoder: bench measures text generation")
        params = options.model_params(args)
        variant = Backend.cpuVariant()
        found = {
            "model": model.desc(),
            "size": model.size,
            "parameters": model.nParams,
            "load_seconds": loaded,
            "threads": args.threads or usable_cpus(),
            "devices": [] if is_on_cpu(params) else [device.name for device in spread_over(params)],
            "cpu_variant": variant.name if variant else None,
            "llama_cpp": version(),
            "prompt_tokens": args.prompt,
            "generated_tokens": args.tokens,
            "tokens_per_second": _measure(model, args),
        }
    if args.json:
        output.write_json(found)
    else:
        output.write(_table(found))
    return 0


def _table(found: dict[str, Any]) -> str:
    """The figures of a run as text."""
    variant = found["cpu_variant"]
    devices = ", ".join([*found["devices"], f"CPU ({variant})" if variant else "CPU"])
    rows = [["", "tokens", "tokens/s", "slowest", "fastest"]]
    for name, values in found["tokens_per_second"].items():
        count = found["prompt_tokens" if name == "prompt" else "generated_tokens"]
        shown = (f"{value:,.1f}" for value in (statistics.median(values), min(values), max(values)))
        rows.append([_TESTS[name], str(count), *shown])
    heading = f"{found['model']}, {output.size(found['size'])}; {devices}, {found['threads']} threads"
    return f"{heading}\n{output.table(rows)}\n"


def _measure(model: Model, args: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of each run of each test; the warm-up is left out."""
    rng = random.Random(1)
    prompt, tokens = ([rng.randrange(model.vocab.nTokens) for _ in range(n)] for n in (args.prompt, args.tokens))
    progress = output.Progress("measuring", "")
    steps = 3 * (args.runs + 1)
    speeds: dict[str, list[float]] = {}
    try:
        with Sampler.initGreedy() as sampler:
            tests: dict[str, tuple[int, Callable[[Context], object]]] = {
                "prompt": (len(prompt), lambda ctx: _read(ctx, prompt)),
                "decode": (len(tokens), lambda ctx: _decode(ctx, tokens)),
                "generate": (len(tokens), lambda ctx: _generate(ctx, sampler, len(tokens))),
            }
            for done, (name, (count, test)) in enumerate(tests.items()):
                with Context.initFromModel(model, options.context_params(args, model.nCtxTrain, count + 1)) as ctx:
                    values = []
                    for run in range(args.runs + 1):
                        progress((done * (args.runs + 1) + run) / steps)
                        ctx.getMemory().clear(False)
                        started = time.perf_counter()
                        test(ctx)
                        ctx.synchronize()
                        values.append(count / (time.perf_counter() - started))
                speeds[name] = values[1:]
    finally:
        progress.end()
    return speeds


def _read(ctx: Context, tokens: list[int]) -> None:
    for start in range(0, len(tokens), ctx.nBatch):
        ctx.decode(Batch.getOne(tokens[start : start + ctx.nBatch]))


def _decode(ctx: Context, tokens: list[int]) -> None:
    for token in tokens:
        ctx.decode(Batch.getOne([token]))
        ctx.synchronize()


def _generate(ctx: Context, sampler: Sampler, count: int) -> None:
    token = max(ctx.getModel().vocab.bos, 0)
    for _ in range(count):
        ctx.decode(Batch.getOne([token]))
        token = sampler.sample(ctx, -1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
