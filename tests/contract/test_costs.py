"""What the binding costs, held by counts: calls of C, allocations and copies. Times are for benchmarks/contest."""

from __future__ import annotations

import site
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Batch, Context, Generation, Model, Sampler, detokenize, ffi, lib, tokenize
from llama_cffi.generation.text_stream import TextStream

TOKENS = 50


def chain() -> Sampler:
    """The usual chain."""
    return Sampler.chain(
        Sampler.initPenalties(64, 1.1), Sampler.initTopK(40), Sampler.initTopP(0.95), Sampler.initDist(1)
    )


def greedy_loop(ctx: Context, sampler: Sampler, n: int) -> None:
    is_eog = ctx.getModel().vocab.isEog
    for _ in range(n):
        token = sampler.sample(ctx, -1)
        is_eog(token)
        ctx.decode(Batch.getOne([token]))


def count(function: Callable[[], object]) -> tuple[Counter[str], int]:
    """How often each function of the library, and of cffi, is called; and how many calls of Python functions."""
    c_calls: Counter[str] = Counter()
    python = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal python
        if event == "call":
            python += 1
        elif event == "c_call" and getattr(argument, "__self__", None) in (lib, ffi):
            c_calls[argument.__name__] += 1

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return c_calls, python


def started(ctx: Context) -> Context:
    ctx.decode(Batch.getOne([1, 2, 3]))
    return ctx


def test_calls_of_c_for_a_token(ctx: Context) -> None:
    """As many as C itself makes: sample, ask for the end, decode; and a batch of one token is two small objects."""
    with Sampler.initGreedy() as sampler:
        greedy_loop(started(ctx), sampler, 2)
        c_calls, python = count(lambda: greedy_loop(ctx, sampler, TOKENS))
    per_token = {name: number / TOKENS for name, number in c_calls.items()}
    assert per_token == {"shim_sample": 1, "llama_vocab_is_eog": 1, "shim_compute": 1, "new": 2}
    assert python / TOKENS < 12


def test_calls_of_c_for_a_batch_that_is_used_again(ctx: Context) -> None:
    sampler, batch = chain(), Batch.getOne([1])
    token = batch.token
    assert token is not None

    def loop() -> None:
        for _ in range(TOKENS):
            token[0] = sampler.sample(ctx, -1)
            ctx.decode(batch)

    started(ctx)
    sampler.sample(ctx, -1)
    c_calls, python = count(loop)
    assert {name: number / TOKENS for name, number in c_calls.items()} == {"shim_sample": 1, "shim_compute": 1}
    assert python / TOKENS < 4  # sample, decode, and what that calls


def test_calls_for_a_token_of_a_generation(ctx: Context) -> None:
    """No more than a loop by hand makes, and the text besides."""

    def generate(n: int) -> tuple[Counter[str], int]:
        ctx.getMemory().clear()
        with Sampler.initGreedy() as sampler:
            generation = Generation(ctx, "Once", sampler=sampler, maxTokens=n, stop=["never"])
            return count(lambda: list(generation.steps()))

    (few, few_python), (many, many_python) = generate(10), generate(10 + TOKENS)
    per_token = {name: number / TOKENS for name, number in (many - few).items()}
    assert per_token == {"shim_sample": 1, "llama_vocab_is_eog": 1, "shim_compute": 1, "llama_token_to_piece": 1}
    assert (many_python - few_python) / TOKENS <= 14


def test_calls_of_c_for_the_text_of_a_token(tiny: Model) -> None:
    """Each token is looked at once."""
    tokens = tokenize(tiny.vocab, "Once upon a time there was a café 🙂", addSpecial=False)
    stream = TextStream(tiny.vocab, stop=["never", "nevermore"])
    c_calls, _ = count(lambda: [stream.feed(token) for token in tokens])
    assert c_calls == {"llama_token_to_piece": len(tokens)}


def test_memory_does_not_grow_with_tokens(ctx: Context) -> None:
    sampler = chain()
    greedy_loop(started(ctx), sampler, 10)
    tracemalloc.start()
    try:
        greedy_loop(ctx, sampler, 5)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        greedy_loop(ctx, sampler, 100)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now - before < 1024
    assert peak - before < 4096


def test_a_text_is_tokenized_in_one_call(tiny: Model) -> None:
    """Also where a token is as short as a byte."""
    for text in ("Once upon a time. " * 500, "🙂🚀👩‍💻" * 300, "\x01\x02\x03" * 300, "汉字" * 500):
        c_calls, _ = count(lambda text=text: tokenize(tiny.vocab, text))  # type: ignore[misc]
        assert c_calls["llama_tokenize"] == 1
        tokens = tokenize(tiny.vocab, text)
        c_calls, _ = count(lambda tokens=tokens: detokenize(tiny.vocab, tokens))  # type: ignore[misc]
        assert c_calls["llama_detokenize"] == 1


def test_outputs_are_not_copied(ctx: Context) -> None:
    batch = Batch.init(8)
    batch.extend(range(1, 9), 0, output="all")
    ctx.decode(batch)
    n = ctx.getModel().vocab.nTokens
    whole = np.asarray(ctx.getLogits())
    assert whole.shape == (8, n) and whole.dtype == np.float32
    assert whole.ctypes.data == int(ffi.cast("intptr_t", lib.llama_get_logits(ctx._c)))
    row = np.asarray(ctx.getLogitsIth(3))
    assert np.shares_memory(row, whole[3]) and row.ctypes.data == whole[3].ctypes.data
    c_calls, _ = count(lambda: ctx.getLogitsIth(3))
    assert c_calls == {"shim_logits": 1, "gc": 1}


def test_a_batch_of_many_tokens_is_filled_by_pieces() -> None:
    """The cost of a piece does not depend on how many tokens it has."""
    batch = Batch.init(4096, nSeqMax=2)
    counted = []
    for n in (8, 2048):
        batch.clear()
        counted.append(count(lambda n=n: batch.extend(range(n), 0, (0, 1), "last")))  # type: ignore[misc]
    assert counted[0] == counted[1]


# What the import of the package costs: a module that takes long to import must not come in by the way.

# Each of these takes a millisecond or more, and several take ten.
HEAVY = {
    *("argparse", "array", "ast", "asyncio", "ctypes", "dataclasses", "glob", "importlib.metadata", "inspect", "json"),
    *("logging", "math", "numpy", "pathlib", "pydantic", "random", "re", "shutil", "socket", "struct", "subprocess"),
    *("tempfile", "typing", "typing_extensions", "urllib.parse", "jinja2", "llguidance", "huggingface_hub"),
}
MAIN = "from llama_cffi import Model, Context, Generation"
USE = """
with Model.load(sys.argv[1]) as model, Context.initFromModel(model, Context.Params(nCtx=64, nThreads=1)) as ctx:
    assert Generation(ctx, "Hello", maxTokens=3).result()
"""


def _imported(*statements: str, arguments: tuple[str, ...] = ()) -> list[set[str]]:
    """The modules that a new interpreter has imported after each of the statements, without those it starts with.

    Without the environment's .pth files (-S), which may import what is looked for.
    """
    paths = [str(Path(__file__).resolve().parents[2]), *site.getsitepackages()]
    code = f"import sys; sys.path[:0] = {paths!r}; import site; print(*sys.modules)\n"
    code += "".join(f"{part}\nprint(*sys.modules)\n" for part in statements)
    result = subprocess.run([sys.executable, "-S", "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    first, *rest = (set(line.split()) for line in result.stdout.splitlines())
    return [found - first for found in rest]


def test_import_loads_little() -> None:
    """What a program does not use is not imported."""
    (loaded,) = _imported("import llama_cffi")
    assert not loaded & {*HEAVY, "enum"}
    assert {name for name in loaded if name.startswith("llama_cffi.")} == set()
    (loaded,) = _imported("from llama_cffi import lib")
    assert not loaded & {*HEAVY, "enum"}
    assert len([name for name in loaded if name.startswith("llama_cffi.")]) <= 7


@pytest.mark.older("llama_context_params.moe_cache_size", "its structs load compat_fields too")
def test_import_of_the_main_classes_loads_little(tiny_path: Path) -> None:
    """And a program that loads a model and generates text imports next to nothing besides."""
    loaded, used = _imported(MAIN, USE, arguments=(str(tiny_path),))
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.split(".")[0] == "llama_cffi"}
    assert len(ours) <= 82, sorted(ours)
    assert len(loaded - ours) <= 26, sorted(loaded - ours)
    assert used - loaded <= {"_json", "resource"}


@pytest.mark.older("llama_version", "fields of compat_fields name their enumerations at import")
def test_import_makes_no_enumeration() -> None:
    """Each takes as long as the import of a small module."""
    code = f"{MAIN}\nfrom llama_cffi._generated import enums\nprint(*(set(vars(enums)) & set(enums.__all__)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_import_makes_every_function_of_lib() -> None:
    """cffi would make them at first use, which two threads must not do at once."""
    code = "import gc; from llama_cffi import lib\n"
    code += (
        "made = next(part for part in gc.get_referents(lib) if isinstance(part, dict)); print({*dir(lib)} - {*made})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout.strip()) == (0, "set()"), result.stderr
