"""Measures the Engine or llama-server for `benchmarks/serving.py`: `python benchmarks/serving_side.py SIDE FILE`.

SIDE is `engine` or `llama-server`, FILE the settings as JSON (`Settings`); prints the figures as JSON. There are three
passes over different prompts: a short one to warm up, one that measures the throughput, and one that measures latencies
while clients read their texts token by token.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.workload import percentile  # noqa: E402

WARM_UP = 8
"""Tokens of each text of the first pass."""
START_S = 300
"""How long llama-server may take to load its model."""


@dataclass(frozen=True)
class Settings:
    """The settings of both sides."""

    model: str
    passes: list[list[list[int]]]
    """The prompts of the three passes."""
    tokens: int
    """Tokens to generate per prompt."""
    slots: int
    """Texts that are generated at once."""
    cells: int
    """The size of the KV cache in tokens, for each slot."""
    batch: int
    ubatch: int
    threads: int
    ngl: int
    """Layers on the GPU."""
    reuse: bool
    """Keep prefixes of prompts for later ones."""
    server: str
    """The folder with llama-server and its libraries."""


Ask = Callable[[list[int]], Iterator[None]]
"""Sends a prompt, and yields when each token of its text has come."""


def stream(ask: Ask, prompts: list[list[int]], clients: int) -> dict[str, float]:
    """Latencies in seconds. Each client sends a prompt when its last text has ended."""
    waiting = deque(prompts)
    first: list[float] = []
    between: list[float] = []

    def client() -> None:
        while True:
            try:
                prompt = waiting.popleft()
            except IndexError:
                return
            last, latencies = time.perf_counter(), first
            for _ in ask(prompt):
                now = time.perf_counter()
                latencies.append(now - last)
                last, latencies = now, between

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    return {
        "first_p50": percentile(first, 50),
        "first_p95": percentile(first, 95),
        "between_p50": percentile(between, 50),
        "between_p95": percentile(between, 95),
        "streamed": len(first) + len(between),
    }


def engine(given: Settings) -> dict[str, float]:
    """Measure the Engine, in this process."""
    from llama_cffi import Context, Engine, Ggml, Model, Request, Sampler

    if given.ngl:
        Ggml.Backend.vkLoad()
    else:
        Ggml.Backend.cpuLoad()
    model = Model.load(given.model, Model.Params(nGpuLayers=given.ngl))
    with Engine(
        model,
        nCtx=given.slots * given.cells,
        nSeqMax=given.slots,
        nBatch=given.batch,
        nThreads=given.threads,
        keepPrefixes=given.reuse,
        params=Context.Params(nUbatch=given.ubatch),
    ) as served:

        def submit(prompt: list[int], tokens: int) -> Request:
            return served.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=tokens)

        def all_at_once(prompts: list[list[int]], tokens: int) -> tuple[float, int]:
            started = time.perf_counter()
            requests = [submit(prompt, tokens) for prompt in prompts]
            for request in requests:
                request.result()
            return time.perf_counter() - started, sum(len(request.tokens) for request in requests)

        def ask(prompt: list[int]) -> Iterator[None]:
            for _ in submit(prompt, given.tokens).steps():
                yield

        all_at_once(given.passes[0], WARM_UP)
        seconds, generated = all_at_once(given.passes[1], given.tokens)
        return {"seconds": seconds, "generated": generated, **stream(ask, given.passes[2], given.slots)}


class Client:
    """Sends prompts to llama-server."""

    def __init__(self, port: int, reuse: bool) -> None:
        self._port, self._reuse = port, reuse

    def post(self, prompt: list[int], tokens: int, stream: bool) -> http.client.HTTPResponse:
        """Send a prompt for a greedy text."""
        request = {
            "prompt": prompt,
            "n_predict": tokens,
            "samplers": ["top_k"],
            "top_k": 1,
            "temperature": 0.0,
            "cache_prompt": self._reuse,
            "stream": stream,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        connection.request("POST", "/completion", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise SystemExit(f"error: llama-server answered {response.status}: {response.read()[:500]!r}")
        return response

    def whole(self, prompt: list[int], tokens: int) -> int:
        """Wait for a text. Returns its number of tokens."""
        with self.post(prompt, tokens, stream=False) as response:
            return int(json.load(response)["tokens_predicted"])

    def pieces(self, prompt: list[int], tokens: int) -> Iterator[None]:
        """Yield for each piece of a text: one token, except where a character takes several."""
        with self.post(prompt, tokens, stream=True) as response:
            for line in response:
                if line.startswith(b"data: ") and b'"stop":false' in line:
                    yield

    def healthy(self) -> bool:
        """True if the server has loaded its model."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def server_command(given: Settings, port: int) -> list[str]:
    """The command line of llama-server."""
    options: dict[str, object] = {
        "-m": given.model,
        "-c": given.slots * given.cells,
        "-np": given.slots,
        "-b": given.batch,
        "-ub": given.ubatch,
        "-t": given.threads,
        "-tb": given.threads,
        "-ngl": given.ngl,
        "--host": "127.0.0.1",
        "--port": port,
        "--threads-http": len(given.passes[1]) + 4,
    }
    if not given.reuse:
        options["--cache-ram"] = 0
    return [f"{given.server}/llama-server", *(str(word) for option in options.items() for word in option)]


@contextmanager
def served(given: Settings) -> Iterator[Client]:
    """Context manager: a running llama-server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Client(port, given.reuse)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            server_command(given, port), cwd=given.server, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            end = time.monotonic() + START_S
            while not client.healthy():
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit("error: llama-server did not start:\n" + log.read()[-2000:])
                time.sleep(0.1)
            yield client
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def llama_server(given: Settings) -> dict[str, float]:
    """Measure llama-server, with a thread for each request that is sent at once."""
    with served(given) as client:

        def all_at_once(prompts: list[list[int]], tokens: int) -> tuple[float, int]:
            with ThreadPoolExecutor(len(prompts)) as pool:
                started = time.perf_counter()
                counts = list(pool.map(lambda prompt: client.whole(prompt, tokens), prompts))
                return time.perf_counter() - started, sum(counts)

        all_at_once(given.passes[0], WARM_UP)
        seconds, generated = all_at_once(given.passes[1], given.tokens)
        latencies = stream(lambda prompt: client.pieces(prompt, given.tokens), given.passes[2], given.slots)
        return {"seconds": seconds, "generated": generated, **latencies}


SIDES: dict[str, Callable[[Settings], dict[str, float]]] = {"engine": engine, "llama-server": llama_server}


def main() -> None:
    side, path = sys.argv[1:]
    values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    print(json.dumps(SIDES[side](Settings(**values))), flush=True)


if __name__ == "__main__":
    main()
