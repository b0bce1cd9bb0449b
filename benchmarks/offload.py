"""Compares the facade with llama-bench over the same libraries: `python benchmarks/offload.py MODEL ...`.

Each model is measured with each setting of flash attention. The facade and llama-bench take turns, each time in a new
process, and the order is reversed every round. The figures are medians over all runs of all rounds. With `--out`, the
report and all raw figures are written to DIR/DATE-DEVICE.txt and .json.

`--devices none` compares on the CPU; `--devices Vulkan0,Vulkan1 --split-mode layer` spreads a model over two GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import llama_bench, report, settings  # noqa: E402
from benchmarks.llama_bench import MeasurementError  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from llama_cffi import Ggml  # noqa: E402

_ROWS = (
    ("prompt", "prompt"),
    ("decode", "generation, decode only"),
    ("raw_decode", "the same over raw lib"),
    ("greedy", "generation, greedy text"),
    ("raw", "the same over raw lib"),
)


def compare(folder: Path, given: Settings, rounds: int) -> dict[str, Any]:
    """Measure the two in turns. Returns the raw results of every round."""
    results: dict[str, list[dict[str, Any]]] = {"facade": [], "llama-bench": []}
    for number in range(rounds):
        pair = ["facade", "llama-bench"]
        for name in pair if number % 2 == 0 else reversed(pair):
            results[name].append(facade(given) if name == "facade" else llama_bench.run(folder, given))
            print(f"  round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
    return {"settings": asdict(given) | {"model": given.model.name}, **results}


def facade(given: Settings, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Measure the facade in a new process, as llama-bench is; `environment` is added to this process's environment."""
    command = [sys.executable, str(Path(__file__).with_name("speed.py")), *given.arguments()]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if result.returncode != 0:
        reason = "\n".join(result.stderr.splitlines()[-5:])
        raise MeasurementError(f"benchmarks/speed.py failed with exit status {result.returncode}:\n{reason}")
    measured: dict[str, Any] = json.loads(result.stdout)
    return measured


def table(compared: dict[str, Any], given: Settings) -> list[str]:
    """The medians as lines of text, and the memory used by device."""
    first, bench = compared["facade"][0], compared["llama-bench"][0]
    rounds = len(compared["facade"])
    lines = [
        f"{given.model.name}: {bench['model_n_params'] / 1e9:.3f} B parameters, {bench['model_size'] / 1e9:.3f} GB",
        f"devices {given.devices}, split mode {given.split_mode}, main GPU {given.main_gpu}, flash attention "
        f"{given.flash_attn}, cache {given.type_k}/{given.type_v}, {given.threads} threads, ubatch {given.ubatch}; "
        f"{rounds} rounds of {given.runs} runs, without the first {given.skip} of each",
        f"{'tokens per second, medians':36}{'facade':>12}{'llama-bench':>14}{'ratio':>8}",
    ]
    for test, title in _ROWS:
        count, other = (given.prompt, "prompt") if test == "prompt" else (given.generate, "decode")
        ours = median(compared["facade"], test, given.skip)
        theirs = median(compared["llama-bench"], other, given.skip)
        lines.append(f"{f'{title}, {count} tokens':36}{ours:12,.1f}{theirs:14,.1f}{ours / theirs:8.3f}")
    for part in ("model", "context"):
        taken = ", ".join(f"{name} {count / 1e6:,.0f} MB" for name, count in first[f"bytes_of_the_{part}"].items())
        lines.append(f"free memory that the {part} took: {taken}")
    lines += [f"  {line.strip()}" for line in first["log"] if "buffer size" in line]
    lines.append(f"first greedy tokens: {' '.join(map(str, first['greedy_tokens'][:24]))}")
    return lines


def median(rounds: list[dict[str, Any]], test: str, skip: int = 0) -> float:
    """The median of tokens per second over all rounds, without the first `skip` runs of each."""
    return statistics.median(float(speed) for measured in rounds for speed in measured[test][skip:])


def add_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add the options of a comparison; `rounds` is the default of --rounds."""
    report.add_arguments(parser, rounds)
    parser.add_argument("--llama-bench", type=Path, help=f"the program; {llama_bench.HOW_TO}")


def program(arguments: argparse.Namespace) -> Path:
    """The llama-bench that --llama-bench names; exits if it does not exist."""
    path: Path | None = arguments.llama_bench
    if path is None or not path.is_file():
        sys.exit(f"error: --llama-bench must name a file, got {path}; {llama_bench.HOW_TO}")
    return path


def cpu_module() -> Path:
    """The module of the CPU backend that the facade chooses on this machine."""
    Ggml.Backend.cpuLoad()
    variant = Ggml.Backend.cpuVariant()
    assert variant is not None
    return variant.path


def backends(compared: dict[str, Any]) -> list[str]:
    """The backends and devices of both: a difference would invalidate the comparison."""
    first, bench = compared["facade"][0], compared["llama-bench"][0]
    vulkan = [line for line in first["log"] if re.match(r"ggml_vulkan: \d", line)]
    theirs = f"llama-bench: {bench['backends']}; {bench['cpu_info']}; {bench['gpu_info']}"
    return [f"facade: CPU variant {first['cpu_variant']}; {'; '.join(first['devices'])}", theirs, *vulkan]


class Report:
    """The report. Each addition rewrites the files of --out, so that an interrupted run keeps its results."""

    def __init__(self, arguments: argparse.Namespace, title: str) -> None:
        self._out: Path | None = arguments.out
        self._label: str = arguments.label
        self._about = report.machine()
        self._lines: list[str] = []
        self._compared: dict[str, dict[str, Any]] = {}
        self.say(report.heading(title, self._about))

    def say(self, lines: list[str]) -> None:
        """Print lines and add them to the file."""
        print("\n".join(lines), flush=True)
        self._lines += lines

    def add(self, name: str, compared: dict[str, Any], lines: list[str]) -> None:
        """Add a comparison; the backends of both are printed before the first one."""
        self.say([*(() if self._compared else backends(compared)), "", *lines])
        self._compared[name] = compared
        self.write()

    def write(self) -> None:
        """Write the files if --out was given and there are results."""
        if self._out is not None and self._compared:
            device = next(iter(self._compared.values()))["facade"][0]["devices"][-1].split(": ", 1)[1]
            figures = {"machine": self._about, "compared": self._compared}
            report.write(self._out, f"{device} {self._label}", self._lines, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    add_arguments(parser, rounds=5)
    parser.add_argument("--flash-attn", nargs="+", choices=settings.SWITCH, default=["on", "off"])
    settings.add_arguments(parser, without=("flash_attn",))
    arguments = parser.parse_args()
    made = Report(arguments, "The facade beside llama-bench")
    with llama_bench.staged(program(arguments), cpu_module(), arguments.devices != "none") as folder:
        for model, flash in product(arguments.models, arguments.flash_attn):
            given = replace(settings.from_arguments(arguments, model.resolve()), flash_attn=flash)
            name = f"{model.name}, flash attention {flash}"
            print(name, file=sys.stderr, flush=True)
            found = compare(folder, given, arguments.rounds)
            made.add(name, found, table(found, given))


if __name__ == "__main__":
    try:
        main()
    except MeasurementError as error:
        sys.exit(f"error: {error}")
