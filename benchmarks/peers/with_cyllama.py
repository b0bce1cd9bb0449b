"""cyllama in the contest: `python benchmarks/peers/with_cyllama.py CASE key=value ...`.

Its wheel contains its own llama.cpp and CPU backend, so its figures measure both. `stream` and `embed` use its `LLM`
and `Embedder`, the other cases `cyllama.llama.llama_cpp`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from protocol import N_SEQ, Given, Unavailable, answer, digest, filling, import_cpu, memory, ready, repetitions, run


def _library() -> Any:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    return llama_cpp


def _model(library: Any, given: Given) -> Any:
    return library.LlamaModel(given.model, library.LlamaModelParams())


def _context(library: Any, model: Any, given: Given, n_seq: int = 1) -> Any:
    params = library.LlamaContextParams()
    params.n_ctx, params.n_batch, params.n_ubatch = given.ctx, given.batch, given.batch
    params.n_threads = params.n_threads_batch = given.threads
    params.n_seq_max, params.no_perf = n_seq, True
    return library.LlamaContext(model, params)


def _greedy_chain(library: Any) -> Any:
    params = library.LlamaSamplerChainParams()
    params.no_perf = True
    sampler = library.LlamaSampler(params)
    sampler.add_greedy()
    return sampler


def _version() -> str:
    import cyllama

    return str(cyllama.__version__)


def _begin(how: str) -> None:
    ready(version=_version(), how=how)


def _prompted(library: Any, ctx: Any, prompt: list[int]) -> None:
    ctx.kv_cache_clear()
    ctx.decode(library.llama_batch_get_one(prompt, 0))


def _greedy_loop(library: Any, ctx: Any, vocab: Any, sampler: Any, at: int, n: int) -> list[int]:
    out = []
    for position in range(at, at + n):
        token = sampler.sample(ctx, -1)
        vocab.is_eog(token)  # a program would stop at the end of the text
        out.append(token)
        ctx.decode(library.llama_batch_get_one([token], position))
    return out


def greedy(given: Given) -> None:
    library = _library()
    model = _model(library, given)
    ctx, vocab, sampler = _context(library, model, given), model.get_vocab(), _greedy_chain(library)
    at = len(given.prompt)
    _prompted(library, ctx, given.prompt)
    _greedy_loop(library, ctx, vocab, sampler, at, 4)
    _begin("LlamaSampler.sample and LlamaContext.decode, as in LLM")
    for _ in repetitions():
        _prompted(library, ctx, given.prompt)
        started = perf_counter()
        out = _greedy_loop(library, ctx, vocab, sampler, at, given.tokens)
        answer(perf_counter() - started, len(out), digest(out))


def stream(given: Given) -> None:
    from cyllama import LLM, GenerationConfig

    config = GenerationConfig(
        max_tokens=given.tokens,
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=0.0,
        repeat_penalty=1.1,
        penalty_last_n=64,
        seed=given.seed,
        n_ctx=given.ctx,
        n_batch=given.batch,
        n_gpu_layers=0,
    )
    llm = LLM(given.model, config=config)
    next(llm(given.text, stream=True))
    llm._ctx.set_n_threads(given.threads, given.threads)  # its configuration lacks the option
    _begin("LLM(prompt, stream=True), min_p=0; items are the tokens after the first")
    for _ in repetitions():
        started = perf_counter()
        chunks = llm(given.text, stream=True)
        text = [next(chunks)]
        first = perf_counter()
        text += chunks
        ended = perf_counter()
        answer(ended - first, len(text) - 1, digest("".join(text)), first=first - started, tokens=len(text))


def tokenize(given: Given) -> None:
    model = _model(_library(), given)
    vocab = model.get_vocab()  # it does not keep the model alive
    text = Path(given.file).read_text(encoding="utf-8")
    _begin("LlamaVocab.tokenize: a list")
    for _ in repetitions():
        started = perf_counter()
        tokens = vocab.tokenize(text, True, False)
        answer(perf_counter() - started, len(tokens), digest(tokens))


def detokenize(given: Given) -> None:
    model = _model(_library(), given)
    vocab = model.get_vocab()  # it does not keep the model alive
    tokens = vocab.tokenize(Path(given.file).read_text(encoding="utf-8"), True, False)
    _begin("LlamaVocab.detokenize: a string")
    for _ in repetitions():
        started = perf_counter()
        text = vocab.detokenize(tokens)
        answer(perf_counter() - started, len(tokens), digest(text))


def logits1(given: Given) -> None:
    library = _library()
    ctx = _context(library, _model(library, given), given)
    ctx.decode(library.llama_batch_get_one([1], 0))
    try:
        ctx.get_logits_ith(-1)
    except AttributeError as error:
        raise Unavailable(f"LlamaContext.get_logits_ith fails: {error}") from None
    _begin("LlamaContext.get_logits_ith: a list")
    for _ in repetitions():
        started = perf_counter()
        for _ in range(given.calls):
            row = ctx.get_logits_ith(-1)
        answer(perf_counter() - started, given.calls, str(len(row)))


def logits512(given: Given) -> None:
    raise Unavailable("its outputs are read one position at a time")


def batch(given: Given) -> None:
    library = _library()
    ctx = _context(library, _model(library, given), given, N_SEQ)
    reused = library.LlamaBatch(n_tokens=512, embd=0, n_seq_max=N_SEQ)
    tokens, each = filling(512), 512 // N_SEQ

    def fill() -> None:
        reused.reset()
        for seq in range(N_SEQ):
            for position in range(each):
                reused.add(tokens[seq * each + position], position, [seq], position == each - 1)

    fill()
    ctx.decode(reused)
    _begin("LlamaBatch.add and LlamaContext.decode")
    for _ in repetitions():
        ctx.kv_cache_clear()
        started = perf_counter()
        fill()
        filled = perf_counter()
        ctx.decode(reused)
        ctx.synchronize()
        answer(perf_counter() - started, 512, "", fill=filled - started)


def embed(given: Given) -> None:
    from cyllama.rag.embedder import Embedder

    embedder = Embedder(given.model, n_ctx=given.ctx, n_batch=given.batch, n_gpu_layers=0)
    embedder._ctx.set_n_threads(given.threads, given.threads)
    texts = Path(given.file).read_text(encoding="utf-8").splitlines()
    embedder.embed_batch(texts[:8])
    _begin("rag.embedder.Embedder.embed_batch: normalized lists, one text after another, pooled in Python")
    for _ in repetitions():
        started = perf_counter()
        rows = embedder.embed_batch(texts)
        seconds = perf_counter() - started
        norm = sum(value * value for value in rows[0]) ** 0.5
        answer(seconds, len(rows), f"({len(rows)}, {len(rows[0])}) float {norm:.3f}")


def state(given: Given) -> None:
    library = _library()
    ctx = _context(library, _model(library, given), given)
    ctx.decode(library.llama_batch_get_one(filling(256), 0))
    _begin("LlamaContext.get_state_data and set_state_data")
    for _ in repetitions():
        started = perf_counter()
        data = ctx.get_state_data()
        saved = perf_counter()
        read = ctx.set_state_data(data)
        ended = perf_counter()
        check = f"{len(data)} {int(read == len(data))}"
        answer(ended - started, 1, check, save=saved - started, load=ended - saved, bytes=len(data))


def load(given: Given) -> None:
    started = perf_counter()
    library = _library()
    imported = perf_counter()
    ctx = _context(library, _model(library, given), given)
    loaded = perf_counter()
    ctx.decode(library.llama_batch_get_one(given.prompt, 0))
    token = _greedy_chain(library).sample(ctx, -1)
    ended = perf_counter()
    parts = {"import": imported - started, "load": loaded - imported, "first": ended - loaded}
    answer(ended - started, 1, digest([token]), ready=True, version=_version(), **parts)


def import_(given: Given) -> None:
    import cyllama

    answer(import_cpu("import cyllama"), 1, "", ready=True, version=cyllama.__version__)


def memory_(given: Given) -> None:
    library = _library()
    model = _model(library, given)
    ctx, vocab = _context(library, model, given), model.get_vocab()
    _prompted(library, ctx, given.prompt)
    out = _greedy_loop(library, ctx, vocab, _greedy_chain(library), len(given.prompt), 32)
    answer(0.0, 1, digest(out), ready=True, **memory())


def callback(given: Given) -> None:
    """The cost of a callback into Python: decoding with a function called per node of the graph, and without."""
    library = _library()
    model, called = _model(library, given), 0

    def on_node(*_: Any) -> bool:
        nonlocal called
        called += 1
        return False

    contexts = _context(library, model, given), _context(library, model, given)
    contexts[1].set_abort_callback(on_node)
    _begin("LlamaContext.set_abort_callback")
    for _ in repetitions():
        seconds = []
        for ctx in contexts:
            ctx.kv_cache_clear()
            called, started = 0, perf_counter()
            for i in range(given.calls):
                ctx.decode(library.llama_batch_get_one([100 + i % 1000], i))
            seconds.append(perf_counter() - started)
        answer(seconds[1] - seconds[0], called, "")


CASES: dict[str, Callable[[Given], None]] = {
    "greedy": greedy,
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
    "memory": memory_,
    "callback": callback,
}


if __name__ == "__main__":
    run(CASES)
