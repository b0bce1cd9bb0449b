"""Measures a matrix product: `python benchmarks/matmul.py [--size N] [--rounds N] [--out FOLDER]`.

N x N weights, in F32 and in Q8_0, times N x N floats: by `Ggml.compute`, whose time includes the graph, the memory and
the copy of the result; by a C program with the same library files, which computes a graph that is ready and copies the
result; and by numpy, with weights in F32 always. In each round all three compute once. Prints the median of each, and
the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from benchmarks.contest import yardstick  # noqa: E402
from llama_cffi import Ggml, version  # noqa: E402
from llama_cffi._host.resources import usable_cpus  # noqa: E402

_SOURCE = Path(__file__).with_suffix(".c")
TYPES = (Ggml.Type.F32, Ggml.Type.Q8_0)


class Program:
    """The C program, which waits for a line to compute."""

    def __init__(self, folder: Path, kind: Ggml.Type, size: int, threads: int) -> None:
        variant = Ggml.Backend.cpuVariant()
        assert variant is not None, "the CPU backend is not loaded"
        words = [variant.path, folder / "weights", folder / "input", size, int(kind), threads]
        self._process = subprocess.Popen(
            [yardstick.executable(_SOURCE), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def compute(self) -> tuple[float, float]:
        """Return the seconds and the last number of the result."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds, last = map(float, self._process.stdout.readline().split())
        return seconds, last

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def measure(kind: Ggml.Type, size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Measure one type of weights, after a round for the caches."""
    rng = np.random.default_rng(0)
    weights, given = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    sides: dict[str, list[float]] = {"compute": [], "c": [], "numpy": []}
    with tempfile.TemporaryDirectory() as name, Ggml.Context() as ctx:
        w, x = ctx.tensor(weights, kind), ctx.tensor(given)
        Path(name, "weights").write_bytes(w.data)
        Path(name, "input").write_bytes(x.data)
        product = ctx.mulMat(w, x)
        program = Program(Path(name), kind, size, threads)
        for number in range(rounds + 1):
            ours, result = timed(lambda: Ggml.compute(product, nThreads=threads))
            c, last = program.compute()
            numpys, expected = timed(lambda: given @ weights.T)
            assert result[-1, -1] == np.float32(last), "both compute the same"
            assert abs(result - expected).max() < 0.05 * abs(expected).max(), "numpy computes something else"
            if number:
                for side, seconds in zip(sides.values(), (ours, c, numpys), strict=True):
                    side.append(seconds)
        program.close()
    ratios = [c / ours for c, ours in zip(sides["c"], sides["compute"], strict=True)]
    medians = {side: statistics.median(seconds) for side, seconds in sides.items()}
    return {"type": kind.name, "ratio": statistics.median(ratios), "rounds": sides, **medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, metavar="N", help="rows and columns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cpus(), metavar="N", help="of ggml (default: all CPUs)")
    report.add_arguments(parser, rounds=5)
    given = parser.parse_args()
    Ggml.Backend.ensureCpu()
    found = [measure(kind, given.size, given.rounds, given.threads) for kind in TYPES]
    work = 2 * given.size**3 / 1e9
    lines = [
        "| weights | Ggml.compute | C | numpy | Ggml.compute beside C |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {one['type']} | "
            + " | ".join(
                f"{one[side] * 1e3:.1f} ms ({work / one[side]:.0f} GFLOPS)" for side in ("compute", "c", "numpy")
            )
            + f" | {one['ratio']:.3f} |"
            for one in found
        ),
    ]
    print("\n".join(lines))
    about = {**report.machine(), "llama.cpp": version(), "size": given.size, "threads": given.threads}
    if given.out:
        title = f"Matrix product of {given.size} x {given.size}, {given.threads} threads"
        report.write(
            given.out,
            f"matmul {given.label}",
            [*report.heading(title, about), *lines],
            {"about": about, "cases": found},
        )


if __name__ == "__main__":
    main()
