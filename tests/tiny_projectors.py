"""Tiny random-weight projector files (mmproj) for the test-suite: they load beside any text model of the same width."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
PathLike = str | os.PathLike[str]

EPSILON = 1e-5
MEL_BINS = 80


class _Writer:
    """Writes one file, and keeps the tensors by name."""

    def __init__(self, path: PathLike, seed: int) -> None:
        self.path, self.file = Path(path), gguf.GGUFWriter(path, "clip")
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, Array] = {}

    def add(self, name: str, *shape: int, scale: float = 0.05) -> None:
        self.set(name, (self.random.standard_normal(shape) * scale).astype(np.float32))

    def set(self, name: str, values: Array) -> None:
        self.tensors[name] = values
        self.file.add_tensor(name, values)

    def norm(self, name: str, n: int, bias: bool = True) -> None:
        self.set(f"{name}.weight", (1 + 0.1 * self.random.standard_normal(n)).astype(np.float32))
        if bias:
            self.add(f"{name}.bias", n)

    def head(self, kind: str, projector: str, n_embd: int, n_ff: int, n_layer: int, n_head: int, width: int) -> None:
        self.file.add_string("clip.projector_type", projector)
        self.file.add_bool(f"clip.has_{kind}_encoder", True)
        sizes = {"embedding_length": n_embd, "feed_forward_length": n_ff, "block_count": n_layer}
        sizes |= {"projection_dim": width, "attention.head_count": n_head}
        for key, value in sizes.items():
            self.file.add_uint32(f"clip.{kind}.{key}", value)
        self.file.add_float32(f"clip.{kind}.attention.layer_norm_epsilon", EPSILON)

    def blocks(self, prefix: str, n_layer: int, n_embd: int, n_ff: int) -> None:
        for i in range(n_layer):
            for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
                self.add(f"{prefix}.blk.{i}.{name}.weight", n_embd, n_embd, scale=0.3)
                if (prefix, name) != ("a", "attn_k"):
                    self.add(f"{prefix}.blk.{i}.{name}.bias", n_embd)
            for name in ("ln1", "ln2"):
                self.norm(f"{prefix}.blk.{i}.{name}", n_embd)
            for name, rows, columns in (("ffn_up", n_ff, n_embd), ("ffn_down", n_embd, n_ff)):
                self.add(f"{prefix}.blk.{i}.{name}.weight", rows, columns, scale=0.2)
                self.add(f"{prefix}.blk.{i}.{name}.bias", rows)

    def image(self, size: int, patch: int) -> None:
        self.file.add_uint32("clip.vision.image_size", size)
        self.file.add_uint32("clip.vision.patch_size", patch)
        self.file.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
        self.file.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
        self.file.add_bool("clip.use_gelu", True)

    def save(self) -> dict[str, Array]:
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()
        return self.tensors


def write_llava(
    path: PathLike, width: int, *, n_embd: int = 32, n_ff: int = 64, n_layer: int = 2, size: int = 28, patch: int = 14
) -> dict[str, Array]:
    """Write a vision encoder with a LLaVA projector of two layers. Returns its tensors."""
    file = _Writer(path, 1)
    file.head("vision", "mlp", n_embd, n_ff, n_layer, 2, width)
    file.image(size, patch)
    file.add("v.patch_embd.weight", n_embd, 3, patch, patch)
    file.add("v.position_embd.weight", (size // patch) ** 2, n_embd, scale=0.3)
    file.blocks("v", n_layer, n_embd, n_ff)
    file.add("mm.0.weight", width, n_embd, scale=0.3)
    file.add("mm.0.bias", width)
    file.add("mm.2.weight", width, width, scale=0.1)
    file.add("mm.2.bias", width)
    return file.save()


def write_gemma3(
    path: PathLike, width: int, *, n_embd: int = 32, n_ff: int = 64, n_layer: int = 1, size: int = 56, patch: int = 14
) -> dict[str, Array]:
    """Write a vision encoder with Gemma 3's projector, whose image tokens see each other. Returns its tensors."""
    file = _Writer(path, 2)
    file.head("vision", "gemma3", n_embd, n_ff, n_layer, 2, width)
    file.image(size, patch)
    file.file.add_uint32("clip.vision.projector.scale_factor", 2)
    file.add("v.patch_embd.weight", n_embd, 3, patch, patch)
    file.add("v.patch_embd.bias", n_embd)
    file.add("v.position_embd.weight", (size // patch) ** 2, n_embd)
    file.blocks("v", n_layer, n_embd, n_ff)
    file.norm("v.post_ln", n_embd)
    file.add("mm.input_projection.weight", n_embd, width)
    file.norm("mm.soft_emb_norm", n_embd, bias=False)
    return file.save()


def write_qwen2vl(
    path: PathLike, width: int, *, n_embd: int = 32, n_ff: int = 64, n_layer: int = 1, size: int = 56, patch: int = 14
) -> dict[str, Array]:
    """Write a vision encoder with Qwen2-VL's merger, for models with M-RoPE. Returns its tensors."""
    file = _Writer(path, 3)
    file.head("vision", "qwen2vl_merger", n_embd, n_ff, n_layer, 2, width)
    file.image(size, patch)
    file.add("v.patch_embd.weight", n_embd, 3, patch, patch)
    file.add("v.patch_embd.weight.1", n_embd, 3, patch, patch)
    file.blocks("v", n_layer, n_embd, n_ff)
    file.norm("v.post_ln", n_embd)
    file.add("mm.0.weight", 4 * n_embd, 4 * n_embd)
    file.add("mm.0.bias", 4 * n_embd)
    file.add("mm.2.weight", width, 4 * n_embd)
    file.add("mm.2.bias", width)
    return file.save()


def write_ultravox(
    path: PathLike,
    width: int,
    *,
    n_embd: int = 32,
    n_ff: int = 64,
    n_layer: int = 1,
    stack: int = 10,
    factor: int | None = None,
    hidden: int = 64,
) -> dict[str, Array]:
    """Write a Whisper encoder with Ultravox's projector: one embedding for `stack` frames. Returns its tensors.

    `factor` is what the metadata says of `stack`.
    """
    file = _Writer(path, 4)
    file.head("audio", "ultravox", n_embd, n_ff, n_layer, 2, width)
    file.file.add_uint32("clip.audio.num_mel_bins", MEL_BINS)
    file.file.add_uint32("clip.audio.projector.stack_factor", stack if factor is None else factor)
    file.add("a.conv1d.1.weight", n_embd, MEL_BINS, 3)
    file.add("a.conv1d.1.bias", n_embd, 1)
    file.add("a.conv1d.2.weight", n_embd, n_embd, 3)
    file.add("a.conv1d.2.bias", n_embd, 1)
    file.add("a.position_embd.weight", 1500, n_embd)
    file.blocks("a", n_layer, n_embd, n_ff)
    file.norm("a.post_ln", n_embd)
    file.norm("mm.a.norm_pre", n_embd * stack, bias=False)
    file.add("mm.a.mlp.1.weight", hidden, n_embd * stack)
    file.norm("mm.a.norm_mid", hidden // 2, bias=False)
    file.add("mm.a.mlp.2.weight", width, hidden // 2)
    return file.save()


def llava_forward(tensors: dict[str, Array], pixels: npt.NDArray[np.uint8], n_head: int = 2) -> Array:
    """Return what the encoder of `write_llava` computes of an image of its size, in float64: (patches, width)."""
    weight = {name: values.astype(np.float64) for name, values in tensors.items()}
    kernel = weight["v.patch_embd.weight"]
    patch = kernel.shape[2]
    side = len(pixels) // patch
    image = (pixels / 255.0 - 0.5) / 0.5  # (y, x, channel)
    parts = image.reshape(side, patch, side, patch, 3).transpose(0, 2, 4, 1, 3).reshape(side * side, -1)
    x = parts @ kernel.reshape(len(kernel), -1).T + weight["v.position_embd.weight"]
    n_layer = sum(name.endswith("attn_q.weight") for name in tensors)
    for i in range(n_layer - 1):  # LLaVA takes the output of the last layer but one

        def linear(values: Array, name: str, block: str = f"v.blk.{i}") -> Array:
            return np.asarray(values @ weight[f"{block}.{name}.weight"].T + weight[f"{block}.{name}.bias"])

        def norm(values: Array, name: str, block: str = f"v.blk.{i}") -> Array:
            centred = values - values.mean(-1, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
            return np.asarray(scaled * weight[f"{block}.{name}.weight"] + weight[f"{block}.{name}.bias"])

        normed = norm(x, "ln1")
        heads = [
            linear(normed, name).reshape(len(x), n_head, -1).transpose(1, 0, 2)
            for name in ("attn_q", "attn_k", "attn_v")
        ]
        scores = heads[0] @ heads[1].transpose(0, 2, 1) / np.sqrt(heads[0].shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + linear((shares @ heads[2]).transpose(1, 0, 2).reshape(len(x), -1), "attn_out")
        x = x + linear(gelu(linear(norm(x, "ln2"), "ffn_up")), "ffn_down")
    hidden = gelu(x @ weight["mm.0.weight"].T + weight["mm.0.bias"])
    return np.asarray(hidden @ weight["mm.2.weight"].T + weight["mm.2.bias"])


def gelu(x: Array) -> Array:
    """Return GELU in the form of ggml."""
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
