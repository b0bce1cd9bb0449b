"""Compares the variants of the CPU backend: `python benchmarks/variants.py [MODEL ...] [--variants NAME ...]`.

The default variant and a plain AVX2 build (`haswell`), or others, are measured in turns, each time in a new process;
the order is reversed every round. The figures are medians of many short runs, and the fastest runs, which other load on
the machine disturbs less. `--variants all` compares every variant that runs here. `--threads 1 2 4` measures each model
with these numbers of threads. The default models are Gemma 3 270M from the `gemma` extra, and random ones in Q4_K, Q4_0
and Q8_0.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from benchmarks import models, offload, report, settings  # noqa: E402
from benchmarks.llama_bench import MeasurementError  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from llama_cffi import Ggml  # noqa: E402

_ROWS = (("prompt", "prompt"), ("decode", "generation, decode only"), ("greedy", "generation, greedy text"))

Rounds = list[dict[str, Any]]


def measure(given: Settings, variants: list[str], rounds: int) -> dict[str, Rounds]:
    """Measure the variants in turns. Returns the results of each, round by round."""
    results: dict[str, Rounds] = {variant: [] for variant in variants}
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            found = offload.facade(given, {"LLAMA_CFFI_CPU_VARIANT": variant})
            assert found["cpu_variant"] == variant
            results[variant].append(found)
        print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return results


def table(results: dict[str, Rounds], given: Settings) -> list[str]:
    """The tokens per second of each variant, and the ratios of the first one to each of the others."""
    first, *others = results
    count = len(results[first])
    lines = [
        f"{given.model.name}, {given.model.stat().st_size / 1e6:.0f} MB; prompt of {given.prompt} tokens, "
        f"{given.generate} generated, {given.threads} threads, flash attention {given.flash_attn}; "
        f"{count} rounds of {given.runs} runs",
        f"{'tokens per second, medians':28}" + "".join(f"{name:>16}" for name in results),
    ]
    for test, title in _ROWS:
        lines.append(f"{title:28}" + "".join(f"{offload.median(rounds, test):16,.1f}" for rounds in results.values()))
        lines.append(
            f"{'  fastest run':28}" + "".join(f"{_fastest(rounds, test):16,.1f}" for rounds in results.values())
        )
    for other in others:
        lines.append(f"{f'{first} to {other}, ratios':28}{'medians':>16}{'fastest runs':>16}{'median of rounds':>20}")
        for test, title in _ROWS:
            medians = offload.median(results[first], test) / offload.median(results[other], test)
            fastest = _fastest(results[first], test) / _fastest(results[other], test)
            pairs = zip(results[first], results[other], strict=True)
            by_rounds = statistics.median(statistics.median(a[test]) / statistics.median(b[test]) for a, b in pairs)
            lines.append(f"{title:28}{medians:16.3f}{fastest:16.3f}{by_rounds:20.3f}")
    return lines


def _fastest(rounds: Rounds, test: str) -> float:
    return max(float(speed) for measured in rounds for speed in measured[test])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument(
        "--variants", nargs="+", default=["haswell"], help="variants to compare with; `all`: all that run"
    )
    report.add_arguments(parser, rounds=9)
    parser.add_argument("--threads", nargs="+", type=int, default=[Settings.threads])
    settings.add_arguments(parser, without=("devices", "threads"))
    parser.set_defaults(prompt=128, generate=16, runs=3, devices="none")
    arguments = parser.parse_args()
    runnable = [variant.name for variant in Ggml.Backend.cpuVariants() if variant.runs]
    others = runnable[1:] if arguments.variants == ["all"] else arguments.variants
    unknown = [name for name in others if name not in runnable]
    if unknown or not runnable:
        sys.exit(f"error: {', '.join(unknown)} cannot run here: expected some of {', '.join(runnable) or 'none'}")
    variants = list(dict.fromkeys([runnable[0], *others]))
    about = report.machine()
    lines = report.heading("The variants of the CPU backend", about)
    lines.append(f"default: {runnable[0]}; able to run here, best first: {', '.join(runnable)}")
    print("\n".join(lines), flush=True)
    figures: dict[str, dict[str, Rounds]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, threads in product(arguments.models or _models(Path(folder)), arguments.threads):
            given = replace(settings.from_arguments(arguments, model.resolve()), threads=threads)
            name = f"{model.name}, {threads} threads"
            print(name, file=sys.stderr, flush=True)
            figures[name] = measure(given, variants, arguments.rounds)
            found = ["", *table(figures[name], given)]
            print("\n".join(found), flush=True)
            lines += found
            if arguments.out is not None:  # after each model, so that an interrupted run keeps its results
                file = f"{about['processor']} cpu variants {arguments.label}"
                report.write(arguments.out, file, lines, {"machine": about, "variants": figures})


def _models(folder: Path) -> list[Path]:
    import default_model

    random = (("1.2B", "Q4_K"), ("60M", "Q4_0"), ("60M", "Q8_0"))
    return [default_model.path(), *(models.write(folder, size, quant) for size, quant in random)]


if __name__ == "__main__":
    try:
        main()
    except MeasurementError as error:
        sys.exit(f"error: {error}")
