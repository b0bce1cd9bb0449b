"""Measures reading all tensors of a quantized file: `python benchmarks/gguf_files.py [MODEL ...] [--rounds N]`.

All tensors are dequantized to float32, one after the other, by `Ggml.Gguf` and by gguf-py in turns. Prints the seconds
and CPU seconds of each side, and the median of the ratios of the rounds. The default model is a random Llama of 250 MB
in Q8_0. An array that is dropped leaves its memory to the next one; whoever keeps all arrays pays for new pages too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import models  # noqa: E402
from llama_cffi import Ggml  # noqa: E402

Clock = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", nargs="+", choices=[*models.FORMATS], default=["Q8_0"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.models or [models.write(Path(folder), "240M", kind) for kind in arguments.types]
        for path in given:
            check(path)  # this also fills the page cache
            rounds = [compare(path) for _ in range(arguments.rounds)]
            print(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB, {arguments.rounds} rounds:")
            for name, index in (("Ggml.Gguf", 0), ("gguf-py", 1)):
                wall, cpu = (statistics.median(one[index][i] for one in rounds) for i in (0, 1))
                print(f"  {name:12}{wall:8.2f} s, CPU {cpu:8.2f} s")
            for name, i in (("wall time", 0), ("CPU time", 1)):
                print(f"  gguf-py takes {statistics.median(b[i] / a[i] for a, b in rounds):.1f} times the {name}")


def compare(path: Path) -> tuple[Clock, Clock]:
    """Read all tensors with both, one file after the other. Returns the wall and CPU seconds of each."""
    return timed(lambda: ours(path)), timed(lambda: theirs(path))


def ours(path: Path) -> None:
    with Ggml.Gguf.open(path) as file:
        for tensor in file.tensors.values():
            tensor.numpy(dequantize=True)


def theirs(path: Path) -> None:
    for tensor in gguf.GGUFReader(path).tensors:
        gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def timed(call: Callable[[], object]) -> Clock:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def check(path: Path) -> None:
    """Both read the same numbers."""
    with Ggml.Gguf.open(path) as file:
        for other in gguf.GGUFReader(path).tensors:
            found = file.tensors[other.name].numpy(dequantize=True)
            expected = gguf.quants.dequantize(other.data, other.tensor_type).reshape(found.shape)
            assert np.array_equal(found, expected), other.name


if __name__ == "__main__":
    main()
