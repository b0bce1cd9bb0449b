"""xllamacpp in the contest: `python benchmarks/peers/with_xllamacpp.py CASE key=value ...`.

It wraps llama.cpp's server: a request goes in, text comes out. Its wheel contains its own llama.cpp, built for AVX2, so
its figures measure both. It does not expose tokens, logits, batches or states, so those cases are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from protocol import Given, Unavailable, answer, digest, import_cpu, memory, ready, repetitions, run

PARALLEL = 8  # texts that the server embeds at a time


def _server(given: Given, embedding: bool = False) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.n_ctx, params.n_batch, params.n_ubatch = given.ctx, given.batch, given.batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.n_parallel = PARALLEL if embedding else 1
    params.n_gpu_layers, params.no_perf, params.verbosity = 0, True, -1
    params.fit_params = False  # it would load the model twice, to see what fits
    if embedding:
        params.embedding, params.kv_unified = True, True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)


def _version() -> str:
    import xllamacpp

    return str(xllamacpp.__version__)


def _begin(how: str) -> None:
    ready(version=_version(), how=how)


def _request(given: Given, prompt: str | list[int], tokens: int, **sampling: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
        "seed": given.seed,
        **sampling,
    }


GREEDY = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1}
CHAIN = {
    "samplers": ["penalties", "top_k", "top_p", "temperature"],
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
}


class Answered:
    """A streamed request: its chunks, and when the first and the last one arrived."""

    def __init__(self, server: Any, request: dict[str, Any]) -> None:
        self._chunks: list[dict[str, Any]] = []
        self.started = self.first = perf_counter()
        server.handle_completions(request, self._add_chunk)
        self.ended = perf_counter()
        errors = [chunk for chunk in self._chunks if "choices" not in chunk]
        if errors or not self._chunks:
            raise RuntimeError(f"the server answered {errors or 'nothing'}")
        self.text = "".join(chunk["choices"][0]["text"] for chunk in self._chunks)
        self.tokens = int(self._chunks[-1]["usage"]["completion_tokens"])

    def _add_chunk(self, chunk: dict[str, Any]) -> None:
        if not self._chunks:
            self.first = perf_counter()
        self._chunks.append(chunk)


def _complete(given: Given, prompt: str | list[int], sampling: dict[str, Any], how: str) -> None:
    server = _server(given)
    Answered(server, _request(given, prompt, 4, **sampling))
    _begin(f"{how}; items are the tokens after the first")
    for _ in repetitions():
        got = Answered(server, _request(given, prompt, given.tokens, **sampling))
        more = {"first": got.first - got.started, "tokens": got.tokens}
        answer(got.ended - got.first, got.tokens - 1, digest(got.text), **more)


def greedy(given: Given) -> None:
    _complete(given, given.prompt, GREEDY, "Server.handle_completions with top_k=1, streamed")


def stream(given: Given) -> None:
    _complete(given, given.text, CHAIN, "Server.handle_completions, streamed to a callback, ignore_eos")


def embed(given: Given) -> None:
    server = _server(given, embedding=True)
    texts = Path(given.file).read_text(encoding="utf-8").splitlines()
    server.handle_embeddings({"input": texts[:8]})
    _begin("Server.handle_embeddings of all texts in one request: normalized lists")
    for _ in repetitions():
        started = perf_counter()
        result = server.handle_embeddings({"input": texts})
        seconds = perf_counter() - started
        if "data" not in result:
            raise RuntimeError(f"the server answered {str(result)[:200]}")
        rows = [row["embedding"] for row in result["data"]]
        norm = sum(value * value for value in rows[0]) ** 0.5
        answer(seconds, len(rows), f"({len(rows)}, {len(rows[0])}) float {norm:.3f}")


def load(given: Given) -> None:
    started = perf_counter()
    import xllamacpp

    imported = perf_counter()
    server = _server(given)
    loaded = perf_counter()
    got = Answered(server, _request(given, given.prompt, 1, **GREEDY))
    ended = perf_counter()
    parts = {"import": imported - started, "load": loaded - imported, "first": ended - loaded}
    answer(ended - started, 1, digest(got.text), ready=True, version=xllamacpp.__version__, **parts)


def import_(given: Given) -> None:
    import xllamacpp

    answer(import_cpu("import xllamacpp"), 1, "", ready=True, version=xllamacpp.__version__)


def memory_(given: Given) -> None:
    got = Answered(_server(given), _request(given, given.prompt, 32, **GREEDY))
    answer(0.0, 1, digest(got.text), ready=True, version=_version(), **memory())


def _missing(what: str) -> Callable[[Given], None]:
    def case(given: Given) -> None:
        raise Unavailable(f"it does not expose {what}")

    return case


CASES: dict[str, Callable[[Given], None]] = {
    "greedy": greedy,
    "stream": stream,
    "tokenize": _missing("tokens"),
    "detokenize": _missing("tokens"),
    "logits1": _missing("logits"),
    "logits512": _missing("logits"),
    "batch": _missing("batches"),
    "embed": embed,
    "state": _missing("a context's state"),
    "load": load,
    "import": import_,
    "memory": memory_,
    "callback": _missing("callbacks of llama.cpp"),
}


if __name__ == "__main__":
    run(CASES)
