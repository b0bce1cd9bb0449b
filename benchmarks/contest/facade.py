"""The facade's side of the contest: `python benchmarks/contest/facade.py CASE key=value ...`.

Each case is what a user of the package would write; the C program (yardstick.c) does the same work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "benchmarks" / "peers"),
]  # importing it as benchmarks.peers would load more modules

from protocol import (  # noqa: E402
    N_SEQ,
    Given,
    answer,
    digest,
    filling,
    import_cpu,
    memory as memory_now,
    ready,
    repetitions,
    run,
)


def _load(given: Given) -> Any:
    from llama_cffi import Ggml, Model

    Ggml.Backend.cpuLoad()
    return Model.load(given.model, Model.Params(nGpuLayers=0))


def _params(given: Given, **more: Any) -> Any:
    from llama_cffi import Context

    return Context.Params(
        nCtx=given.ctx,
        nBatch=given.batch,
        nUbatch=given.batch,
        nThreads=given.threads,
        nThreadsBatch=given.threads,
        **more,
    )


def _context(model: Any, given: Given, **more: Any) -> Any:
    from llama_cffi import Context

    return Context.initFromModel(model, _params(given, **more))


def _begin() -> None:
    from llama_cffi import version

    ready(version=version())


def _greedy_loop(ctx: Any, sampler: Any, n: int) -> list[int]:
    from llama_cffi import Batch

    is_eog, out = ctx.getModel().vocab.isEog, []
    for _ in range(n):
        token = sampler.sample(ctx, -1)
        is_eog(token)  # a program would stop at the end of the text; a benchmark continues
        out.append(token)
        ctx.decode(Batch.getOne([token]))
    return out


def greedy(given: Given) -> None:
    from llama_cffi import Batch, Sampler

    model = _load(given)
    ctx, sampler = _context(model, given), Sampler.initGreedy()
    ctx.decode(Batch.getOne(given.prompt))
    _greedy_loop(ctx, sampler, 4)
    _begin()
    for _ in repetitions():
        ctx.getMemory().clear(False)
        ctx.decode(Batch.getOne(given.prompt))
        started = time.perf_counter()
        out = _greedy_loop(ctx, sampler, given.tokens)
        answer(time.perf_counter() - started, given.tokens, digest(out))


def many(given: Given) -> None:
    from llama_cffi import Batch, Sampler

    ctx = _context(_load(given), given, nSeqMax=given.seqs, kvUnified=True)
    sampler, reused, seqs = Sampler.initGreedy(), Batch.init(given.seqs), range(given.seqs)
    _begin()
    for _ in repetitions():
        ctx.getMemory().clear(False)
        out: list[int] = []
        tokens = [100 + seq for seq in seqs]
        for step in range(given.tokens + 1):
            if step == 1:
                started = time.perf_counter()  # the first step is the prompt
            if step > 0:
                tokens = [sampler.sample(ctx, seq) for seq in seqs]
                out += tokens
            reused.clear()
            for seq, token in zip(seqs, tokens, strict=True):
                reused.add(token, step, (seq,), True)
            ctx.decode(reused)
        answer(time.perf_counter() - started, len(out), digest(out))


def _chain(seed: int) -> Any:
    from llama_cffi import Sampler

    return Sampler.chain(
        Sampler.initPenalties(64, 1.1, 0.0, 0.0),
        Sampler.initTopK(40),
        Sampler.initTopP(0.95, 1),
        Sampler.initTemp(0.8),
        Sampler.initDist(seed),
        noPerf=True,
    )


def stream(given: Given) -> None:
    """Timed from the first piece of text on, with a new chain and an empty memory each time."""
    from llama_cffi import Generation, tokenize

    model = _load(given)
    ctx = _context(model, given)
    prompt = tokenize(model.vocab, given.text)
    _begin()
    for _ in repetitions():
        ctx.getMemory().clear(False)
        generation = Generation(ctx, prompt, sampler=_chain(given.seed), maxTokens=given.tokens)
        text = [next(generation)]
        first = generation.usage.generatedTokens
        started = time.perf_counter()
        for piece in generation:
            text.append(piece)
        seconds = time.perf_counter() - started
        answer(seconds, generation.usage.generatedTokens - first, digest("".join(text)))


def tokenize(given: Given) -> None:
    from llama_cffi import tokenize

    model = _load(given)
    vocab, text = model.vocab, Path(given.file).read_text(encoding="utf-8")
    _begin()
    for _ in repetitions():
        started = time.perf_counter()
        tokens = tokenize(vocab, text)
        answer(time.perf_counter() - started, len(tokens), digest(tokens))


def detokenize(given: Given) -> None:
    from llama_cffi import detokenize, tokenize

    model = _load(given)
    vocab = model.vocab
    tokens = tokenize(vocab, Path(given.file).read_text(encoding="utf-8"))
    _begin()
    for _ in repetitions():
        started = time.perf_counter()
        text = detokenize(vocab, tokens)
        answer(time.perf_counter() - started, len(tokens), digest(text))


def _calls(given: Given, call: Callable[[], Any]) -> None:
    """Time a call that returns a numpy array."""
    _begin()
    for _ in repetitions():
        started = time.perf_counter()
        for _ in range(given.calls):
            array = call()
        seconds = time.perf_counter() - started
        answer(seconds, given.calls, digest(array.reshape(-1)[:16].tobytes()))


def logits1(given: Given) -> None:
    import numpy as np

    from llama_cffi import Batch

    ctx = _context(_load(given), given)
    ctx.decode(Batch.getOne([1]))
    _calls(given, lambda: np.asarray(ctx.getLogitsIth(-1)))


def logits512(given: Given) -> None:
    import numpy as np

    ctx = _context(_load(given), given)
    ctx.decode(_filled(512, 1, every=True))
    _calls(given, lambda: np.asarray(ctx.getLogits()))


def _filled(n_tokens: int, n_seq: int, every: bool = False) -> Any:
    from llama_cffi import Batch

    batch = Batch.init(n_tokens)
    _fill(batch, n_tokens, n_seq, every)
    return batch


def _fill(batch: Any, n_tokens: int, n_seq: int, every: bool = False) -> None:
    each = n_tokens // n_seq
    tokens = _TOKENS[:n_tokens]
    batch.clear()
    for seq in range(n_seq):
        batch.extend(tokens[seq * each : (seq + 1) * each], 0, (seq,), output="all" if every else "last")


_TOKENS = filling(512)


def batch(given: Given) -> None:
    ctx = _context(_load(given), given, nSeqMax=N_SEQ)
    reused = _filled(512, N_SEQ)
    ctx.decode(reused)
    _begin()
    for _ in repetitions():
        ctx.getMemory().clear(False)
        started = time.perf_counter()
        _fill(reused, 512, N_SEQ)
        filled = time.perf_counter()
        ctx.decode(reused)
        ctx.synchronize()
        seconds = time.perf_counter() - started
        answer(seconds, 512, digest(bytes(ctx.getLogitsIth(-1)[:16])), fill=filled - started)


def embed(given: Given) -> None:
    from llama_cffi import Embedder

    model = _load(given)
    texts = Path(given.file).read_text(encoding="utf-8").splitlines()
    with Embedder(model, nThreads=given.threads) as embedder:
        embedder.embed(texts[:8])
        _begin()
        for _ in repetitions():
            started = time.perf_counter()
            rows = embedder.embed(texts)
            seconds = time.perf_counter() - started
            answer(seconds, len(rows), f"{rows.shape} {rows.dtype} {float((rows[0] ** 2).sum()) ** 0.5:.3f}")


def state(given: Given) -> None:
    ctx = _context(_load(given), given)
    ctx.decode(_filled(256, 1))
    _begin()
    for _ in repetitions():
        started = time.perf_counter()
        data = ctx.stateGetData()
        saved = time.perf_counter()
        read = ctx.stateSetData(data)
        ended = time.perf_counter()
        check = f"{len(data)} {int(read == len(data))}"
        answer(ended - started, 1, check, save=saved - started, load=ended - saved)


def load(given: Given) -> None:
    started = time.perf_counter()
    from llama_cffi import Batch, Sampler

    imported = time.perf_counter()
    ctx = _context(_load(given), given)
    ctx.decode(Batch.getOne(given.prompt))
    token = Sampler.initGreedy().sample(ctx, -1)
    ended = time.perf_counter()
    answer(ended - started, 1, digest([token]), **{"import": imported - started})


EVERY_NAME = """
import llama_cffi
for module in (llama_cffi, llama_cffi.Ggml):
    for name in module.__all__:
        getattr(module, name)
"""


def import_(given: Given) -> None:
    statement = EVERY_NAME if given.every else "from llama_cffi import Model, Context, Generation"
    answer(import_cpu(statement, str(ROOT)), 1, "")


def memory(given: Given) -> None:
    from llama_cffi import Batch, Sampler

    ctx = _context(_load(given), given)
    ctx.decode(Batch.getOne(given.prompt))
    out = _greedy_loop(ctx, Sampler.initGreedy(), 32)
    answer(0.0, 1, digest(out), **memory_now())


def callback(given: Given) -> None:
    """The cost of a callback into Python: a context with a function called per node of the graph, and one without."""
    from llama_cffi import Batch

    model, called = _load(given), [0]

    def on_node() -> bool:
        called[0] += 1
        return False

    contexts = _context(model, given), _context(model, given, abortCb=on_node)
    _begin()
    for _ in repetitions():
        seconds = []
        for ctx in contexts:
            ctx.getMemory().clear(False)
            called[0] = 0
            started = time.perf_counter()
            for i in range(given.calls):
                ctx.decode(Batch.getOne([100 + i % 1000]))
            seconds.append(time.perf_counter() - started)
        answer(seconds[1] - seconds[0], called[0], "")


CASES: dict[str, Callable[[Given], None]] = {
    "greedy": greedy,
    "many": many,
    "stream": stream,
    "tokenize": tokenize,
    "detokenize": detokenize,
    "logits1": logits1,
    "logits512": logits512,
    "batch": batch,
    "embed": embed,
    "state": state,
    "load": load,
    "import": import_,
    "memory": memory,
    "callback": callback,
}


if __name__ == "__main__":
    run(CASES)
