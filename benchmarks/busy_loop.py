"""Generates for some seconds and counts the tokens: `python benchmarks/busy_loop.py CASE key=value ...`.

`benchmarks/busy.py` starts this program, with the protocol of `benchmarks/peers/protocol.py`. Each repetition generates
for `margin` seconds, then for `seconds` that are measured, and then for another `margin`, so that processes that start
together are measured while all of them generate. The margin of an Engine begins when it has read the first prompts of
its clients. `threads=0` is the default of the library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import perf_counter, sleep
from typing import Any

from protocol import Given, answer, ready, repetitions, run

LENGTH = 256
"""Tokens of a text; then the next one begins, so that the context stays short."""


def greedy(given: Given) -> None:
    """A greedy loop over the facade."""
    from llama_cffi import Batch, Context, Ggml, Model, Sampler

    Ggml.Backend.cpuLoad()
    model = Model.load(given.model, Model.Params(nGpuLayers=0))
    params = Context.Params(nCtx=2 * LENGTH)
    if given.threads:
        params.nThreads = params.nThreadsBatch = given.threads
    ctx, sampler = Context.initFromModel(model, params), Sampler.initGreedy()

    def tokens() -> Iterator[None]:
        memory = ctx.getMemory()
        while True:
            memory.clear(False)
            token = 1
            for _ in range(LENGTH):
                ctx.decode(Batch.getOne([token]))
                token = sampler.sample(ctx, -1)
                yield

    _measure(given, tokens(), version=_version(), threads=ctx.nThreads)


def llama_cpp_python(given: Given) -> None:
    """The loop of llama-cpp-python that `benchmarks/peers/with_llama_cpp_python.py` measures, in its environment."""
    import llama_cpp
    import with_llama_cpp_python as peer

    llm = peer._llama(given)

    def tokens() -> Iterator[None]:
        while True:
            peer._prompted(llm, [1])
            for _ in zip(range(LENGTH), llm.generate([1], temp=0.0), strict=False):
                yield

    _measure(given, tokens(), version=llama_cpp.__version__, threads=llm.n_threads)


def _measure(given: Given, tokens: Iterator[None], **about: Any) -> None:
    """Answer each repetition of a loop that yields once per token."""
    for _ in range(4):
        next(tokens)
    ready(**about)

    def generate(seconds: float) -> tuple[float, int]:
        started = now = perf_counter()
        count = 0
        while now < started + seconds:
            next(tokens)
            count += 1
            now = perf_counter()
        return now - started, count

    for _ in repetitions():
        generate(given.margin)
        seconds, count = generate(given.seconds)
        generate(given.margin)
        answer(seconds, count, "")


def engine(given: Given) -> None:
    """An Engine with its default settings, and `seqs` clients that send a request when the last one has ended."""
    from llama_cffi import Engine, Ggml, Model, Sampler

    Ggml.Backend.cpuLoad()
    model = Model.load(given.model, Model.Params(nGpuLayers=0))
    served = Engine(
        model, nCtx=2 * LENGTH * given.seqs, nSeqMax=given.seqs, nThreads=given.threads or None, keepPrefixes=False
    )
    counts, stopping = [0] * given.seqs, threading.Event()

    def client(number: int) -> None:
        texts = 0
        while not stopping.is_set():
            texts += 1
            prompt = f"{number}. A letter to the editor, number {texts}:"
            request = served.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=LENGTH // 2)
            for _ in request.steps():
                counts[number] += 1
                if stopping.is_set():
                    request.cancel()

    served.submit("Once upon a time", sampler=Sampler.initGreedy(), maxTokens=4).result()
    ready(version=_version(), clients=given.seqs)
    for _ in repetitions():
        stopping.clear()
        clients = [threading.Thread(target=client, args=(number,)) for number in range(given.seqs)]
        began = sum(counts)
        for each in clients:
            each.start()
        while sum(counts) < began + 2 * given.seqs:  # all prompts are read
            sleep(0.01)
        sleep(given.margin)
        before, started = sum(counts), perf_counter()
        sleep(given.seconds)
        tokens, seconds = sum(counts) - before, perf_counter() - started
        sleep(given.margin)
        stopping.set()
        for each in clients:
            each.join()
        answer(seconds, tokens, "")


def _version() -> str:
    """The version of llama.cpp. Older ones do not tell."""
    from llama_cffi import UnavailableError, version

    try:
        return version()
    except UnavailableError:
        return "unknown"


CASES: dict[str, Callable[[Given], None]] = {
    "greedy": greedy,
    "llama_cpp_python": llama_cpp_python,
    "engine": engine,
}


if __name__ == "__main__":
    run(CASES)
