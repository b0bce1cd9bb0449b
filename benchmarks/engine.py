"""Compares many requests at once with one after another: `python benchmarks/engine.py [--threads 2] [--out FOLDER]`.

Sixteen prompts of mixed length are completed greedily, on Gemma 3 270M from the `gemma` extra or on --model. The engine
and a plain loop take turns in one process; the loop has one context and clears its memory before each prompt. The
report starts with the cost of a decode by the number of sequences in it, which limits any engine here. It ends with the
number of equal texts, and the difference of logits at which the other texts diverge.

`benchmarks/serving.py` compares the Engine with llama-server and with the hardware's limit, also on a GPU;
`benchmarks/engine_cost.py` measures its CPU time beyond decoding; `benchmarks/busy.py` measures it beside other
programs.

Other load on the machine slows OpenMP's threads down: the report has the load average. With one thread, --cpu-time
measures CPU time, which is disturbed less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from benchmarks import report  # noqa: E402
from benchmarks.workload import BEGINNINGS, TEXT  # noqa: E402
from llama_cffi import Batch, Context, Engine, Ggml, Model, Sampler, tokenize  # noqa: E402
from llama_cffi.generation.text_stream import TextStream  # noqa: E402

WIDTHS = (1, 2, 4, 8, 16)


@dataclass
class Run:
    """One pass over all prompts."""

    seconds: float
    prompt: int
    generated: int
    texts: list[list[int]] = field(repr=False)

    @property
    def rate(self) -> float:
        return (self.prompt + self.generated) / self.seconds


def prompts(count: int = 16) -> list[str]:
    """Texts of 6 to about 90 tokens with no common prefix."""
    return [f"{BEGINNINGS[k % 8]} {k} {TEXT * (k * 7 % 4)}" for k in range(count)]


class Loop:
    """The plain loop: one prompt after another, like the loop in the README."""

    def __init__(self, model: Model, threads: int, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.context = Context.initFromModel(model, Context.Params(nCtx=1024, nThreads=threads, nThreadsBatch=threads))

    def run(self, texts: list[str]) -> tuple[int, list[list[int]]]:
        written = []
        vocab, ctx, count = self.model.vocab, self.context, 0
        for text in texts:
            ctx.getMemory().clear()
            prompt = tokenize(vocab, text)
            stream, out = TextStream(vocab), list[int]()
            with Sampler.initGreedy() as sampler:
                ctx.decode(Batch.getOne(prompt))
                while True:
                    token = sampler.sample(ctx, -1)
                    if vocab.isEog(token):
                        break
                    out.append(token)
                    stream.feed(token)
                    if len(out) == self.tokens:
                        break
                    ctx.decode(Batch.getOne([token]))
            count += len(prompt)
            written.append(out)
        return count, written


class Crowd:
    """All requests at once. No prefix is kept from one run to the next."""

    def __init__(self, model: Model, threads: int, tokens: int, given: argparse.Namespace) -> None:
        self.tokens = tokens
        params = Context.Params(nUbatch=given.ubatch)
        self.engine = Engine(
            model, nCtx=8192, nSeqMax=16, nBatch=given.batch, nThreads=threads, params=params, keepPrefixes=False
        )

    def run(self, texts: list[str]) -> tuple[int, list[list[int]]]:
        requests = [self.engine.submit(text, sampler=Sampler.initGreedy(), maxTokens=self.tokens) for text in texts]
        for request in requests:
            request.result()
        return sum(len(request.prompt) for request in requests), [request.tokens for request in requests]


def timed(work: Callable[[], tuple[int, list[list[int]]]], clock: Callable[[], float]) -> Run:
    started = clock()
    count, texts = work()
    return Run(clock() - started, count, sum(map(len, texts)), texts)


def decode_costs(model: Model, threads: int, clock: Callable[[], float], steps: int = 9) -> dict[int, float]:
    """Milliseconds of a decode and its greedy picks, by the number of sequences that get a token; medians."""
    costs = {}
    params = Context.Params(
        nCtx=2048, nSeqMax=max(WIDTHS), nThreads=threads, nThreadsBatch=threads, kvUnified=True, nOutputsMax=max(WIDTHS)
    )
    with Context.initFromModel(model, params) as ctx, Batch.init(max(WIDTHS)) as batch, Sampler.initGreedy() as greedy:
        for width in WIDTHS:
            ctx.getMemory().clear()
            seconds = []
            for step in range(steps + 2):
                batch.clear()
                for seq in range(width):
                    batch.add(1000 + 37 * step + seq, step, (seq,), True)
                started = clock()
                ctx.decode(batch)
                for index in range(width):
                    greedy.sample(ctx, index)
                seconds.append(clock() - started)
            costs[width] = 1e3 * statistics.median(seconds[2:])
    return costs


def differences(
    model: Model, threads: int, texts: list[str], one: list[list[int]], other: list[list[int]]
) -> list[Any]:
    """For each text that the engine changed: where it diverges, and the difference of the two logits there."""
    found = []
    with Context.initFromModel(model, Context.Params(nCtx=1024, nThreads=threads, nThreadsBatch=threads)) as ctx:
        for number, (text, a, b) in enumerate(zip(texts, one, other, strict=True)):
            if a == b:
                continue
            place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            gap = None
            if place < min(len(a), len(b)):
                ctx.getMemory().clear()
                ctx.decode(Batch.getOne(tokenize(model.vocab, text)))
                for token in a[:place]:
                    ctx.decode(Batch.getOne([token]))
                logits = np.array(ctx.getLogitsIth(-1))
                gap = float(logits[a[place]] - logits[b[place]])
            found.append({"prompt": number, "place": place, "gap": gap})
    return found


def rounding_noise(model: Model, threads: int, texts: list[str]) -> float:
    """The median of the largest changes of a plain context's logits when it decodes a prompt in pieces."""
    found = []
    with Context.initFromModel(model, Context.Params(nCtx=1024, nThreads=threads, nThreadsBatch=threads)) as ctx:
        for text in texts[1::3]:
            prompt, logits = tokenize(model.vocab, text), []
            for size in (len(prompt), 7):
                ctx.getMemory().clear()
                for start in range(0, len(prompt), size):
                    ctx.decode(Batch.getOne(prompt[start : start + size]))
                logits.append(np.array(ctx.getLogitsIth(-1)))
            found.append(float(np.abs(logits[0] - logits[1]).max()))
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF file (default: Gemma 3 270M)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="tokens to generate per prompt (default: %(default)s)")
    report.add_arguments(parser, rounds=3)
    parser.add_argument("--batch", type=int, default=512, help="the engine's nBatch (default: %(default)s)")
    parser.add_argument("--ubatch", type=int, default=512, help="the engine's nUbatch (default: %(default)s)")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of wall time")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    Ggml.Backend.cpuLoad()
    if given.model is None:
        import default_model

        given.model = default_model.path()
    about, before = report.machine(), os.getloadavg()
    texts = prompts()
    with Model.load(given.model) as model:
        costs = decode_costs(model, given.threads, clock)
        loop, crowd = Loop(model, given.threads, given.tokens), Crowd(model, given.threads, given.tokens, given)
        loop.run(texts[:1]), crowd.run(texts[:1])
        runs: dict[str, list[Run]] = {"one by one": [], "engine": []}
        for number in range(given.rounds):
            turns: list[tuple[str, Loop | Crowd]] = [("one by one", loop), ("engine", crowd)]
            for name, side in turns if number % 2 == 0 else turns[::-1]:
                runs[name].append(timed(partial(side.run, texts), clock))
                print(f"  round {number + 1}: {name} {runs[name][-1].rate:,.1f} tokens/s", file=sys.stderr, flush=True)
        crowd.engine.close()
        noise = rounding_noise(model, given.threads, texts)
        apart = differences(model, given.threads, texts, runs["one by one"][0].texts, runs["engine"][0].texts)
    lines = report.heading("Many requests at once", about)
    what = "CPU time" if given.cpu_time else "wall time"
    lines += [
        f"{given.model.name}; {len(texts)} prompts, {given.threads} threads, {what}; nBatch {given.batch}, nUbatch "
        f"{given.ubatch}; load {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after",
        "",
        "sequences in a decode, with greedy picks: " + "".join(f"{width:>9}" for width in WIDTHS),
        "milliseconds, medians:                    " + "".join(f"{costs[width]:9.1f}" for width in WIDTHS),
        "times faster than one by one:             " + "".join(f"{w * costs[1] / costs[w]:9.2f}" for w in WIDTHS),
        "",
    ]
    medians = {name: statistics.median(run.rate for run in passes) for name, passes in runs.items()}
    for name, passes in runs.items():
        first = passes[0]
        lines.append(
            f"{name:12} {first.prompt} + {first.generated} tokens: {medians[name]:8,.1f} tokens/s, generated alone "
            f"{statistics.median(run.generated / run.seconds for run in passes):8,.1f}; median of {len(passes)} rounds"
        )
    ratios = [b.rate / a.rate for a, b in zip(runs["one by one"], runs["engine"], strict=True)]
    lines.append(
        f"ratio of medians {medians['engine'] / medians['one by one']:.2f}; rounds "
        + ", ".join(f"{ratio:.2f}" for ratio in ratios)
    )
    lines.append(
        f"the same text as alone: {len(texts) - len(apart)} of {len(texts)}; logits of a plain context change by up to "
        f"{noise:.2f} when it decodes a prompt in pieces"
    )
    lines += [
        f"  prompt {d['prompt']}: diverges after {d['place']} tokens, "
        + ("one text ends" if d["gap"] is None else f"where the two logits differ by {d['gap']:.4f}")
        for d in apart
    ]
    print("\n".join(lines), flush=True)
    if given.out is not None:
        figures = {
            "machine": about,
            "settings": {k: v.name if isinstance(v, Path) else v for k, v in vars(given).items() if k != "out"},
            "load": [before[0], os.getloadavg()[0]],
            "decode_ms": costs,
            "runs": {
                name: [{k: v for k, v in asdict(r).items() if k != "texts"} for r in s] for name, s in runs.items()
            },
            "differences": apart,
            "unrest": noise,
        }
        report.write(given.out, f"{about['processor']} engine {given.label}", lines, figures)


if __name__ == "__main__":
    main()
