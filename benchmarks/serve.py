"""Compares the server through HTTP with the Engine in the process: `python benchmarks/serve.py MODEL [--n 32]`.

Both have the same model, prompts, limits and threads, generate greedily, and take turns, each time in a new process.
All requests are sent at once. Through HTTP the texts are streamed, to a client in a process of its own that reads bytes
and parses little: the client's work is not what is measured. The time to the first byte is from the connection to the
first event with text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_BEGINNINGS = ("The capital of France is", "A recipe for bread:", "def fibonacci(n):", "Dear Sir or Madam,")
_FILLER = "In the spring of that year the river rose higher than anyone in the village could remember. "


def _prompts(number: int) -> list[str]:
    return [f"{_BEGINNINGS[k % 4]} {k} {_FILLER * (k * 7 % 4)}" for k in range(number)]


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    """One pass with the engine in this process."""
    from llama_cffi import Engine, Model, Sampler

    params = Model.Params(nGpuLayers=args.ngl)
    with Model.load(args.model, params) as model:
        size = args.slots * args.ctx
        with Engine(model, nCtx=size, nSeqMax=args.slots, nThreads=args.threads, keepPrefixes=False) as engine:
            engine.submit("warm up", maxTokens=4, sampler=Sampler.initGreedy()).result()
            began = time.perf_counter()
            requests = [
                engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=args.tokens)
                for prompt in _prompts(args.n)
            ]
            for request in requests:
                request.result()
            seconds = time.perf_counter() - began
            return {"tokens": sum(len(request.tokens) for request in requests), "seconds": seconds, "first": []}


def _server(args: argparse.Namespace) -> dict[str, Any]:
    """One pass through HTTP, with the server in a process of its own."""
    command = [sys.executable, "-m", "llama_cffi", "serve", "-m", args.model, "--port", "0", "-p", str(args.slots)]
    command += ["-c", str(args.ctx), "-g", str(args.ngl), "--no-prefix-cache", "-q", "--max-waiting", str(args.n)]
    if args.threads is not None:
        command += ["-t", str(args.threads)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving .* at http://(\S+):(\d+)", line):
                return asyncio.run(_ask_all(args, found[1], int(found[2])))
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


async def _ask_all(args: argparse.Namespace, host: str, port: int) -> dict[str, Any]:
    await _ask(host, port, "warm up", 4)
    began = time.perf_counter()
    rows = await asyncio.gather(*(_ask(host, port, prompt, args.tokens) for prompt in _prompts(args.n)))
    seconds = time.perf_counter() - began
    return {"tokens": sum(n for n, _ in rows), "seconds": seconds, "first": [first for _, first in rows]}


async def _ask(host: str, port: int, prompt: str, tokens: int) -> tuple[int, float]:
    """Stream a text. Returns the number of its tokens, and the seconds to its first byte."""
    options = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, **options}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    began, first, data = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    while part := await reader.read(1 << 16):
        data = data[-2000:] + part
        if not first and b'"text":' in data:
            first = time.perf_counter() - began
    writer.close()
    found = re.search(rb'"completion_tokens":(\d+)', data)
    assert found is not None, data[-500:]
    return int(found[1]), first


def main() -> int:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--side", choices=("engine", "server"), help=argparse.SUPPRESS)
    for name, default in (("n", 32), ("slots", 16), ("tokens", 128), ("ctx", 512), ("ngl", 0), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(_engine(args) if args.side == "engine" else _server(args)))
        return 0
    rates: dict[str, list[float]] = {"engine": [], "server": []}
    firsts: list[float] = []
    for turn in range(args.rounds):
        for side in ("engine", "server")[:: 1 if turn % 2 == 0 else -1]:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            rates[side].append(found["tokens"] / found["seconds"])
            firsts += found["first"]
            print(f"{side}: {found['tokens']} tokens, {rates[side][-1]:.1f} tokens/s", flush=True)
    ratio = statistics.median(b / a for a, b in zip(rates["engine"], rates["server"], strict=True))
    p95 = statistics.quantiles(firsts, n=20)[-1]
    medians = {side: statistics.median(given) for side, given in rates.items()}
    print(f"engine {medians['engine']:.1f}, server {medians['server']:.1f} tokens/s; ratio {ratio:.3f}")
    print(f"first byte: median {statistics.median(firsts):.3f} s, 95 % within {p95:.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
