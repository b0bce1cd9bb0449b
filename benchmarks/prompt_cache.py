"""Measures the prompt cache on disk: `python benchmarks/prompt_cache.py [--model FILE] [--tokens N] [--rounds N]`.

Each sample is a process that starts again: it loads the model, makes an `Engine`, and submits a system prompt of N
tokens with a question. The time to the first token, from `submit` on, is taken without a cache and with one that an
earlier process has filled with another question, in turns. Prints both medians and the median of the ratios; how long
the copy out of the KV cache takes, for which decoding waits when a prompt is stored; and how long the file takes to
write, in the background. The file is in the page cache, as after a restart of a server that does not restart the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from llama_cffi import Engine, Model, PromptCache, Sampler, tokenize, version  # noqa: E402
from llama_cffi.context import sequence_state  # noqa: E402
from vendor.source import chat_model  # noqa: E402

TEXT = (
    "You answer questions about the harbour. Ships come from the north in winter and from the south in summer. "
    "The master of the harbour writes down the name of each ship, its cargo, and the day on which it leaves again. "
)


def prompt(model: Model, count: int, question: str) -> list[int]:
    """A system prompt of `count` tokens, and a question."""
    tokens = tokenize(model.vocab, TEXT)
    return [*(tokens * (count // len(tokens) + 1))[:count], *tokenize(model.vocab, question, addSpecial=False)]


def sample(path: str, count: int, folder: str, question: str) -> dict[str, Any]:
    """Answer one question. The seconds to the first token, and what the cache did."""
    copies = []
    read = sequence_state.read

    def timed(*arguments: Any) -> Any:
        began = perf_counter()
        state = read(*arguments)
        copies.append(perf_counter() - began)
        return state

    sequence_state.read = timed  # type: ignore[assignment]
    cache = PromptCache(folder) if folder else None
    with Model.load(path) as model, Engine(model, nCtx=count + 256, nSeqMax=4, promptCache=cache) as engine:
        tokens = prompt(model, count, question)
        began = perf_counter()
        request = engine.submit(tokens, sampler=Sampler.initGreedy(), maxTokens=8)
        next(iter(request))
        first = perf_counter() - began
        request.result()
        began = perf_counter()
        if cache is not None:
            cache.flush()
        return {
            "seconds": first,
            "from_disk": request.usage.tokensFromDisk,
            "tokens": request.tokens,
            "copy": max(copies, default=0.0),
            "write": perf_counter() - began,
        }


def run(*arguments: str | int | Path) -> dict[str, Any]:
    """One sample, in a process of its own."""
    child = subprocess.run(
        [sys.executable, __file__, "--sample", *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF file (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--tokens", type=int, default=2000, help="of the system prompt (default: %(default)s)")
    parser.add_argument("--sample", nargs=4, help=argparse.SUPPRESS)
    report.add_arguments(parser, rounds=5)
    given = parser.parse_args()
    if given.sample:
        path, count, folder, question = given.sample
        print(json.dumps(sample(path, int(count), folder, question)))
        return
    model = given.model or chat_model.path()
    with tempfile.TemporaryDirectory() as folder:
        stored = run(model, given.tokens, folder, "Q: When do ships come from the north? A:")
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        rounds = []
        for k in range(given.rounds):
            question = f"Q: Who writes down the name of ship number {k}? A:"
            sides = [run(model, given.tokens, where, question) for where in ("", folder)]
            rounds.append(
                {"computed": sides[0], "from_disk": sides[1], "ratio": sides[1]["seconds"] / sides[0]["seconds"]}
            )
            print(f"round {k + 1}: {sides[0]['seconds']:.3f} s, {sides[1]['seconds']:.3f} s", file=sys.stderr)
    computed, from_disk = (
        statistics.median([found[side]["seconds"] for found in rounds]) for side in ("computed", "from_disk")
    )
    ratios = [found["ratio"] for found in rounds]
    same = sum(found["computed"]["tokens"] == found["from_disk"]["tokens"] for found in rounds)
    each = ", ".join(f"{ratio:.4f}" for ratio in ratios)
    lines = [
        "| model | prompt | from disk | first token, computed | first token, from disk | ratio | same text |",
        "|---|---|---|---|---|---|---|",
        f"| {Path(model).stem} | {given.tokens} + question | {rounds[-1]['from_disk']['from_disk']} | "
        f"{computed:.3f} s | {from_disk:.3f} s | {statistics.median(ratios):.4f} ({each}) | {same} of {given.rounds} |",
        "",
        f"When it was stored: a file of {size / 1e6:.1f} MB; decoding waited {1000 * stored['copy']:.0f} ms for the "
        f"copy; the write ended {stored['write']:.2f} s after a text of 8 tokens.",
        f"Load average at the end: {os.getloadavg()[1]:.1f}",
    ]
    print("\n".join(lines))
    if given.out:
        about = {**report.machine(), "llama.cpp": version()}
        title = report.heading("Prompt cache on disk", about)
        report.write(given.out, f"prompt-cache {given.label}", [*title, *lines], {"about": about, "rounds": rounds})


if __name__ == "__main__":
    main()
