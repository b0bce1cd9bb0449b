"""Measures imports, builds and the generator: `python benchmarks/measure.py` (in the project's .venv).

Each figure is a median of several runs, and depends on the machine.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def import_time(statement: str, runs: int = 20) -> float:
    """Seconds for an import in a new interpreter, with the files in the page cache."""
    command = [sys.executable, "-c", IMPORT.format(statement)]
    seconds = [float(subprocess.check_output(command)) for _ in range(runs + 1)]
    return statistics.median(seconds[1:])


def wall(command: list[str], runs: int) -> float:
    """Seconds that a command takes."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def regenerate() -> None:
    """Generate every file from the headers, in memory."""
    from codegen import __main__ as codegen, generate
    from codegen.api import snapshot

    generate.generate(snapshot.loads(snapshot.dumps(codegen.read_headers())))


def timed(function: Callable[[], object], runs: int) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def generation(n: int = 64, runs: int = 5) -> tuple[float, float]:
    """Tokens per second of a greedy loop on Gemma, through the facade and over raw `lib`, in turns."""
    import default_model

    from llama_cffi import Batch, Context, Model, Sampler, ffi, lib, tokenize

    with Model.load(default_model.path()) as model:
        prompt = tokenize(model.vocab, "The capital of France is")

        def facade() -> None:
            with (
                Context.initFromModel(model, Context.Params(nCtx=256, nThreads=2, nThreadsBatch=2)) as ctx,
                Sampler.initGreedy() as sampler,
            ):
                ctx.decode(Batch.getOne(prompt))
                started = time.perf_counter()
                for _ in range(n):
                    token = sampler.sample(ctx, -1)
                    model.vocab.isEog(token)
                    ctx.decode(Batch.getOne([token]))
                rates[0].append(n / (time.perf_counter() - started))

        def raw() -> None:
            params = lib.llama_context_default_params()
            params.n_ctx, params.n_threads, params.n_threads_batch = 256, 2, 2
            ctx, sampler = lib.llama_init_from_model(model._c, params), lib.llama_sampler_init_greedy()
            tokens = ffi.new("llama_token[]", prompt)
            lib.llama_decode(ctx, lib.llama_batch_get_one(tokens, len(prompt)))
            started = time.perf_counter()
            for _ in range(n):
                tokens[0] = lib.llama_sampler_sample(sampler, ctx, -1)
                lib.llama_vocab_is_eog(model.vocab._c, tokens[0])
                lib.llama_decode(ctx, lib.llama_batch_get_one(tokens, 1))
            rates[1].append(n / (time.perf_counter() - started))
            lib.llama_sampler_free(sampler)
            lib.llama_free(ctx)

        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs):
            facade()
            raw()
    return statistics.median(rates[0]), statistics.median(rates[1])


def main() -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--editable", "."]
    print(f"Python {platform.python_version()}, {platform.machine()}", flush=True)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "llama_cffi")], check=True)
    for statement in ("from llama_cffi import lib", "from llama_cffi import *"):
        print(f"{statement}: {import_time(statement) * 1e3:.0f} ms", flush=True)
    print(f"headers to generated files: {timed(regenerate, 3):.1f} s", flush=True)
    print(f"generated files checked: {wall([sys.executable, '-m', 'codegen', 'check'], 3):.1f} s", flush=True)
    print(f"rebuild with nothing changed (make build): {wall(['make', 'build'], 3):.1f} s", flush=True)
    print(f"reinstall with nothing changed (pip install -e .): {wall(pip, 3):.1f} s", flush=True)
    facade, raw = generation()
    print(f"greedy loop on Gemma 3 270M: facade {facade:.1f} tokens/s, raw lib {raw:.1f} (ratio {facade / raw:.3f})")


if __name__ == "__main__":
    main()
