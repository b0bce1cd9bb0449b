"""Compares the server through HTTP with the Engine in the process, and with llama-server: `python benchmarks/serve.py`.

All have the same model, library files, prompts, limits and threads, generate greedily, and take turns, each time in a
new process. All requests are sent at once: first completions, then chat completions; each after short texts in all
slots, since a GPU compiles what it needs for a size when that first occurs. Through HTTP the texts are
streamed, to clients in one process that read bytes and parse little. The time to the first byte is from the connection
to the first event with text. The CPU time is that of the serving process, with its computing; the clients' is apart.

`--model` is a file, or a random model by its size; a random one is asked with the chat template chatml.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import build_llama_bench, llama_bench, report, workload  # noqa: E402
from benchmarks.build_llama_bench import BuildError  # noqa: E402

ENGINE, SERVER, LLAMA_SERVER = "engine", "server", "llama-server"
TEXT, CHAT = "completions", "chat completions"
_PATHS = {TEXT: "/v1/completions", CHAT: "/v1/chat/completions"}
_BEGINNINGS = ("The capital of France is", "A recipe for bread:", "def fibonacci(n):", "Dear Sir or Madam,")
_FILLER = "In the spring of that year the river rose higher than anyone in the village could remember. "
_FIRST = re.compile(rb'"(?:text|content)":"[^"]')
_START_S = 300
_WARM, _WARM_UP = "Warm up. ", 8  # how the prompts of a first pass begin, and how many tokens each text has

Figures = dict[str, Any]


def _prompts(number: int, start: str = "") -> list[str]:
    return [f"{start}{_BEGINNINGS[k % 4]} {k} {_FILLER * (k * 7 % 4)}" for k in range(number)]


def _cpu(pid: int) -> float:
    """The CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The sides


def _engine(args: argparse.Namespace) -> dict[str, Figures]:
    """Measure the Engine in this process."""
    from llama_cffi import ChatTemplate, Engine, Ggml, Model, Request, Sampler

    if args.ngl:
        Ggml.Backend.vkLoad()
    with Model.load(args.model, Model.Params(nGpuLayers=args.ngl)) as model:
        template = ChatTemplate(model, args.template)
        size = {"nCtx": args.slots * args.ctx, "nSeqMax": args.slots, "nThreads": args.threads}
        with Engine(model, **size, keepPrefixes=False) as engine:

            def submit(kind: str, prompt: str, tokens: int) -> Request:
                sampler = Sampler.initGreedy()
                if kind == TEXT:
                    return engine.submit(prompt, sampler=sampler, maxTokens=tokens)
                messages = [{"role": "user", "content": prompt}]
                return engine.chat(messages, template=template, sampler=sampler, maxTokens=tokens)

            found: dict[str, Figures] = {}
            for kind in _PATHS:
                for request in [submit(kind, prompt, _WARM_UP) for prompt in _prompts(args.slots, _WARM)]:
                    request.result()
                began, spent = time.perf_counter(), time.process_time()
                requests = [submit(kind, prompt, args.tokens) for prompt in _prompts(args.n)]
                for request in requests:
                    request.result()
                seconds, spent = time.perf_counter() - began, time.process_time() - spent
                tokens = sum(request.usage.generatedTokens for request in requests)
                found[kind] = {"tokens": tokens, "seconds": seconds, "cpu": spent, "client": 0.0, "first": []}
            return found


@contextmanager
def _server(args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Run this package's server. Yields its process and its port."""
    command = [sys.executable, "-m", "llama_cffi", "serve", "-m", args.model, "--port", "0", "-p", str(args.slots)]
    command += ["-c", str(args.ctx), "-g", str(args.ngl), "--no-prefix-cache", "-q", "--max-waiting", str(args.n)]
    command += ["-t", str(args.threads), *(["--template", args.template] if args.template else [])]
    command += ["--vulkan"] if args.ngl else []
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving .* at http://\S+:(\d+)", line):
                yield process.pid, int(found[1])
                return
        raise SystemExit("error: the server did not start")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _llama_server(args: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Run llama-server with the same libraries. Yields its process and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [str(Path(args.programs) / LLAMA_SERVER), "-m", args.model, "--port", str(port), "-np", str(args.slots)]
    command += ["-c", str(args.slots * args.ctx), "-b", "512", "-ub", "512", "-ngl", str(args.ngl), "--no-warmup"]
    command += ["-t", str(args.threads), "-tb", str(args.threads)]
    command += ["--chat-template", args.template] if args.template else []
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=args.programs, stdout=log, stderr=log)
        try:
            end = time.monotonic() + _START_S
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(
                        f"error: llama-server did not start: {log.read()[-1000:].decode(errors='replace')}"
                    )
                time.sleep(0.2)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


# The clients


async def _ask_all(args: argparse.Namespace, pid: int, port: int) -> dict[str, Figures]:
    found = {}
    for kind in _PATHS:
        await asyncio.gather(*(_ask(args, port, kind, p, _WARM_UP) for p in _prompts(args.slots, _WARM)))
        began, spent, client = time.perf_counter(), _cpu(pid), time.process_time()
        rows = await asyncio.gather(*(_ask(args, port, kind, prompt, args.tokens) for prompt in _prompts(args.n)))
        seconds, spent, client = time.perf_counter() - began, _cpu(pid) - spent, time.process_time() - client
        tokens, first = sum(n for n, _ in rows), [each for _, each in rows]
        found[kind] = {"tokens": tokens, "seconds": seconds, "cpu": spent, "client": client, "first": first}
    return found


async def _ask(args: argparse.Namespace, port: int, kind: str, prompt: str, tokens: int) -> tuple[int, float]:
    """Stream a text. Returns the number of its tokens, and the seconds to its first byte."""
    options: dict[str, Any] = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    options |= {"prompt": prompt} if kind == TEXT else {"messages": [{"role": "user", "content": prompt}]}
    if args.side == LLAMA_SERVER:
        options |= {"cache_prompt": False, "top_k": 1, "samplers": ["top_k"]}
    body = json.dumps({"max_tokens": tokens, **options}).encode()
    head = f"POST {_PATHS[kind]} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    began, first, data = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    while part := await reader.read(1 << 16):
        data = data[-3000:] + part
        if not first and _FIRST.search(data):
            first = time.perf_counter() - began
    writer.close()
    found = re.search(rb'"completion_tokens":\s*(\d+)', data)
    if found is None:
        raise SystemExit(f"error: an answer without usage: {data[-500:].decode(errors='replace')}")
    return int(found[1]), first or time.perf_counter() - began


def _measure(args: argparse.Namespace) -> dict[str, Figures]:
    if args.side == ENGINE:
        return _engine(args)
    with (_server if args.side == SERVER else _llama_server)(args) as (pid, port):
        return asyncio.run(_ask_all(args, pid, port))


# The report


def _table(kind: str, results: dict[str, list[dict[str, Figures]]]) -> list[str]:
    """The medians of one kind of request, and the ratios round by round."""
    rates = {
        side: [each[kind]["tokens"] / each[kind]["seconds"] for each in rounds] for side, rounds in results.items()
    }
    lines = [
        "",
        f"{kind:28}" + "".join(f"{side:>14}" for side in results),
        _row("tokens/s, median", [statistics.median(found) for found in rates.values()]),
    ]
    for what, key in (("CPU time, us per token", "cpu"), ("that of the clients", "client")):
        spent = [[1e6 * each[kind][key] / each[kind]["tokens"] for each in rounds] for rounds in results.values()]
        lines.append(_row(what, [statistics.median(found) for found in spent]))
    for percent in (50, 95):
        firsts = [[first for each in rounds for first in each[kind]["first"]] for rounds in results.values()]
        row = [1e3 * workload.percentile(found, percent) if found else float("nan") for found in firsts]
        lines.append(_row(f"first byte, p{percent}, ms", row))
    for other in results:
        if SERVER in results and other != SERVER:
            ratios = [a / b for a, b in zip(rates[SERVER], rates[other], strict=True)]
            rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            lines.append(f"server to {other}: {statistics.median(ratios):.3f}; rounds {rounds}")
    return lines


def _row(what: str, figures: list[float]) -> str:
    return f"{what:28}" + "".join(f"{value:14,.1f}" if value == value else f"{'':14}" for value in figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=workload.MODEL_HELP)
    parser.add_argument("--template", help="a built-in chat template, for a model without its own")
    parser.add_argument("--sides", nargs="+", choices=(ENGINE, SERVER, LLAMA_SERVER), default=[ENGINE, SERVER])
    parser.add_argument(
        "--programs", type=Path, metavar="FOLDER", help=f"llama.cpp's programs; {llama_bench.HOW_TO_ALL}"
    )
    parser.add_argument("--side", choices=(ENGINE, SERVER, LLAMA_SERVER), help=argparse.SUPPRESS)
    for name, default in (("n", 32), ("slots", 32), ("tokens", 128), ("ctx", 512), ("ngl", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one per CPU")
    report.add_arguments(parser, rounds=3)
    return parser.parse_args()


def main() -> int:
    """Measure, and print a table."""
    args = _parse()
    if args.side:
        print(json.dumps(_measure(args)))
        return 0
    if args.template is None and not (args.model and Path(args.model).is_file()):
        args.template = "chatml"
    args.model = str(workload.model_path(args.model))
    about, results, loads = report.machine(), {side: list[dict[str, Figures]]() for side in args.sides}, []
    with ExitStack() as stack:
        if LLAMA_SERVER in args.sides:
            from benchmarks.offload import cpu_module

            program = args.programs / LLAMA_SERVER if args.programs else build_llama_bench.executable(LLAMA_SERVER)
            args.programs = stack.enter_context(llama_bench.staged(program, cpu_module(), args.ngl > 0, LLAMA_SERVER))
        options = [f"--{name}={value}" for name in ("model", "template", "programs") if (value := getattr(args, name))]
        options += [f"--{name}={getattr(args, name)}" for name in ("n", "slots", "tokens", "ctx", "ngl", "threads")]
        for turn in range(args.rounds):
            shift = turn % len(args.sides)
            loads.append(os.getloadavg()[0])
            for side in args.sides[shift:] + args.sides[:shift]:
                command = [sys.executable, __file__, *options, "--side", side]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results[side].append(json.loads(output.splitlines()[-1]))
                shown = (f"{kind} {each['tokens'] / each['seconds']:.1f}" for kind, each in results[side][-1].items())
                print(f"round {turn + 1}, {side}: tokens/s of {', '.join(shown)}", file=sys.stderr, flush=True)
    lines = report.heading("The server beside the Engine and llama-server", about)
    lines.append(
        f"{Path(args.model).name}; {args.n} requests at once in {args.slots} slots, {args.tokens} tokens each; "
        f"{args.threads} threads, {args.ngl} layers on the GPU; {args.rounds} rounds"
    )
    lines.append("load average before the rounds: " + ", ".join(f"{load:.1f}" for load in loads))
    for kind in _PATHS:
        lines += _table(kind, results)
    print("\n".join(lines), flush=True)
    if args.out is not None:
        device = about["nvidia"][0].split(",")[0] if args.ngl and about["nvidia"] else about["processor"]
        figures = {"machine": {**about, "load": loads}, "model": Path(args.model).name, "results": results}
        report.write(args.out, f"{device} server {Path(args.model).stem} {args.label}", lines, figures)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BuildError as error:
        sys.exit(f"error: {error}")
