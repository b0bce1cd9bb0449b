"""llama-cpp-python in the contest: `python benchmarks/peers/with_llama_cpp_python.py CASE key=value ...`.

Each case is what its users write, with `Llama` where possible and with its lower layers otherwise. It runs with the
libraries in `LLAMA_CPP_LIB_PATH`; their CPU backend is a separate file, which is loaded first. Settings for which
`Llama` has other defaults than llama.cpp (flash attention, performance counters) are set to llama.cpp's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from protocol import N_SEQ, Given, Unavailable, answer, digest, filling, import_cpu, memory, ready, repetitions, run

COPYING = 0.5  # seconds of copying in a repetition of `logits512`


def _backend(given: Given) -> Any:
    """Import the package, and load the CPU backend through it."""
    import ctypes

    from llama_cpp import llama_cpp

    llama_cpp.llama_log_set(_silent(llama_cpp), None)
    path = given.backend or os.environ.get("PEER_CPU_MODULE", "")
    if not path:
        raise Unavailable("backend=FILE (or PEER_CPU_MODULE) must name the file of the CPU backend's variant")
    load = llama_cpp._lib.ggml_backend_load
    load.argtypes, load.restype = [ctypes.c_char_p], ctypes.c_void_p
    if not load(os.fsencode(path)):
        raise RuntimeError(f"{path} could not be loaded as a backend")
    return llama_cpp


def _silent(llama_cpp: Any) -> Any:
    """A log callback that prints nothing: `verbose=False` still prints warnings, as errors."""
    global _log
    _log = _log or llama_cpp.llama_log_callback(lambda level, text, data: None)
    return _log


_log: Any = None  # the library calls it until the process ends


def _llama(given: Given, **more: Any) -> Any:
    _backend(given)
    from llama_cpp import Llama

    return Llama(
        given.model,
        n_ctx=given.ctx,
        n_batch=given.batch,
        n_ubatch=given.batch,
        n_threads=given.threads,
        n_threads_batch=given.threads,
        seed=given.seed,
        flash_attn=True,
        no_perf=True,
        verbose=False,
        **more,
    )


def _begin(how: str = "") -> None:
    import llama_cpp

    ready(version=llama_cpp.__version__, **({"how": how} if how else {}))


def _prompted(llm: Any, prompt: list[int]) -> None:
    """Clear the memory and decode a prompt."""
    llm.reset()
    llm._ctx.kv_cache_clear()
    llm.eval(prompt)


def _greedy_loop(llm: Any, prompt: list[int], n: int) -> list[int]:
    """Generate greedily after a prompt that is already decoded."""
    from llama_cpp import llama_vocab_is_eog

    vocab, out = llm._model.vocab, []
    for token in llm.generate(prompt, temp=0.0):
        llama_vocab_is_eog(vocab, token)  # a program would stop at the end of the text
        out.append(token)
        if len(out) == n:
            break
    llm.eval([token])  # the generator decodes when it is asked for the next one
    return out


def greedy(given: Given) -> None:
    llm = _llama(given)
    _prompted(llm, given.prompt)
    _greedy_loop(llm, given.prompt, 4)
    _begin("Llama.generate with temp=0, which takes the greedy sampler")
    for _ in repetitions():
        _prompted(llm, given.prompt)
        started = perf_counter()
        out = _greedy_loop(llm, given.prompt, given.tokens)
        answer(perf_counter() - started, len(out), digest(out))


def greedy_low(given: Given) -> None:
    """The same with the functions of llama.h, which the package also exposes."""

    llm = _llama(given)
    import llama_cpp

    ctx, vocab = llm._ctx.ctx, llm._model.vocab
    sampler = llama_cpp.llama_sampler_init_greedy()

    def decode(tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")

    def loop(n: int) -> list[int]:
        out = []
        one = (llama_cpp.llama_token * 1)()
        for _ in range(n):
            one[0] = token = llama_cpp.llama_sampler_sample(sampler, ctx, -1)
            llama_cpp.llama_vocab_is_eog(vocab, token)
            out.append(token)
            if llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(one, 1)) != 0:
                raise RuntimeError("llama_decode failed")
        return out

    llm._ctx.kv_cache_clear()
    decode(given.prompt)
    loop(4)
    _begin("llama_sampler_sample and llama_decode through ctypes")
    for _ in repetitions():
        llama_cpp.llama_memory_clear(llm._ctx.memory, False)
        decode(given.prompt)
        started = perf_counter()
        out = loop(given.tokens)
        answer(perf_counter() - started, len(out), digest(out))


def stream(given: Given) -> None:
    """Timed from the first piece of text on: the prompt is not measured, as with the others."""
    llm = _llama(given)
    prompt = llm.tokenize(given.text.encode())
    _begin("create_completion(stream=True), min_p=0; items are the tokens after the first piece of text")
    for _ in repetitions():
        llm.reset()
        llm._ctx.kv_cache_clear()
        started = perf_counter()
        chunks = llm.create_completion(
            given.text,
            stream=True,
            max_tokens=given.tokens,
            temperature=0.8,
            top_k=40,
            top_p=0.95,
            min_p=0.0,
            repeat_penalty=1.1,
            seed=given.seed,
        )
        text = [next(chunks)["choices"][0]["text"]]
        first = perf_counter()
        before = llm.n_tokens - len(prompt) + 1  # it may have taken more than one token to a whole character
        for chunk in chunks:
            text.append(chunk["choices"][0]["text"])
        ended = perf_counter()
        count = llm.n_tokens - len(prompt) + 1
        decoded = llm.input_ids[len(prompt) : llm.n_tokens].tolist()
        more = {"first": first - started, "tokens": count, "end": chunk["choices"][0]["finish_reason"]}
        answer(ended - first, count - before, digest("".join(text)), decoded=digest(decoded), **more)


def tokenize(given: Given) -> None:
    llm, text = _llama(given), Path(given.file).read_bytes()
    _begin("Llama.tokenize: a list")
    for _ in repetitions():
        started = perf_counter()
        tokens = llm.tokenize(text)
        answer(perf_counter() - started, len(tokens), digest(tokens))


def detokenize(given: Given) -> None:
    llm = _llama(given)
    tokens = llm.tokenize(Path(given.file).read_bytes())
    _begin("Llama.detokenize: bytes")
    for _ in repetitions():
        started = perf_counter()
        text = llm.detokenize(tokens)
        answer(perf_counter() - started, len(tokens), digest(text))


def _floats(array: Any) -> str:
    return str(digest(array.reshape(-1)[:16].tobytes()))


def logits1(given: Given) -> None:
    llm = _llama(given)
    import numpy as np

    llm.eval([1])
    ctx, shape = llm._ctx, (llm.n_vocab(),)
    _begin("numpy.ctypeslib.as_array of get_logits_ith(-1): no copy")
    for _ in repetitions():
        started = perf_counter()
        for _ in range(given.calls):
            array = np.ctypeslib.as_array(ctx.get_logits_ith(-1), shape=shape)
        answer(perf_counter() - started, given.calls, _floats(array))


def logits512(given: Given) -> None:
    llm = _llama(given, logits_all=True)
    import numpy as np

    llm.eval(filling(512))
    n_vocab = llm.n_vocab()
    _begin("logits_all=True: what Llama.eval does after it has decoded, a copy into Llama.scores; `eval` has both")
    for _ in repetitions():
        count, started = 0, perf_counter()
        while count < given.calls and perf_counter() - started < COPYING:
            logits = np.ctypeslib.as_array(llm._ctx.get_logits(), shape=(512 * n_vocab,))
            llm.scores[:512, :].reshape(-1)[::] = logits
            count += 1
        ended = perf_counter()
        llm.reset()
        again = perf_counter()
        llm.eval(filling(512))
        whole = perf_counter() - again
        answer(ended - started, count, _floats(llm.scores), eval=whole)


def batch(given: Given) -> None:
    _backend(given)
    import llama_cpp
    from llama_cpp import _internals as internals

    model_params, params = llama_cpp.llama_model_default_params(), llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = given.ctx, given.batch, given.batch
    params.n_threads = params.n_threads_batch = given.threads
    params.n_seq_max = N_SEQ
    llama_cpp.llama_backend_init()
    model = internals.LlamaModel(path_model=given.model, params=model_params, verbose=False)
    ctx = internals.LlamaContext(model=model, params=params, verbose=False)
    reused = internals.LlamaBatch(n_tokens=512, embd=0, n_seq_max=N_SEQ, verbose=False)
    tokens, each = filling(512), 512 // N_SEQ

    def fill() -> None:
        reused.reset()
        for seq in range(N_SEQ):
            reused.add_sequence(tokens[seq * each : (seq + 1) * each], seq, False)

    fill()
    ctx.decode(reused)
    _begin("LlamaBatch.add_sequence and LlamaContext.decode of its internals: Llama itself has one sequence")
    import numpy as np

    for _ in repetitions():
        ctx.kv_cache_clear()
        started = perf_counter()
        fill()
        filled = perf_counter()
        ctx.decode(reused)
        llama_cpp.llama_synchronize(ctx.ctx)
        ended = perf_counter()
        row = np.ctypeslib.as_array(ctx.get_logits_ith(-1), shape=(16,))
        answer(ended - started, 512, _floats(row), fill=filled - started)


def embed(given: Given) -> None:
    _backend(given)
    import llama_cpp

    llm = _llama(given, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    texts = Path(given.file).read_text(encoding="utf-8").splitlines()
    llm.embed(texts[:8])
    _begin("Llama.embed(texts): lists of floats, of any length, since normalize=False is its default")
    import numpy as np

    for _ in repetitions():
        started = perf_counter()
        rows = llm.embed(texts)
        seconds = perf_counter() - started
        shape, first = (len(rows), len(rows[0])), np.asarray(rows[0])
        answer(seconds, len(rows), f"{shape} float {float(np.linalg.norm(first)):.3f}")


def state(given: Given) -> None:
    """`Llama.save_state`, which also copies its scores, and the raw bytes."""
    llm = _llama(given)
    import ctypes

    import llama_cpp

    llm.eval(filling(256))
    ctx = llm._ctx.ctx
    _begin("Llama.save_state and load_state; `save_low` and `load_low` are llama_state_get_data and its like")
    for _ in repetitions():
        started = perf_counter()
        saved = llm.save_state()
        between = perf_counter()
        llm.load_state(saved)
        ended = perf_counter()
        size = saved.llama_state_size
        begun = perf_counter()
        data = (ctypes.c_uint8 * llama_cpp.llama_state_get_size(ctx))()
        got = llama_cpp.llama_state_get_data(ctx, data, len(data))
        half = perf_counter()
        read = llama_cpp.llama_state_set_data(ctx, data, got)
        low = {"save_low": half - begun, "load_low": perf_counter() - half}
        check = f"{size} {int(read == size)}"
        answer(ended - started, 1, check, save=between - started, load=ended - between, bytes=size, **low)


def load(given: Given) -> None:
    started = perf_counter()
    import llama_cpp

    imported = perf_counter()
    llm = _llama(given)
    loaded = perf_counter()
    token = next(llm.generate(given.prompt, temp=0.0))
    ended = perf_counter()
    parts = {"import": imported - started, "load": loaded - imported, "first": ended - loaded}
    answer(ended - started, 1, digest([int(token)]), ready=True, version=llama_cpp.__version__, **parts)


def import_(given: Given) -> None:
    import llama_cpp

    answer(import_cpu("import llama_cpp"), 1, "", ready=True, version=llama_cpp.__version__)


def memory_(given: Given) -> None:
    llm = _llama(given)
    _prompted(llm, given.prompt)
    out = _greedy_loop(llm, given.prompt, 32)
    answer(0.0, 1, digest(out), ready=True, **memory())


def callback(given: Given) -> None:
    """The cost of a callback into Python: decoding with a function called per node of the graph, and without."""
    llm = _llama(given)
    import llama_cpp

    called = 0

    def on_node(data: Any) -> bool:
        nonlocal called
        called += 1
        return False

    counting, nothing = llama_cpp.ggml_abort_callback(on_node), llama_cpp.ggml_abort_callback()
    ctx, one = llm._ctx.ctx, (llama_cpp.llama_token * 1)()
    _begin("llama_set_abort_callback; `processor` is what a LogitsProcessorList that changes nothing adds to a token")
    for _ in repetitions():
        seconds = []
        for function in (nothing, counting):
            llama_cpp.llama_set_abort_callback(ctx, function, None)
            llm._ctx.kv_cache_clear()
            called, started = 0, perf_counter()
            for i in range(given.calls):
                one[0] = 100 + i % 1000
                llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(one, 1))
            seconds.append(perf_counter() - started)
        llama_cpp.llama_set_abort_callback(ctx, nothing, None)
        answer(seconds[1] - seconds[0], called, "", processor=_processor(llm, min(given.calls, 32)))


def _processor(llm: Any, n: int) -> float:
    """The cost of a logits processor in seconds per token."""
    from llama_cpp import LogitsProcessorList

    seconds = []
    for processors in (None, LogitsProcessorList([lambda ids, scores: scores])):
        _prompted(llm, [1])
        tokens = llm.generate([1], temp=0.0, logits_processor=processors)
        next(tokens)
        started = perf_counter()
        for _ in range(n):
            next(tokens)
        seconds.append(perf_counter() - started)
    return (seconds[1] - seconds[0]) / n


_TEXT = (greedy, greedy_low, stream, tokenize, detokenize)
_REST = (logits1, logits512, batch, embed, state, load, import_, memory_, callback)
CASES: dict[str, Callable[[Given], None]] = {case.__name__.rstrip("_"): case for case in (*_TEXT, *_REST)}


if __name__ == "__main__":
    run(CASES)
