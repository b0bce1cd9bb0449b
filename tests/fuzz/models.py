"""The files that the fuzzer works on: models of every kind, as small as can be, an adapter, projectors and an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests import tiny_models, tiny_projectors
from tests.tiny_models import TinySpec

MODELS = ("llama", "gpt2", "qwen2vl", "bert", "ranker", "t5", "mamba", "bare")


def write_all(folder: Path) -> None:
    """Write `<name>.gguf` for each of MODELS, and an adapter and projectors for the llama."""
    llama = _small(tiny_models.LLAMA)
    tiny_models.write_llama(folder / "llama.gguf", spec=llama)
    tiny_models.write_llama(folder / "bare.gguf", spec=replace(llama, quant="F32"), tokenizer=False)
    tiny_models.write_gpt2(folder / "gpt2.gguf", replace(_small(tiny_models.GPT2), n_layer=2))
    tiny_models.write_qwen2vl(folder / "qwen2vl.gguf", _small(tiny_models.QWEN2VL))
    tiny_models.write_bert(folder / "bert.gguf", spec=_small(tiny_models.BERT))
    tiny_models.write_bert(folder / "ranker.gguf", spec=_small(tiny_models.BERT), labels=("no", "yes"))
    tiny_models.write_t5(folder / "t5.gguf", _small(tiny_models.T5))
    tiny_models.write_mamba(folder / "mamba.gguf", spec=_small(tiny_models.MAMBA))
    tiny_models.write_lora(folder / "lora.gguf", llama)
    tiny_projectors.write_llava(folder / "llava.mmproj", llama.n_embd)
    tiny_projectors.write_ultravox(folder / "ultravox.mmproj", llama.n_embd)
    (folder / "image.ppm").write_bytes(b"P6 4 4 255\n" + bytes(range(48)))


def _small(spec: TinySpec) -> TinySpec:
    return replace(spec, n_layer=1, n_embd=32, n_head=1, n_head_kv=1, n_ff=64, n_ctx_train=128)
