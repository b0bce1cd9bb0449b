"""`python -m llama_cffi info`: the contents of a file, and the memory estimate against what llama.cpp allocates."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Context, Ggml, Model, logSet
from llama_cffi._host.resources import cpu_limits, usable_cpus
from tests import tiny_models
from tests.cli.commands import document, run
from tests.cli.fake_hub import REPO, FakeHub
from tests.cli.test_model_source import split_model
from tests.hostile.document import STRING, parse

TOLERANCE = 0.05  # repacked weights are in memory twice


def allocated(path: Path, params: Context.Params) -> float:
    """The bytes of all buffers that llama.cpp logs for a model and a context."""
    lines: list[str] = []
    logSet(lambda level, text, data: lines.append(text))
    try:
        with Model.load(path) as model, Context.initFromModel(model, params):
            pass
    finally:
        logSet(logging.getLogger("llama_cffi"))
    found = [re.search(r"buffer size = +([\d.]+) MiB", line) for line in lines]
    sizes = [float(match[1]) for match in found if match]
    assert len(sizes) >= 3
    return sum(sizes) * (1 << 20)


def test_what_a_file_says(tiny_path: Path, tiny: Model) -> None:
    result = run("info", tiny_path)
    assert (result.returncode, result.stderr) == (0, "")
    for words in (
        "architecture   llama",
        f"parameters     {tiny.nParams:,}",
        "vocabulary     32,000 tokens",
        "tokenizer.ggml.tokens",
        "32,000 of string: '<unk>', '<s>'",
        "Memory with a context of 512 tokens (keys in f16, values in f16)",
        "It fits.",
        f"Threads: {usable_cpus()} by default (",
    ):
        assert words in result.stdout
    assert "blk.1.attn_q.weight" not in result.stdout
    assert re.search(r"blk\.1\.attn_q\.weight +Q8_0 +64 x 64 +4.2 KiB", run("info", tiny_path, "--tensors").stdout)


def test_the_document(tiny_path: Path, tiny: Model) -> None:
    found = document("info", tiny_path, "-c", 512)
    assert found["path"] == str(tiny_path) and found["files"] == [str(tiny_path)]
    assert found["size"] == tiny_path.stat().st_size
    assert found["parameters"] == tiny.nParams
    assert found["n_ctx_train"] == tiny.nCtxTrain
    assert sum(tensor["size"] for tensor in found["tensors"]) == tiny.size
    assert found["metadata"]["llama.block_count"] == 2
    tokens = found["metadata"]["tokenizer.ggml.tokens"]
    assert (tokens["type"], tokens["length"], tokens["first"][:2]) == ("string", 32000, ["<unk>", "<s>"])
    assert found["fits"] is True and found["no_estimate"] is None
    memory = found["memory"]
    assert memory["n_ctx"] == 512 and memory["total"] == memory["devices"]["CPU"]["total"]
    limits = cpu_limits()
    assert (found["threads"], found["threads_reason"]) == (limits.usable, limits.reason)


@pytest.mark.parametrize("ctx", [256, 2048])
@pytest.mark.parametrize(("k", "v"), [("f16", "f16"), ("q8_0", "q8_0"), ("f32", "f16")])
def test_the_estimate(tiny_path: Path, ctx: int, k: str, v: str) -> None:
    options = ["-c", ctx, "--cache-type-k", k, "--cache-type-v", v, "--flash-attn", "on", "-t", 2]
    found = document("info", tiny_path, *options)["memory"]
    params = Context.Params(nCtx=ctx, nThreads=2, nThreadsBatch=2, flashAttnType=1)
    params.typeK, params.typeV = Ggml.Type[k.upper()], Ggml.Type[v.upper()]
    assert found["total"] == pytest.approx(allocated(tiny_path, params), rel=TOLERANCE)
    heads = 2 * ctx * 32  # layers, tokens, width of the one head of keys and values
    expected = sum(heads * {"f32": 4, "f16": 2, "q8_0": 34 / 32}[kind] for kind in (k, v))
    assert found["devices"]["CPU"]["cache"] == pytest.approx(expected, rel=0.05, abs=11_000)


@pytest.mark.parametrize("kind", ["bert", "t5", "mamba", "gpt2"])
def test_the_estimate_of_other_kinds(kind: str, tmp_path: Path) -> None:
    path = getattr(tiny_models, f"write_{kind}")(tmp_path / f"{kind}.gguf")
    found = document("info", path, "-c", 512, "-t", 2)["memory"]
    params = Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)
    assert found["total"] == pytest.approx(allocated(path, params), rel=TOLERANCE, abs=40_000)


def test_the_estimate_of_gemma(gemma_path: Path) -> None:
    found = document("info", gemma_path, "-c", 2048, "-t", 2)["memory"]
    params = Context.Params(nCtx=2048, nThreads=2, nThreadsBatch=2)
    assert found["total"] == pytest.approx(allocated(gemma_path, params), rel=TOLERANCE)
    assert found["devices"]["CPU"]["cache"] == pytest.approx(36 << 20, rel=0.01)


def test_what_does_not_fit(gemma_path: Path) -> None:
    result = run("info", gemma_path, "-c", 40_000_000)
    assert result.returncode == 0
    assert re.search(r"does not fit \(CPU\).*--ctx", result.stdout)
    result = run("info", gemma_path, "-c", 2_000_000_000)
    assert re.search(r"cannot be estimated: .*2,000,000,000 tokens.*--ctx", result.stdout)


def test_a_context_that_llama_cpp_refuses(tiny_path: Path) -> None:
    result = run("info", tiny_path, "--cache-type-v", "q8_0", "--flash-attn", "off")
    assert result.returncode == 0
    assert re.search(r"cannot be estimated: .*quantized V cache requires flash_attn", result.stdout)


def test_a_chat_template(tiny_path: Path, tmp_path: Path) -> None:
    result = run("info", tiny_path, "--template")
    assert (result.returncode, result.stdout) == (1, "") and "no chat template" in result.stderr
    path = tmp_path / "chat.gguf"
    builder = tiny_models._Builder(tiny_models.LLAMA, "llama")
    builder.writer.add_chat_template("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    builder.save(path)
    assert run("info", path, "--template").stdout == "{% for m in messages %}{{ m.content }}\n{% endfor %}\n"


def test_an_adapter_and_an_unknown_kind(tmp_path: Path) -> None:
    tiny_models.write_lora(tmp_path / "lora.gguf")
    result = run("info", tmp_path / "lora.gguf")
    assert result.returncode == 0
    assert re.search("cannot be estimated: .*adapter", result.stdout)
    builder = tiny_models._Builder(tiny_models.TinySpec(arch="clip"), "clip")
    builder.table("v.patch.weight", 64)
    builder.save(tmp_path / "clip.gguf")
    result = run("info", tmp_path / "clip.gguf")
    assert result.returncode == 0 and "v.patch.weight" in run("info", tmp_path / "clip.gguf", "--tensors").stdout
    assert "cannot be estimated: " in result.stdout


def test_a_split_model_and_one_of_the_hub(tiny_path: Path, tiny: Model, tmp_path: Path) -> None:
    paths = split_model(tiny_path, tmp_path)
    found: dict[str, Any] = document("info", paths[0])
    assert found["files"] == [str(path) for path in paths]
    assert found["parameters"] == tiny.nParams and found["memory"]["total"] > tiny.size
    with FakeHub({"tiny.gguf": tiny_path.read_bytes()}) as hub:
        result = run("info", f"hf:{REPO}/tiny.gguf", HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "home"))
    assert (result.returncode, result.stderr) == (0, "")
    assert f"parameters     {tiny.nParams:,}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["/nowhere/x.gguf"], 1, r"error: \[Errno 2\] No such file or directory: '/nowhere/x\.gguf'"),
        (["/nowhere"], 1, r"error: \[Errno 2\] No such file"),
        ([__file__], 1, r"test_info\.py .*GGUF"),
        (["hf:x"], 1, "hf:x.*Hugging Face Hub"),
        ([], 2, "^error: .*FILE.*LLAMA_CFFI_MODEL"),
        (["x.gguf", "-c", "-1"], 2, "--ctx.* 0 and 2147483647.*got -1"),
        (["x.gguf", "-c", "many"], 2, "--ctx.*integer.*got 'many'"),
        (["x.gguf", "--cache-type-k", "q2"], 2, "--cache-type-k.*f32.*got 'q2'"),
    ],
)
def test_errors(arguments: list[str], status: int, says: str) -> None:
    result = run("info", *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert re.search(says, result.stderr) and "Traceback" not in result.stderr


def test_a_pipe_that_breaks(tiny_path: Path) -> None:
    import subprocess
    import sys

    from tests.cli.commands import ROOT, environment

    command = f"{sys.executable} -m llama_cffi info {tiny_path} --tensors | true"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert result.stderr == ""


def test_verbose_shows_the_log(tiny_path: Path) -> None:
    result = run("info", tiny_path, "-v")
    assert "llama_model_loader: " in result.stderr and "architecture   llama" in result.stdout


def test_names_cannot_control_the_terminal(tiny_path: Path, tmp_path: Path) -> None:
    document_ = parse(tiny_path.read_bytes())
    name = "x\x1b[31m\x07\n\u202etxt.\x9b2J"
    document_.put("general.name", STRING, name.encode())
    document_.put("evil\x1b]0;title\x07key", STRING, name.encode())
    document_.tensors[0].name = b"blk\x1b[2J\r\nfake"
    path = tmp_path / "evil.gguf"
    path.write_bytes(document_.encoded())
    result = run("info", path, "--tensors")
    assert "x\\x1b[31m\\x07\\n\\u202etxt.\\x9b2J" in result.stdout and "blk\\x1b[2J\\r\\nfake" in result.stdout
    for text in (result.stdout, result.stderr):
        assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert document("info", path)["name"] == name


def test_a_fifo_is_not_waited_for(tmp_path: Path, tiny_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for arguments in (
        ("info", fifo),
        ("complete", "-m", fifo, "x"),
        ("complete", "-m", tiny_path, "--grammar", fifo, "x"),
        ("chat", "-m", tiny_path, "--template-file", fifo, "x"),
    ):
        result = run(*arguments)
        assert result.returncode == 1 and "a FIFO" in result.stderr and "Traceback" not in result.stderr
