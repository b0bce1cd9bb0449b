"""The models of the safety tests: one of every kind that llama.cpp treats differently, each of a hundred kilobytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from tests import tiny_models, tiny_projectors


def write_all(folder: Path) -> Path:
    """Write them; `folder/llama.gguf` and so on. Returns the folder."""
    llama = tiny_models.LLAMA
    tiny_models.write_llama(folder / "llama.gguf")
    tiny_models.write_llama(folder / "f32.gguf", spec=replace(llama, quant="F32"))
    tiny_models.write_llama(folder / "wide.gguf", spec=replace(llama, n_embd=128))
    tiny_models.write_llama(folder / "narrow.gguf", spec=replace(llama, n_embd=32))
    tiny_models.write_llama(folder / "no-tokenizer.gguf", tokenizer=False)
    tiny_models.write_qwen2vl(folder / "qwen2vl.gguf")
    tiny_models.write_gpt2(folder / "gpt2.gguf")
    tiny_models.write_bert(folder / "bert.gguf")
    tiny_models.write_bert(folder / "ranker.gguf", labels=("bad", "fair", "good"))
    tiny_models.write_t5(folder / "t5.gguf")
    tiny_models.write_mamba(folder / "mamba.gguf")
    tiny_models.write_lora(folder / "lora.gguf")
    tiny_models.write_lora(folder / "lora-wide.gguf", replace(llama, n_embd=128))
    _write_deep_adapter(folder / "lora-3d.gguf")
    tiny_projectors.write_llava(folder / "llava.mmproj", llama.n_embd, n_layer=1)
    tiny_projectors.write_ultravox(folder / "ultravox.mmproj", llama.n_embd)
    tiny_projectors.write_ultravox(folder / "eight.mmproj", llama.n_embd, stack=8)
    tiny_projectors.write_ultravox(folder / "zero.mmproj", llama.n_embd, factor=0)
    for number, add in enumerate((gguf.GGUFWriter.add_uint16, gguf.GGUFWriter.add_uint32)):
        _write_split(folder / f"split-{number}.gguf", number, add)
    return folder


def _write_split(path: Path, number: int, add: Callable[[gguf.GGUFWriter, str, int], None]) -> None:
    """Write one of two files of a split model; `add` makes its number of one type or another."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 2)
    add(writer, "split.no", number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _write_deep_adapter(path: Path) -> None:
    """Write an adapter whose tensors have a third dimension, which llama.cpp does not look at before it multiplies."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    width = tiny_models.LLAMA.n_embd
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((3, 4, width), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((2, width, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
