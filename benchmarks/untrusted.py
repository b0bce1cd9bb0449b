"""Measures the cost of `Model.load(..., untrusted=True)`: `python benchmarks/untrusted.py [MODEL ...]`.

Loads each model several times in turns: by default, read into memory, and untrusted. Prints the medians of the wall
time and of the CPU time, child processes included. The default models are Gemma 3 270M from the `gemma` extra and a
random-weight Llama of 3 MB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llama_cffi import LoadMode, Model
from llama_cffi.model.validation import ModelFile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.models or _models(Path(folder)):
            print(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB, median of {arguments.runs}:")
            for name, (wall, cpu) in _medians(path, arguments.runs).items():
                print(f"  {name:32}{1000 * wall:9.1f} ms, CPU {1000 * cpu:9.1f} ms")


def _models(folder: Path) -> list[Path]:
    import default_model

    from tests import tiny_models
    from vendor.source import fetch

    vocabulary = fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf"
    return [default_model.path(), tiny_models.write_llama(folder / "random-llama.gguf", vocabulary)]


def _medians(path: Path, runs: int) -> dict[str, tuple[float, float]]:
    ways: dict[str, Callable[[], object]] = {
        "the validation before every load": lambda: ModelFile.inspect([bytes(path)], None, False),
        "load": lambda: Model.load(path).free(),
        "load, loadMode=NONE": lambda: Model.load(path, Model.Params(loadMode=LoadMode.NONE)).free(),
        "load, untrusted=True": lambda: Model.load(path, untrusted=True).free(),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, use in ways.items():
            wall, cpu = time.perf_counter(), _cpu_time()
            use()
            if run:  # the first round fills the page cache
                times[name].append((time.perf_counter() - wall, _cpu_time() - cpu))
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values))
        for name, values in times.items()
    }


def _cpu_time() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
