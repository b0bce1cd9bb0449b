"""The well-formed files that are falsified: models of several architectures, an adapter, states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from llama_cffi import Batch, Context, Model
from tests import tiny_models
from tests.hostile.document import FLOAT32, UINT32, Document, Tensor, parse

SMALL = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_ff": 32, "n_ctx_train": 64}
QUANTS = {"llama": "Q8_0", "gpt2": "F32", "qwen2vl": "Q4_0", "bert": "F32", "t5": "F32", "mamba": "Q8_0"}
SPECS = {name: replace(getattr(tiny_models, name.upper()), quant=quant, **SMALL) for name, quant in QUANTS.items()}
PROMPT = list(range(5, 25))
EXPERTS = 4


def write_models(folder: Path) -> dict[str, bytes]:
    """Write a small model of each architecture; return the bytes of each, by name."""
    files = {}
    for name, spec in SPECS.items():
        path = getattr(tiny_models, f"write_{name}")(folder / f"{name}.gguf", spec=spec)
        files[name] = path.read_bytes()
    files["moe"] = _experts(parse(files["llama"])).encoded()
    (folder / "moe.gguf").write_bytes(files["moe"])
    return files


def write_adapter(folder: Path) -> bytes:
    """Write an adapter for the Llama model; return its bytes."""
    path = folder / "adapter.gguf"
    tiny_models.write_lora(path, SPECS["llama"])
    return path.read_bytes()


def states(folder: Path) -> dict[tuple[str, str], bytes]:
    """States of contexts that have seen PROMPT: the bytes by model and kind."""
    found = {}
    for name in ("llama", "gpt2", "qwen2vl", "mamba", "t5"):
        with Model.load(folder / f"{name}.gguf") as model, context(model) as ctx:
            if model.hasEncoder:
                ctx.encode(Batch.getOne(PROMPT))
            ctx.decode(Batch.getOne(PROMPT))
            found[name, "state"] = ctx.stateGetData()
            found[name, "sequence"] = ctx.stateSeqGetData(seqId=0)
            ctx.stateSaveFile(folder / "state", PROMPT)
            found[name, "state-file"] = (folder / "state").read_bytes()
            ctx.stateSeqSaveFile(folder / "state", 0, PROMPT)
            found[name, "sequence-file"] = (folder / "state").read_bytes()
    return found


def context(model: Model, nCtx: int = 64, nSeqMax: int = 2, flash: bool = True) -> Context:
    """A context as the states were taken from; only T5 has room for one sequence alone."""
    n = 1 if model.hasEncoder else nSeqMax
    return Context.initFromModel(model, Context.Params(nCtx=nCtx, nSeqMax=n, nThreads=2, nThreadsBatch=2))


def _experts(document: Document) -> Document:
    """A Llama model whose feed-forward layers are mixtures of experts."""
    rng = np.random.default_rng(1)
    kept = [tensor for tensor in document.tensors if b".ffn_" not in tensor.name or b"_norm" in tensor.name]
    n_embd, n_ff = SMALL["n_embd"], SMALL["n_ff"]
    shapes = {
        "ffn_gate_inp": [n_embd, EXPERTS],
        "ffn_gate_exps": [n_embd, n_ff, EXPERTS],
        "ffn_up_exps": [n_embd, n_ff, EXPERTS],
        "ffn_down_exps": [n_ff, n_embd, EXPERTS],
    }
    for name, dims in shapes.items():
        weights = rng.standard_normal(int(np.prod(dims))).astype(np.float32) * n_embd**-0.5
        kept.append(Tensor(f"blk.0.{name}.weight".encode(), dims, 0, weights.tobytes()))
    document.tensors = kept
    document.put("llama.expert_count", UINT32, EXPERTS).put("llama.expert_used_count", UINT32, 2)
    return document.put("llama.expert_weights_scale", FLOAT32, 1.0)
