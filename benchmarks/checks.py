"""Measures what the facade's checks cost per call: `python benchmarks/checks.py` (in the project's .venv).

Times `ctx.decode` of one token and `sampler.sample` through the facade, and the same calls over raw `lib`, which has
the guard but not the checks. The two take turns, call by call, on the smallest random model with a vocabulary of 32,000
tokens and one thread. The cost is the median of their differences.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llama_cffi import Batch, Context, Model, Sampler, ffi, lib  # noqa: E402
from tests import tiny_models  # noqa: E402
from vendor.source import fetch  # noqa: E402

CALLS = 4000


def nanoseconds(facade: Callable[[], object], raw: Callable[[], object], before: Callable[[int], None]) -> list[float]:
    """The median times of the facade's calls and of the raw ones, and the median difference within each pair."""
    times: tuple[list[int], list[int]] = ([], [])
    for number in range(CALLS):
        before(number)
        pair = (facade, raw) if number % 2 else (raw, facade)
        for call in pair:
            started = time.perf_counter_ns()
            call()
            times[call is raw].append(time.perf_counter_ns() - started)
    differences = [a - b for a, b in zip(*times, strict=True)]
    return [statistics.median(times[0]), statistics.median(times[1]), statistics.median(differences)]


def report(name: str, figures: list[float]) -> None:
    facade, raw, difference = figures
    print(f"{name:32}{facade:12,.0f}{raw:12,.0f}{difference:12,.0f}", flush=True)


def main() -> None:
    vocab = fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf"
    with tempfile.TemporaryDirectory() as folder:
        spec = tiny_models.TinySpec(n_layer=1, n_embd=32, n_head=1, n_ff=32)
        model = Model.load(tiny_models.write_llama(Path(folder) / "tiny.gguf", vocab, spec))
    ctx = Context.initFromModel(model, Context.Params(nCtx=1024, nThreads=1, nThreadsBatch=1))
    memory, token = ctx.getMemory(), ffi.new("llama_token[]", [5])
    batch, raw_batch, c = Batch.getOne([5]), lib.llama_batch_get_one(token, 1), ctx._c

    def empty(number: int) -> None:
        if number % 256 == 0:
            memory.clear(False)

    print(f"Python {platform.python_version()}, {platform.machine()}; nanoseconds, medians of {CALLS} calls each")
    print(f"{'':32}{'facade':>12}{'raw lib':>12}{'checks':>12}")
    report("decode, one token", nanoseconds(lambda: ctx.decode(batch), lambda: lib.llama_decode(c, raw_batch), empty))
    memory.clear(True)
    ctx.decode(batch)
    members = Sampler.initTopK(40), Sampler.initTopP(0.9), Sampler.initTemp(0.8), Sampler.initDist(1)
    chain = Sampler.chain(*members, noPerf=True)
    for name, sampler in (("greedy", Sampler.initGreedy()), ("top-k, top-p, temp, dist", chain)):
        s = sampler._c
        figures = nanoseconds(
            lambda sampler=sampler: sampler.sample(ctx, -1),  # type: ignore[misc]
            lambda s=s: lib.llama_sampler_sample(s, c, -1),  # type: ignore[misc]
            lambda _: None,
        )
        report(f"sample, {name}", figures)


if __name__ == "__main__":
    main()
