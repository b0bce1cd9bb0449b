"""Random operations on random tensors, each computed: `python -m tests.ggml.storm SEED STEPS`.

A child process takes the steps and writes each down before it is taken. If the child ends early, the last one is shown.
Nothing but an exception may come of any step.
"""

from __future__ import annotations

import inspect
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from random import Random
from typing import Any

import numpy as np

from llama_cffi import Ggml, LlamaError
from llama_cffi._generated.constructors import Constructors
from llama_cffi.ggml import convert

METHODS = {
    name: [parameter.annotation for parameter in list(inspect.signature(function).parameters.values())[1:]]
    for name, function in vars(Constructors).items()
    if name[0] != "_"
}
SIZES = (1, 1, 2, 3, 4, 5, 8, 32, 64, 256)
INTEGERS = (0, 1, 1, 1, 2, 2, 3, 4, 5, 8, 16, 32, 64, -1, 100, 1 << 20)
FLOATS = (0.0, 1.0, 0.5, -1.0, 1e-5, 1e30, float("inf"), float("nan"))
EXPECTED = (ValueError, TypeError, LlamaError, IndexError, OverflowError)


class Storm:
    """One run."""

    def __init__(self, seed: int, log: Any) -> None:
        self.random, self.log = Random(seed), log
        self.ctx = Ggml.Context()
        self.tensors: list[Ggml.Tensor] = []
        self.done = self.computed = 0

    def tensor(self) -> Ggml.Tensor:
        """A tensor of before, or a new one."""
        rng = self.random
        if self.tensors and rng.random() < 0.8:
            return rng.choice(self.tensors)
        shape = [rng.choice(SIZES) for _ in range(rng.choice((1, 2, 2, 2, 3, 4)))]
        while np.prod(shape) > 1 << 16:
            shape[shape.index(max(shape))] = 2
        kinds = [kind for kind in Ggml.Type if kind != Ggml.Type.COUNT]
        kind = rng.choice(kinds) if rng.random() < 0.25 else Ggml.Type.F32
        if rng.random() < 0.15:
            kind = Ggml.Type.I32
        try:
            if kind in (Ggml.Type.I32, Ggml.Type.I64, Ggml.Type.I16, Ggml.Type.I8):
                top = rng.choice((1, 2, 4, 100))
                values: Any = np.random.default_rng(rng.randrange(99)).integers(0, top, shape)
            else:
                values = np.random.default_rng(rng.randrange(99)).normal(size=shape).astype(np.float32)
                shape[-1] = max(shape[-1], 1)
            made = self.ctx.tensor(values, kind)
        except EXPECTED:
            made = self.ctx.tensor(np.ones(shape, np.float32))
        self.log.write(f"# {len(self.tensors)}: {made!r}\n")
        self.tensors.append(made)
        return made

    def argument(self, kind: str) -> Any:
        rng = self.random
        if kind.startswith("T"):
            return None if "None" in kind and rng.random() < 0.4 else self.tensor()
        if kind == "int":
            return rng.choice(INTEGERS)
        if kind == "float":
            return rng.choice(FLOATS)
        if kind == "bool":
            return rng.random() < 0.5
        if kind.startswith("Sequence"):
            return [rng.choice(INTEGERS) for _ in range(4)]
        return rng.choice(list(getattr(Ggml, kind.removeprefix("Ggml"))))

    def step(self) -> None:
        rng = self.random
        if len(self.tensors) > 60:
            self.ctx.free()
            self.ctx, self.tensors = Ggml.Context(noAlloc=rng.random() < 0.3), []
        name = rng.choice(list(METHODS))
        arguments = [self.argument(kind) for kind in METHODS[name]]
        self.log.write(f"{name}{tuple(arguments)!r}\n")
        self.log.flush()
        try:
            made = getattr(self.ctx, name)(*arguments)
        except EXPECTED:
            return
        self.done += 1
        if made.nElements > 1 << 20:
            return
        self.tensors.append(made)
        if rng.random() < 0.5:
            self.log.write("    compute\n")
            self.log.flush()
            try:
                Ggml.compute(made, nThreads=rng.choice((1, 2)))
                self.computed += 1
            except EXPECTED:
                self.tensors.remove(made)


def main(seed: int, steps: int) -> None:
    """Take the steps, in this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    with open(sys.argv[3], "w", encoding="utf-8") as log:
        storm = Storm(seed, log)
        for _ in range(steps):
            storm.step()
    print(f"{storm.done} operations made, {storm.computed} computed")


def run(seed: int, steps: int) -> tuple[int, str]:
    """Run in a child. Return its exit status, and what it printed or its last steps."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        done = subprocess.run(
            [sys.executable, "-m", "tests.ggml.storm", str(seed), str(steps), log],
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode == 0:
            return 0, done.stdout.strip()
        with open(log, encoding="utf-8") as lines:
            last = lines.read().splitlines()
        return done.returncode, "\n".join([*last[-12:], *done.stderr.splitlines()[-6:]])


if __name__ == "__main__":
    if len(sys.argv) == 4:
        main(int(sys.argv[1]), int(sys.argv[2]))
    else:
        first, count = int(sys.argv[1]), int(sys.argv[2])
        status, text = run(first, count)
        print(f"seed {first}: {status}\n{text}")
        sys.exit(status != 0)

assert convert  # imported before memory is limited
