"""Models for the Vulkan tests, and what they compute: random weights, and small vocabularies of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from llama_cffi import Batch, Context, Ftype, Ggml, Model, Sampler
from llama_cffi.ggml import BackendDevice
from tests import tiny_archs, tiny_models

Array = npt.NDArray[np.float32]

LLAMA = replace(tiny_models.LLAMA, n_layer=4, n_embd=256, n_ff=512, n_head=8, n_head_kv=4, quant="F32")
"""Rows of 256 numbers, which the K formats take; 4 layers, to be split."""
PROMPT = [5 + 7 * i % 130 for i in range(32)]  # every vocabulary has as many tokens
GOES_ON = [11, 12, 13]
OLDER = ("llama", "gpt2", "qwen2vl", "bert", "t5", "mamba")


def write_llama(path: Path, quant: str) -> Path:
    """Write the Llama, with all its matrices in a format."""
    whole = path.with_name("llama-f32.gguf")
    if not whole.exists():
        tiny_models.write_llama(whole, spec=LLAMA)
    kind = Ggml.Type[quant]
    widths = {tensor.name: int(tensor.shape[0]) for tensor in gguf.GGUFReader(whole).tensors if len(tensor.shape) > 1}
    Model.quantize(
        whole,
        path,
        Model.QuantizeParams(
            ftype=Ftype.MOSTLY_Q8_0,  # with ALL_F32, llama.cpp would leave matrices as they are
            pure=True,
            tokenEmbeddingType=kind,
            ttOverrides={".*": kind},
            imatrix={name: [1.0] * width for name, width in widths.items()},  # the smallest formats want one
            nthread=2,
        ),
    )
    return path


def write(path: Path, arch: str) -> Path:
    """Write a model of an architecture, in F32."""
    if arch not in OLDER:
        return tiny_archs.write(path, arch)
    spec = replace(getattr(tiny_models, arch.upper()), quant="F32")
    if arch == "gpt2":
        spec = replace(spec, n_ctx_train=64)
    written: Path = getattr(tiny_models, f"write_{arch}")(path, spec=spec)
    return written


def context(model: Model, **params: object) -> Context:
    """A context of 64 tokens, computed by two threads."""
    chosen = {"nCtx": 64, "nThreads": 2, "nThreadsBatch": 2, **params}
    return Context.initFromModel(model, Context.Params(**chosen))  # type: ignore[arg-type]


def outputs(path: Path, devices: Sequence[BackendDevice], **params: object) -> Array:
    """The outputs of a model on devices, a row for each: after a prompt, then after single tokens."""
    with Model.load(path, Model.Params(devices=devices)) as model:
        return outputs_of(model, **params)


def outputs_of(model: Model, **params: object) -> Array:
    """As `outputs`, of a model that is loaded."""
    if not model.hasDecoder or model.metaValStr("general.architecture") == "bert":
        with context(model, embeddings=True, **params) as ctx:
            ctx.encode(Batch.getOne(PROMPT))
            return np.array([ctx.getEmbeddingsSeq(0)])
    with context(model, **params) as ctx:
        if model.hasEncoder:
            ctx.encode(Batch.getOne(PROMPT))
        rows = []
        for tokens in ([0] if model.hasEncoder else PROMPT, *([token] for token in GOES_ON)):
            ctx.decode(Batch.getOne(tokens))
            rows.append(np.array(ctx.getLogitsIth(-1)))
        return np.array(rows)


def error(found: Array, expected: Array) -> float:
    """The normalized mean square error: 0 where they are equal, 1 where all that is found is the mean."""
    assert found.shape == expected.shape and np.isfinite(found).all()
    return float(((found - expected) ** 2).sum() / ((expected - expected.mean()) ** 2).sum())


def greedy(ctx: Context, n: int = 12) -> list[int]:
    """The most probable tokens after PROMPT. The context is empty before."""
    return generated(ctx, Sampler.initGreedy(), n)


def generated(ctx: Context, sampler: Sampler, n: int) -> list[int]:
    """What a sampler picks after PROMPT."""
    tokens: list[int] = []
    ctx.decode(Batch.getOne(PROMPT))
    for _ in range(n):
        tokens.append(sampler.sample(ctx, -1))
        ctx.decode(Batch.getOne([tokens[-1]]))
    return tokens
