"""Many short requests, with cancels among them: none is lost, none is answered twice, and memory stays flat.

`make serve-storm` sends 10,000.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.server.serving import Running, is_idle, running, wait_for

_MOST_GROWTH = 32 << 20  # bytes, over the second half


@dataclass
class Outcome:
    """What the clients saw."""

    answered: int = 0
    wrong: int = 0
    cancelled: int = 0


def storm(server: Running, requests: int, clients: int, cancels: int) -> Outcome:
    """Send requests from several clients, each with an echo of its own, and between them some that go away."""
    found, lock = Outcome(), threading.Lock()
    numbers = iter(range(requests))
    every = max(1, requests // max(cancels, 1))

    def work(seed: int) -> None:
        choose = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            while True:
                with lock:
                    number = next(numbers, None)
                    cancel = number is not None and number % every == 0 and found.cancelled < cancels
                    found.cancelled += cancel
                if number is None:
                    return
                if cancel:
                    _go_away(server, choose)
                prompt = f"Number {number} is"
                body = {"prompt": prompt, "echo": True, "max_tokens": choose.choice((1, 2, 3)), "seed": number}
                if number % 3 == 0:
                    text = "".join(_stream(client, body))
                else:
                    answer = client.post("/v1/completions", json=body)
                    text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else answer.text
                with lock:
                    found.answered += 1
                    found.wrong += text.count("Number") < 1 or not text.startswith(prompt)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _stream(client: httpx.Client, body: dict[str, object]) -> list[str]:
    import json

    answer = client.post("/v1/completions", json={**body, "stream": True})
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    if not lines or lines[-1] != "[DONE]":
        return [answer.text]
    return [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]


def _go_away(server: Running, choose: random.Random) -> None:
    connection = server.send("/v1/completions", {"prompt": "Once", "max_tokens": 300, "stream": choose.random() < 0.5})
    time.sleep(choose.choice((0, 0, 0.001, 0.01, 0.05)))
    if choose.random() < 0.5:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
    connection.close()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main(argv: Sequence[str]) -> int:
    """Run the storm with a tiny model. Returns 0 if all went well."""
    import tempfile

    from llama_cffi import Engine, Ggml, Model
    from llama_cffi.server import Limits
    from tests import tiny_models
    from vendor.source import fetch

    number = int(argv[0]) if argv else 10_000
    Ggml.Backend.cpuLoad()
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_models.write_llama(Path(folder) / "tiny.gguf", fetch.vectors_dir() / "ggml-vocab-llama-spm.gguf")
        with Model.load(path) as model, Engine(model, nCtx=8192, nSeqMax=16, nThreads=1) as engine:
            with running({"tiny": engine}, limits=Limits(maxWaiting=1000)) as server:
                began, sizes, wrong, answered = time.perf_counter(), list[int](), 0, 0
                for _ in range(4):
                    found = storm(server, number // 4, clients=16, cancels=number // 40)
                    wait_for(lambda: is_idle(server))
                    answered, wrong = answered + found.answered, wrong + found.wrong
                    sizes.append(_resident())
                    print(f"{answered} answered, {wrong} wrong, {sizes[-1] >> 20} MiB", flush=True)
                print(f"{answered / (time.perf_counter() - began):.0f} requests/s")
    return int(wrong > 0 or answered != number // 4 * 4 or sizes[-1] - sizes[1] > _MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
