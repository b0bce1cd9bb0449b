"""`python -m tests.aarch64 WHEEL`: CPU variants, the text of a model, and the tests, on emulated processors.

Takes a quarter of an hour. `--tests` names other tests, and `--no-tests` leaves them out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import tiny_models
from tests.aarch64.machine import ROOT, Machine
from vendor.source import fetch
from vendor.tools import BuildError

# QEMU's processors, and the variant that ggml is to choose on each.
PROCESSORS = {
    "cortex-a53": "armv8.0_1",  # neither dotprod nor fp16
    "a64fx": "armv8.0_1",  # SVE and fp16, but no dotprod, which every better variant needs
    "cortex-a76": "armv8.2_2",  # dotprod and fp16
    "neoverse-n1": "armv8.2_2",
    "neoverse-v1": "armv8.6_1",  # and SVE and i8mm
    "neoverse-n2": "armv8.6_2",  # and SVE2
    "max": "armv8.6_2",
}

TESTS = ("tests/unit", "tests/contract", "tests/api")

_CHOICE = """
import json
from llama_cffi import Ggml
print(json.dumps([[v.name, v.score] for v in Ggml.Backend.cpuVariants() if v.score > 0]))
"""

_TEXT = """
import json, sys
from llama_cffi import *
Ggml.Backend.cpuLoad()
with Model.load(sys.argv[1]) as model, Context.initFromModel(model, Context.Params(nCtx=256, nThreads=2)) as ctx:
    greedy, tokens = Sampler.initGreedy(), tokenize(model.vocab, "The sea is blue, and")
    ctx.decode(Batch.getOne(tokens))
    ids = []
    for _ in range(48):
        ids.append(greedy.sample(ctx, -1))
        ctx.decode(Batch.getOne([ids[-1]]))
print(json.dumps(ids))
"""


def choices(machine: Machine) -> int:
    """Print the variant that is chosen on each processor. Returns how many are wrong."""
    wrong = 0
    for processor, expected in PROCESSORS.items():
        runs = json.loads(machine.run(["-c", _CHOICE], processor))
        found = max(runs, key=lambda row: row[1])[0]
        wrong += found != expected
        others = ", ".join(name for name, _ in runs)
        print(f"{processor:14} {found:10} {'ok' if found == expected else f'WRONG, not {expected}'} (of {others})")
    return wrong


def texts(machine: Machine, work: Path) -> int:
    """Print if each variant continues a text as this machine does. Returns how many differ."""
    vocab = fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf"
    spec = dataclasses.replace(tiny_models.LLAMA, quant="F32")
    model = str(tiny_models.write_llama(work / "f32.gguf", vocab, spec))
    command = [sys.executable, "-c", _TEXT, model]
    here = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    wrong = 0
    for variant in sorted(set(PROCESSORS.values()) | {"armv8.2_1", "armv8.2_3"}):
        same = machine.run(["-c", _TEXT, model], "max", variant) == here
        wrong += not same
        print(f"{variant:14} {len(json.loads(here))} tokens, greedy, F32: {'the same' if same else 'DIFFERENT'}")
    return wrong


def tests(machine: Machine, names: list[str], limit: int) -> int:
    """Run tests; 1 if some failed, or if they took longer than `limit` seconds."""
    command = machine.command("-m", "pytest", "-q", "-p", "no:cacheprovider", *names)
    try:
        return subprocess.run(command, cwd=machine.tree, env=machine.environment("max"), timeout=limit).returncode
    except subprocess.TimeoutExpired:
        print(f"the tests were stopped after {limit} s")
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.aarch64", description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="the wheel for aarch64")
    parser.add_argument("--tests", nargs="+", default=TESTS, help=f"the tests to run (default: {' '.join(TESTS)})")
    parser.add_argument("--no-tests", action="store_true", help="only look at the variants and the text")
    parser.add_argument("--limit", type=int, default=3600, help="seconds for the tests (default: %(default)s)")
    args = parser.parse_args()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as name:
            machine = Machine(Path(name), args.wheel.resolve(strict=True))
            wrong = choices(machine) + texts(machine, Path(name))
            failed = 0 if args.no_tests else tests(machine, list(args.tests), args.limit)
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
