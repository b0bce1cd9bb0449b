"""Measures a model split over two devices, in every way: `python benchmarks/split.py MODEL --llama-bench PROGRAM`.

Each way is compared with llama-bench as in `benchmarks/offload.py`. The report says how much memory each device holds,
and whether the greedy text equals that of one device. A way that llama.cpp refuses is listed with its reason.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import llama_bench, offload, settings  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402


def ways(given: Settings) -> dict[str, Settings]:
    """The settings of each way, the single device first."""
    first = given.devices.split(",")[0]
    return {
        "one device": replace(given, devices=first),
        "by layers": replace(given, split_mode="layer"),
        "by layers, in shares of 3 to 1": replace(given, split_mode="layer", tensor_split="3/1"),
        "all on the second": replace(given, split_mode="none", main_gpu=1),
        "by rows": replace(given, split_mode="row"),
        "by tensors": replace(given, split_mode="tensor", flash_attn="on"),
    }


def same_text(tokens: list[int], expected: list[int]) -> str:
    """Compare the greedy text with that of one device, in words."""
    equal = next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b), len(expected))
    return "the same greedy text" if equal == len(expected) else f"the same greedy text for {equal} tokens"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    offload.add_arguments(parser, rounds=3)
    settings.add_arguments(parser, without=("devices", "split_mode", "main_gpu", "tensor_split"))
    parser.add_argument("--devices", default="Vulkan0,Vulkan1", help="the two devices (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.split_mode, arguments.main_gpu, arguments.tensor_split = "layer", 0, ""
    made = offload.Report(arguments, "A model on two devices")
    expected: list[int] = []
    with llama_bench.staged(offload.program(arguments), offload.cpu_module(), vulkan=True) as folder:
        for way, given in ways(settings.from_arguments(arguments, arguments.model.resolve())).items():
            print(way, file=sys.stderr, flush=True)
            try:
                found = offload.compare(folder, given, arguments.rounds)
            except llama_bench.MeasurementError as error:
                made.say(["", f"{way}: {error}"])
                continue
            tokens = found["facade"][0]["greedy_tokens"]
            expected = expected or tokens
            made.add(way, found, [f"{way}: {same_text(tokens, expected)}", *offload.table(found, given)])
    made.write()


if __name__ == "__main__":
    main()
