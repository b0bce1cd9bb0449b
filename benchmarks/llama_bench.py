"""Runs llama-bench and other programs of llama.cpp with the library files that the facade uses.

ggml looks for backends in the program's folder, under fixed names. So a program is copied into a new folder with
links to the libraries in `llama_cffi/lib`: those that both callers link, the CPU module that the facade chose, and the
Vulkan module if it takes part. The program is started in that folder, which ggml searches too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.settings import Settings  # noqa: E402
from vendor.build.recipe import LINKED, SUFFIX  # noqa: E402

LIB = ROOT / "llama_cffi" / "lib"

HOW_TO = "`python benchmarks/build_llama_bench.py` builds it and prints its path"
HOW_TO_ALL = "`python benchmarks/build_llama_bench.py all` builds them and prints their paths"


class MeasurementError(RuntimeError):
    """A measuring program failed; the message has its output."""


@contextmanager
def staged(program: Path, cpu_module: Path, vulkan: bool, name: str = "llama-bench") -> Iterator[Path]:
    """Context manager: a temporary folder where `program`, under this name, finds these libraries and no others."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as path:
        folder = Path(path)
        linked = [f"lib{part}{SUFFIX}.so" for part in LINKED]
        links = {file: LIB / file for file in (*linked, "libgomp.so.1") if (LIB / file).is_file()}
        links["libggml-cpu.so"] = cpu_module
        if vulkan:
            links["libggml-vulkan.so"] = LIB / f"libggml-vulkan{SUFFIX}.so"
        for link, target in links.items():
            (folder / link).symlink_to(target.resolve(strict=True))
        shutil.copy2(program, folder / name)
        yield folder


def run(folder: Path, given: Settings) -> dict[str, Any]:
    """Measure a model. Returns the tokens per second of each run, and llama-bench's description of itself."""
    command = [str(folder / "llama-bench"), *given.for_llama_bench()]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        reason = "\n".join(result.stderr.splitlines()[-5:])
        raise MeasurementError(f"llama-bench failed with exit status {result.returncode}:\n{reason}")
    tests = json.loads(result.stdout)
    keep = ("build_commit", "cpu_info", "gpu_info", "backends", "devices", "model_type", "model_size", "model_n_params")
    return {
        "prompt": next(test["samples_ts"] for test in tests if test["n_prompt"]),
        "decode": next(test["samples_ts"] for test in tests if test["n_gen"]),
        **{key: tests[0][key] for key in keep},
    }
