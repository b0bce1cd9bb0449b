"""What a newcomer meets first: messages that name the next step, in Python."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import (
    LLM,
    ChatSession,
    ChatTemplate,
    Context,
    ContextFullError,
    Embedder,
    Engine,
    Generation,
    Model,
    Sampler,
    choose,
    defaultSampler,
    load,
    perplexity,
    score,
    tokenize,
)
from llama_cffi.model import hub_cache, missing_file

CHAT = {"template": "chatml"}


@pytest.fixture(scope="module")
def llm(tiny: Model) -> Any:
    with LLM(tiny, nCtx=256, nThreads=1, template="chatml") as made:
        yield made


# The context window


def test_a_prompt_beyond_the_context_window(llm: LLM) -> None:
    long = "word " * 500
    many = len(llm.tokenize(long))
    for call in (
        lambda: llm.complete(long),
        lambda: llm.complete(long, maxTokens=4),
        lambda: llm.chat(long),
        lambda: llm.score(long),
        lambda: llm.engine.submit(long, maxTokens=4),
    ):
        with pytest.raises(ContextFullError, match=r"the prompt has \d+ tokens, but the context window 256: .*nCtx"):
            call()
    with pytest.raises(ContextFullError, match=rf"{many} tokens") as caught:
        llm.complete(long)
    assert "maxTokens" not in str(caught.value)
    with pytest.raises(ContextFullError, match=r"the prompt has \d+ tokens and maxTokens is 300.*256: lower maxTokens"):
        llm.complete("word", maxTokens=300)


# An LLM where a part of it belongs


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda llm: ChatSession(llm), "context"),
        (lambda llm: ChatSession.load(llm, "a.session"), "context"),
        (lambda llm: Generation(llm, "Hello"), "context"),
        (lambda llm: Sampler.initGreedy().sample(llm), "context"),
        (lambda llm: Context.initFromModel(llm), "model"),
        (lambda llm: Engine(llm), "model"),
        (lambda llm: Embedder(llm), "model"),
        (lambda llm: LLM(llm), "model"),
        (lambda llm: ChatTemplate(llm), "model"),
        (lambda llm: perplexity(llm, "Hello"), "engine"),
        (lambda llm: score(llm, "Hello"), "engine"),
        (lambda llm: choose(llm, "Hello", ["a"]), "engine"),
        (lambda llm: tokenize(llm, "Hello"), "model.vocab"),
    ],
)
def test_an_llm_in_place_of_its_part(llm: LLM, call: Callable[[Any], object], part: str) -> None:
    with pytest.raises(TypeError, match=rf"expected .*, got LLM: pass llm\.{part}$"):
        call(llm)


# Numbers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"topP": 1.5}, "topP must be between 0 and 1, got 1.5"),
        ({"topP": -0.1, "temperature": 0}, "topP must be between 0 and 1"),
        ({"minP": 2}, "minP must be between 0 and 1"),
        ({"repeatPenalty": 0}, "repeatPenalty must be greater than 0"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"topK": 1 << 40}, "topK must be between"),
        ({"seed": -1}, "seed must be between 0 and 4294967295, got -1: leave it out"),
        ({"maxTokens": -1}, "maxTokens must be between 0 and .*, got -1: None means until the end"),
    ],
)
def test_numbers_out_of_their_range(llm: LLM, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        llm.complete("Hello", **options)
    with pytest.raises(ValueError, match=words):
        llm.chat("Hello", **options)
    limit = {name: options.pop(name) for name in ("maxTokens",) if name in options}
    with pytest.raises(ValueError, match=words):
        llm.session(**options).send("Hello", **limit)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"typicalP": 1.1}, "typicalP.*1.1"),
        ({"xtcProbability": 2}, "xtcProbability.*2"),
        ({"frequencyPenalty": float("inf")}, "frequencyPenalty.*inf"),
        ({"presencePenalty": float("nan")}, "presencePenalty.*nan"),
    ],
)
def test_numbers_are_reported_by_their_names(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        defaultSampler(**options)


def test_what_llama_cpp_gives_a_meaning(llm: LLM) -> None:
    greedy = llm.complete("Hello", maxTokens=4, temperature=0)
    assert llm.complete("Hello", maxTokens=4, temperature=-1.0) == greedy
    assert llm.complete("Hello", maxTokens=4, topK=-1, seed=3) == llm.complete("Hello", maxTokens=4, topK=0, seed=3)


def test_where_the_sampling_numbers_go(llm: LLM) -> None:
    with pytest.raises(TypeError, match=r"temperature.*llm\.session.*sampler=defaultSampler\(temperature="):
        llm.session().send("Hello", temperature=0)  # type: ignore[call-arg]


def test_a_message_without_content(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"a message needs content, got .*'user'.*write"):
        llm.chat([{"role": "user"}])
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match=r"contents.*did you mean 'content'"):
        llm.engine.chat([{"role": "user", "contents": "Hello"}], template=template)
    with pytest.raises(ValueError, match="there is no template 'chatlm': did you mean 'chatml'"):
        ChatTemplate(llm.model, "chatlm")


# Log-probabilities


def test_log_probabilities_of_a_completion(llm: LLM) -> None:
    text = llm.complete("Hello", maxTokens=5, temperature=0, logProbs=2)
    assert "".join(step.text for step in text.logProbs) == text
    assert [step.token for step in text.logProbs] == text.tokens
    assert all(step.logProb is not None and len(step.alternatives) == 2 for step in text.logProbs)
    assert llm.chat("Hello", maxTokens=3, logProbs=0).logProbs[0].logProb is not None
    assert llm.complete("Hello", maxTokens=5).logProbs == []


# Files


def test_a_file_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LLAMA_CFFI_CACHE", str(tmp_path / "tools"))
    monkeypatch.setattr(hub_cache, "cache_folder", lambda: str(tmp_path / "hub"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    cached = tmp_path / "tools/models/small.Q4_0.gguf"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"GGUF")
    hub = "for a file of the Hugging Face Hub, write hf:"
    for path, step in {
        "~/model.gguf": "expanduser",
        "https://huggingface.co/org/repo/resolve/main/a/b.gguf?download=true": "write hf:org/repo/a/b.gguf)",
        "https://huggingface.co/org/repo/blob/v1/b.gguf": "write hf:org/repo@v1/b.gguf)",
        "https://huggingface.co/org/repo": "write hf:org/repo/FILE.gguf)",
        "huggingface.co/org/repo": "write hf:org/repo/FILE.gguf)",
        "https://example.org/model.gguf": "a URL is not downloaded",
        "org/repo-GGUF": f"{hub}org/repo-GGUF/FILE.gguf)",
        "org/repo-GGUF/model-Q4_0.gguf": f"{hub}org/repo-GGUF/model-Q4_0.gguf)",
        "small.Q4_0.gguf": f"the cache has {cached})",
        "small.Q4_0": f"the cache has {cached})",
    }.items():
        with pytest.raises(FileNotFoundError) as caught:
            load(path)
        assert step in str(caught.value) and caught.value.filename == path, path
    for path in ("modle.gguf", "models/modle.gguf", "/a/b/c.gguf", "tools/b/c.gguf", "~/other.gguf", ""):
        assert missing_file.hint(path) == "", path
    with pytest.raises(FileNotFoundError) as caught:
        load("modle.gguf")
    assert str(caught.value) == "[Errno 2] No such file or directory: 'modle.gguf'"


# GPUs


def test_layers_for_a_gpu_that_is_not_there(tiny_path: Path) -> None:
    code = (
        "import sys, llama_cffi\n"
        "from llama_cffi import Model\n"
        "llama_cffi.load(sys.argv[1], nGpuLayers=99).close()\n"
        "Model.load(sys.argv[1], Model.Params(nGpuLayers=5)).close()\n"
    )
    env = {name: value for name, value in os.environ.items() if name not in ("GGML_USE_VULKAN", "PYTHONWARNINGS")}
    command = [sys.executable, "-W", "always", "-c", code, str(tiny_path)]
    said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stderr
    assert said.count("RuntimeWarning") == 1 and "nGpuLayers=99 has no effect" in said and "<string>:3" in said
    assert "vkLoad()" in said or "BACKEND=vulkan" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layers in (0, -1):
            Model.load(tiny_path, Model.Params(nGpuLayers=layers)).close()
        Model.load(tiny_path).close()
