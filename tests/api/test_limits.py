"""Contexts and pools that the machine has no room for: refused, instead of a process that Linux or OpenMP ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi import Context, Ggml, Model, NativeMemoryError, PoolingType
from llama_cffi._host import resources
from tests import tiny_models

GIB = 1 << 30


def _context(model: Model, **params: object) -> None:
    Context.initFromModel(model, Context.Params(**params)).free()  # type: ignore[arg-type]


def test_a_cache_larger_than_the_memory(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: GIB)
    # 2 layers of 32 + 32 numbers of 2 bytes each, and what llama.cpp notes of a token
    with pytest.raises(NativeMemoryError, match=r"4000000 tokens and .* at least 1144 MiB.* 1024 MiB: lower .*nCtx"):
        _context(tiny, nCtx=4_000_000)
    with pytest.raises(NativeMemoryError, match="1144 MiB"):
        _context(tiny, nCtx=4_000_000, typeK=Ggml.Type.F16, typeV=Ggml.Type.F16)
    with pytest.raises(NativeMemoryError, match="at least"):
        _context(tiny, nCtx=30_000_000, typeK=Ggml.Type.Q4_0, typeV=Ggml.Type.Q4_0)
    _context(tiny, nCtx=1024)


def test_what_is_there_is_enough(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is never more than what llama.cpp takes."""
    monkeypatch.setattr(resources, "available_memory", lambda: 300 * (1 << 20))
    _context(tiny, nCtx=1_000_000)


def test_nothing_is_estimated_for_other_memories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 0)
    for name, write in (("bert", tiny_models.write_bert), ("mamba", tiny_models.write_mamba)):
        with Model.load(write(tmp_path / f"{name}.gguf")) as model:
            _context(model, nCtx=100_000_000 if name == "bert" else 4096)
            if name == "bert":
                with pytest.raises(NativeMemoryError, match="lower .*nUbatch"):
                    _context(model, nBatch=1 << 30, nUbatch=1 << 30)


def test_more_threads_than_there_may_be(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "startable", lambda: 100)
    with pytest.raises(ValueError, match="nThreads must be at most 101, got 300.* 100 more threads"):
        _context(tiny, nCtx=64, nThreads=300)
    with pytest.raises(ValueError, match="nThreadsBatch .*at most 101, got 102"):
        _context(tiny, nCtx=64, nThreadsBatch=102)
    with pytest.raises(ValueError, match="nThreads .*at most 101, got 300"):
        Ggml.Threadpool(300)
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=101, nThreadsBatch=1)) as ctx:
        with pytest.raises(ValueError, match="nThreads .*at most 101, got 102"):
            ctx.setNThreads(102)
        assert ctx.nThreads == 101


def test_a_limit_of_the_user_counts_threads() -> None:
    """As another user, in a process of its own: root is not bound by the limit."""
    code = (
        "import os, resource, threading; from llama_cffi._host import resources as _machine\n"
        "if os.geteuid() == 0: os.setuid(54321)\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (10_000, 10_000))\n"
        "before = _machine._user_limit(); wait = threading.Event()\n"
        "threads = [threading.Thread(target=wait.wait) for _ in range(7)]\n"
        "[thread.start() for thread in threads]; after = _machine._user_limit(); wait.set()\n"
        "print(before - after)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("7\n", "")


@pytest.mark.needs("llama_context_params.n_outputs_max")
def test_pooled_embeddings_that_the_sequences_do_not_share(tiny: Model) -> None:
    pooled = {"nCtx": 192, "embeddings": True, "poolingType": PoolingType.MEAN}
    with pytest.raises(ValueError, match=r"nSeqMax 3, got 64.* .*nUbatch to 63"):
        _context(tiny, nSeqMax=3, nUbatch=64, **pooled)
    _context(tiny, nSeqMax=3, nUbatch=63, **pooled)
    with pytest.raises(ValueError, match="nOutputsMax.*nUbatch 64, got 3"):
        _context(tiny, nOutputsMax=3, nUbatch=64, **pooled)
    with Context.initFromModel(
        tiny, Context.Params(nCtx=192, nSeqMax=3, nUbatch=64, poolingType=PoolingType.MEAN)
    ) as ctx:
        with pytest.raises(ValueError, match="nSeqMax 3, got 64"):
            ctx.setEmbeddings(True)


@pytest.mark.needs("llama_context_params.n_outputs_max")
def test_sizes_that_cannot_be(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nOutputsMax.*nSeqMax 4.*got 2"):
        _context(tiny, nCtx=256, nOutputsMax=2, nSeqMax=4)
    with pytest.raises(ValueError, match="nCtx must be between 0 and 2147483392, got 4294967295"):
        _context(tiny, nCtx=0xFFFFFFFF)
    with Model.load(tiny_models.write_t5(tmp_path / "t5.gguf")) as t5:
        with pytest.raises(ValueError, match="nSeqMax.*1.*got 2"):
            _context(t5, nCtx=64, nSeqMax=2)
    for value in (float("nan"), float("-inf"), 1e39):
        with pytest.raises(ValueError, match="ropeFreqBase must be finite"):
            Context.Params(ropeFreqBase=value)
