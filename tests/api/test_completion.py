"""Greedy text through the facade equals the same loop over raw `lib` calls, on a tiny model and on Gemma."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi import Batch, Context, Model, Sampler, detokenize, ffi, lib, tokenize

ROOT = Path(__file__).resolve().parents[2]


def facade_greedy(model: Model, prompt: str, n: int) -> list[int]:
    out: list[int] = []
    with Context.initFromModel(model, Context.Params(nCtx=256, nThreads=2)) as ctx, Sampler.initGreedy() as sampler:
        ctx.decode(Batch.getOne(tokenize(model.vocab, prompt)))
        while len(out) < n:
            token = sampler.sample(ctx, -1)
            if model.vocab.isEog(token):
                break
            out.append(token)
            ctx.decode(Batch.getOne([token]))
    return out


def raw_greedy(path: Path, prompt: str, n: int) -> list[int]:
    """The same with nothing of the facade: C calls, and the likeliest token found by hand."""
    params = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model != ffi.NULL
    vocab = lib.llama_model_get_vocab(model)
    n_vocab = lib.llama_vocab_n_tokens(vocab)
    context_params = lib.llama_context_default_params()
    context_params.n_ctx, context_params.n_threads = 256, 2
    context = lib.llama_init_from_model(model, context_params)
    tokens = ffi.new("llama_token[]", 256)
    count = lib.llama_tokenize(vocab, prompt.encode(), len(prompt.encode()), tokens, 256, True, False)
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, count)) == 0
    out: list[int] = []
    while len(out) < n:
        logits = ffi.unpack(lib.llama_get_logits_ith(context, -1), n_vocab)
        token = max(range(n_vocab), key=logits.__getitem__)
        if lib.llama_vocab_is_eog(vocab, token):
            break
        out.append(token)
        tokens[0] = token
        assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, 1)) == 0
    lib.llama_free(context)
    lib.llama_model_free(model)
    return out


def test_greedy_on_the_tiny_model(tiny: Model, tiny_path: Path) -> None:
    tokens = facade_greedy(tiny, "Once upon a time", 60)
    assert tokens == raw_greedy(tiny_path, "Once upon a time", 60)
    assert len(set(tokens)) > 20  # not a loop, which anything would reproduce


def test_greedy_on_gemma(gemma: Model, gemma_path: Path) -> None:
    tokens = facade_greedy(gemma, "The capital of France is", 24)
    assert tokens == raw_greedy(gemma_path, "The capital of France is", 24)
    assert "capital" in detokenize(gemma.vocab, tokens)  # English about the prompt, not noise


def test_the_same_seed_gives_the_same_text(tiny: Model) -> None:
    def run(seed: int) -> list[int]:
        chain = Sampler.chainInit()
        chain.chainAdd(Sampler.initPenalties(64, 1.1, 0.0, 0.0))
        chain.chainAdd(Sampler.initTopK(40))
        chain.chainAdd(Sampler.initTopP(0.9, 1))
        chain.chainAdd(Sampler.initDist(seed))
        with chain, Context.initFromModel(tiny, Context.Params(nCtx=256)) as ctx:
            ctx.decode(Batch.getOne(tokenize(tiny.vocab, "Hello")))
            out = []
            for _ in range(20):
                out.append(chain.sample(ctx, -1))
                ctx.decode(Batch.getOne(out[-1:]))
            return out

    assert run(7) == run(7) != run(8)


@pytest.mark.parametrize("extra", [[], ["--temperature", "0"]])
def test_the_example(tiny_path: Path, extra: list[str]) -> None:
    command = [sys.executable, str(ROOT / "examples" / "completion.py"), "--model", str(tiny_path)]
    command += ["--prompt", "Grüße, 世界: ", "-n", "12", "--seed", "3", *extra]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("Grüße, 世界: ")
    assert len(first.stdout) > len("Grüße, 世界: \n")
    assert subprocess.run(command, capture_output=True, text=True, timeout=120).stdout == first.stdout


def test_the_example_reads_prompts_longer_than_a_batch(tiny: Model) -> None:
    import completion

    with Context.initFromModel(tiny, Context.Params(nCtx=256, nBatch=16, nUbatch=16)) as ctx:
        tokens = tokenize(tiny.vocab, "word " * 100)
        assert len(tokens) > 64
        with Sampler.initGreedy() as sampler:
            assert len(list(completion.generate(ctx, sampler, tokens, 5))) == 5
        assert ctx.getMemory().seqPosMax(0) == len(tokens) + 3


def test_the_example_says_what_is_wrong() -> None:
    command = [sys.executable, str(ROOT / "examples" / "completion.py"), "--model", "/nonexistent.gguf"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and "/nonexistent.gguf" in result.stderr
