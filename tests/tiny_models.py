"""Tiny random-weight GGUF models for the test-suite.

Nothing here is trained: the models only have the structure of the real ones, so that a test can load, decode, embed,
encode and attach adapters in milliseconds.  A file depends on its spec and vocabulary alone, and the scales of the
weights are chosen so that logits stay finite, no token dominates, and greedy decoding wanders through the vocabulary.

The output projection is tied to the token embeddings, which keeps a model with 32000 tokens near 3 MB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from tests import tiny_vocabs

Array = npt.NDArray[np.float32]
PathLike = str | os.PathLike[str]
Quant = Literal["F32", "Q8_0", "Q4_0"]

N_BUCKETS = 32  # of relative distances in T5
BLOCK_SIZE = 32  # weights per quantization block, the same for Q8_0 and Q4_0
FILE_TYPES = {"F32": 0, "Q4_0": 2, "Q8_0": 7}  # values of general.file_type

# Greedy decoding runs into a loop when the layers depend too little on the last token.  So attention, which averages
# over the past, is kept as weak as the embeddings, and the embeddings weak enough not to predict themselves.
EMBED_STD = 0.05
ATTN_GAIN = 0.1
LOGIT_GAIN = 5.0  # of the final norm; gives the logits a standard deviation of two


@dataclass(frozen=True)
class TinySpec:
    """Dimensions and number format of a model; `dataclasses.replace` makes variants.

    The default heads are 32 wide, as a quantized KV cache requires.
    """

    arch: str = "llama"
    n_layer: int = 2
    n_embd: int = 64
    n_head: int = 2
    n_head_kv: int = 1
    n_ff: int = 128
    n_ctx_train: int = 512
    seed: int = 1
    quant: Quant = "Q8_0"

    def __post_init__(self) -> None:
        """Reject dimensions that no model can have."""
        if self.n_embd % self.n_head or self.n_head % self.n_head_kv:
            raise ValueError("n_embd must be a multiple of n_head, and n_head of n_head_kv")
        if self.arch == "t5" and self.n_head_kv != self.n_head:
            raise ValueError("T5 heads do not share keys and values")

    @property
    def n_embd_kv(self) -> int:
        """Width of the key and value projections."""
        return self.n_embd // self.n_head * self.n_head_kv


LLAMA = TinySpec()
BERT = TinySpec(arch="bert", n_head_kv=2)
T5 = TinySpec(arch="t5", n_head_kv=2)
MAMBA = TinySpec(arch="mamba")
GPT2 = TinySpec(arch="gpt2", n_head_kv=2, n_ctx_train=32)
QWEN2VL = TinySpec(arch="qwen2vl")


class LoraPair(NamedTuple):
    """The factors of a low-rank update: `a` is (rank, n_in) and `b` is (n_out, rank)."""

    a: Array
    b: Array

    def delta(self, alpha: float, scale: float = 1.0) -> Array:
        """Return what the adapter adds to its weight; as in llama.cpp, alpha 0 stands for alpha = rank."""
        factor = scale * (alpha / len(self.a) if alpha else 1.0)
        return np.asarray(factor * (self.b @ self.a), dtype=np.float32)


def write_llama(
    path: PathLike,
    vocab_from: PathLike | None = None,
    spec: TinySpec = LLAMA,
    *,
    deltas: Mapping[str, Array] | None = None,
    tokenizer: bool = True,
    n_vocab: int = 0,
) -> Path:
    """Write a Llama decoder with the tokenizer of `vocab_from`, or with a small one, or without `tokenizer`.

    The small one gets unused tokens up to `n_vocab`.

    `deltas` are added to the random weights of these names, e.g. to merge a LoRA adapter.
    """
    model = _Builder(spec, "llama", deltas)
    if not tokenizer:
        n_vocab = tiny_vocabs.add_none(model.writer)
    else:
        n_vocab = (
            model.copy_tokenizer(vocab_from) if vocab_from else tiny_vocabs.add_sentencepiece(model.writer, n_vocab)
        )
    return _llama_like(model, n_vocab).save(path)


def write_qwen2vl(path: PathLike, spec: TinySpec = QWEN2VL) -> Path:
    """Write a decoder with multi-dimensional RoPE, whose positions have four parts, and a small tokenizer."""
    model = _Builder(spec, "qwen2vl")
    n_vocab = tiny_vocabs.add_byte_pair(model.writer)
    half = spec.n_embd // spec.n_head // 2
    model.writer.add_rope_dimension_sections([half // 2, half // 4, half // 4, 0])
    return _llama_like(model, n_vocab).save(path)


def _llama_like(model: _Builder, n_vocab: int) -> _Builder:
    spec = model.spec
    model.transformer_keys()
    model.integers({"vocab_size": n_vocab, "rope.dimension_count": spec.n_embd // spec.n_head})
    model.table("token_embd.weight", n_vocab)
    for name, (n_out, n_in) in _projections(spec).items():
        model.matrix(name, n_out, n_in, ATTN_GAIN if "attn_output" in name else 1.0)
    for i in range(spec.n_layer):
        model.vector(f"blk.{i}.attn_norm.weight", 1.0)
        model.vector(f"blk.{i}.ffn_norm.weight", 1.0)
    model.vector("output_norm.weight", LOGIT_GAIN)
    return model


def write_gpt2(path: PathLike, spec: TinySpec = GPT2) -> Path:
    """Write a GPT-2 decoder, which has an embedding for each of `n_ctx_train` positions, with a small tokenizer."""
    model = _Builder(spec, "gpt2")
    n_vocab = tiny_vocabs.add_byte_pair(model.writer)
    model.transformer_keys(rms_norm=False)
    model.table("token_embd.weight", n_vocab)
    model.table("position_embd.weight", spec.n_ctx_train)
    for i in range(spec.n_layer):
        for norm in ("attn_norm", "ffn_norm"):
            model.layer_norm(f"blk.{i}.{norm}")
        for part, n_out, n_in, gain in (
            ("attn_qkv", 3 * spec.n_embd, spec.n_embd, 1.0),
            ("attn_output", spec.n_embd, spec.n_embd, ATTN_GAIN),
            ("ffn_up", spec.n_ff, spec.n_embd, 1.0),
            ("ffn_down", spec.n_embd, spec.n_ff, 1.0),
        ):
            model.matrix(f"blk.{i}.{part}.weight", n_out, n_in, gain)
            model.vector(f"blk.{i}.{part}.bias", 0.0, n_out)
    model.vector("output_norm.weight", LOGIT_GAIN)
    model.vector("output_norm.bias", 0.0)
    return model.save(path)


def write_bert(
    path: PathLike, vocab_from: PathLike | None = None, spec: TinySpec = BERT, *, labels: tuple[str, ...] = ()
) -> Path:
    """Write a BERT encoder with mean pooling; the tokenizer of `vocab_from` (or a small one) is WordPiece.

    With `labels` it is a classifier of so many classes, and ranks instead of pooling.
    """
    model = _Builder(spec, "bert")
    n_vocab = model.copy_tokenizer(vocab_from) if vocab_from else tiny_vocabs.add_wordpiece(model.writer)
    model.transformer_keys(rms_norm=False)
    model.writer.add_causal_attention(False)
    model.writer.add_pooling_type(gguf.PoolingType.RANK if labels else gguf.PoolingType.MEAN)
    if labels:
        model.writer.add_classifier_output_labels(labels)
        model.matrix("cls.weight", spec.n_embd, spec.n_embd)
        model.vector("cls.bias", 0.0)
        model.matrix("cls.output.weight", len(labels), spec.n_embd)
        model.vector("cls.output.bias", 0.0, len(labels))
    model.table("token_embd.weight", n_vocab)
    model.table("position_embd.weight", spec.n_ctx_train)
    model.layer_norm("token_embd_norm")
    for name, (n_out, n_in) in _projections(spec).items():
        if "ffn_gate" not in name:
            model.matrix(name, n_out, n_in)
            model.vector(name.replace(".weight", ".bias"), 0.0, n_out)  # older versions of llama.cpp insist on them
    for i in range(spec.n_layer):
        model.layer_norm(f"blk.{i}.attn_output_norm")
        model.layer_norm(f"blk.{i}.layer_output_norm")
    return model.save(path)


def write_t5(path: PathLike, spec: TinySpec = T5) -> Path:
    """Write a T5 encoder-decoder with a small tokenizer of its own; decoding starts from token 0."""
    model = _Builder(spec, "t5")
    n_vocab = tiny_vocabs.add_unigram(model.writer)
    model.transformer_keys()
    model.integers({"decoder_block_count": spec.n_layer, "decoder_start_token_id": 0})
    model.integers({"attention.relative_buckets_count": N_BUCKETS})
    model.table("token_embd.weight", n_vocab)
    for side, i in product(("enc", "dec"), range(spec.n_layer)):
        model.t5_block(f"{side}.blk.{i}.", decoder=side == "dec", first=i == 0)
    model.vector("enc.output_norm.weight", 1.0)
    model.vector("dec.output_norm.weight", LOGIT_GAIN)
    return model.save(path)


def write_mamba(path: PathLike, vocab_from: PathLike | None = None, spec: TinySpec = MAMBA) -> Path:
    """Write a Mamba (version 1) model with the tokenizer of `vocab_from` or a small one; no heads and no n_ff."""
    model = _Builder(spec, "mamba")
    n_vocab = model.copy_tokenizer(vocab_from) if vocab_from else tiny_vocabs.add_sentencepiece(model.writer)
    n_inner, n_state, n_conv, dt_rank = 2 * spec.n_embd, 8, 4, max(1, spec.n_embd // 16)
    model.common_keys()
    model.writer.add_layer_norm_rms_eps(1e-5)
    model.integers({"ssm.inner_size": n_inner, "ssm.state_size": n_state})
    model.integers({"ssm.conv_kernel": n_conv, "ssm.time_step_rank": dt_rank})
    model.table("token_embd.weight", n_vocab)
    for i in range(spec.n_layer):
        model.mamba_block(f"blk.{i}.", n_inner, n_state, n_conv, dt_rank)
    model.vector("output_norm.weight", LOGIT_GAIN)
    return model.save(path)


def write_lora(
    path: PathLike, spec: TinySpec = LLAMA, rank: int = 4, alpha: float = 8.0, seed: int = 2
) -> dict[str, LoraPair]:
    """Write a LoRA adapter for `write_llama(..., spec)`; return its factors, by the weight they belong to."""
    model = _Builder(spec, "llama", kind="adapter")
    model.writer.add_string("adapter.type", "lora")
    model.writer.add_float32("adapter.lora.alpha", alpha)
    rng = np.random.default_rng(seed)
    pairs = {}
    for name, (n_out, n_in) in _projections(spec).items():
        a, b = _normal(rng, (rank, n_in), n_in**-0.5), _normal(rng, (n_out, rank), 0.5 * rank**-0.5)
        model.tensor(f"{name}.lora_a", a, dense=True)
        model.tensor(f"{name}.lora_b", b, dense=True)
        pairs[name] = LoraPair(a, b)
    model.save(path)
    return pairs


class _Builder:
    """Collects the metadata and the tensors of one GGUF file."""

    def __init__(
        self,
        spec: TinySpec,
        arch: str,
        deltas: Mapping[str, Array] | None = None,
        kind: str = "model",
        name: str = "",
    ) -> None:
        if spec.arch != arch:
            raise ValueError(f"the spec is for {spec.arch!r}, not {arch!r}")
        self.spec = spec
        self.rng = np.random.default_rng(spec.seed)
        self.deltas = dict(deltas or {})
        self.writer = gguf.GGUFWriter(None, arch)
        self.writer.add_type(kind)
        self.writer.add_name(name or f"tiny-{arch}")

    def integers(self, values: Mapping[str, int]) -> None:
        """Add metadata of the architecture, whose name becomes the prefix of the keys."""
        for key, value in values.items():
            self.writer.add_uint32(f"{self.spec.arch}.{key}", value)

    def common_keys(self) -> None:
        """Add the metadata of every architecture."""
        self.writer.add_file_type(FILE_TYPES[self.spec.quant])
        self.writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        self.integers({"block_count": self.spec.n_layer, "embedding_length": self.spec.n_embd})
        self.integers({"context_length": self.spec.n_ctx_train})

    def transformer_keys(self, rms_norm: bool = True) -> None:
        """Add the metadata of models with attention."""
        self.common_keys()
        self.integers({"feed_forward_length": self.spec.n_ff})
        self.integers({"attention.head_count": self.spec.n_head, "attention.head_count_kv": self.spec.n_head_kv})
        add_epsilon = self.writer.add_layer_norm_rms_eps if rms_norm else self.writer.add_layer_norm_eps
        add_epsilon(1e-5)

    def copy_tokenizer(self, source: PathLike) -> int:
        """Copy the tokenizer of another GGUF file; return the size of the vocabulary."""
        entries = _tokenizer_of(os.fspath(source))
        for entry in entries:
            self.writer.add_key_value(*entry)
        return next(len(value) for key, value, *_ in entries if key == "tokenizer.ggml.tokens")

    def tensor(self, name: str, data: Array, dense: bool = False) -> None:
        """Add a tensor in the format of the spec, or in F32 if it is `dense` or its rows do not fill whole blocks."""
        if name in self.deltas:
            data = data + self.deltas.pop(name)
        quant = "F32" if dense or data.shape[-1] % BLOCK_SIZE else self.spec.quant
        qtype = gguf.GGMLQuantizationType[quant]
        self.writer.add_tensor(name, gguf.quants.quantize(data, qtype), raw_dtype=qtype)

    def matrix(self, name: str, n_out: int, n_in: int, gain: float = 1.0, dense: bool = False) -> None:
        """Add a random projection that turns inputs of unit magnitude into outputs of magnitude `gain`."""
        self.tensor(name, _normal(self.rng, (n_out, n_in), gain * n_in**-0.5), dense)

    def table(self, name: str, rows: int) -> None:
        """Add random embeddings."""
        self.tensor(name, _normal(self.rng, (rows, self.spec.n_embd), EMBED_STD))

    def vector(self, name: str, values: float | Array, size: int | None = None) -> None:
        """Add a one-dimensional tensor; a single number is repeated `size` times (default: n_embd)."""
        if isinstance(values, float):
            values = np.full(size or self.spec.n_embd, values, dtype=np.float32)
        self.tensor(name, values, dense=True)

    def layer_norm(self, name: str) -> None:
        """Add a layer norm without effect of its own."""
        self.vector(f"{name}.weight", 1.0)
        self.vector(f"{name}.bias", 0.0)

    def t5_block(self, prefix: str, decoder: bool, first: bool) -> None:
        """Add one layer of the T5 model; the position bias of the first layer serves all of them."""
        n_embd, n_ff, n_head = self.spec.n_embd, self.spec.n_ff, self.spec.n_head
        # T5 does not scale its attention scores by the size of the heads, so the queries are scaled instead.
        gains = {"q": (n_head / n_embd) ** 0.5, "k": 1.0, "v": 1.0, "o": ATTN_GAIN}
        for attention in ("attn", "cross_attn") if decoder else ("attn",):
            self.vector(f"{prefix}{attention}_norm.weight", 1.0)
            for part, gain in gains.items():
                self.matrix(f"{prefix}{attention}_{part}.weight", n_embd, n_embd, gain)
        if first:
            self.matrix(f"{prefix}attn_rel_b.weight", N_BUCKETS, n_head, dense=True)
        self.vector(f"{prefix}ffn_norm.weight", 1.0)
        self.matrix(f"{prefix}ffn_gate.weight", n_ff, n_embd)
        self.matrix(f"{prefix}ffn_up.weight", n_ff, n_embd)
        self.matrix(f"{prefix}ffn_down.weight", n_embd, n_ff)

    def mamba_block(self, prefix: str, n_inner: int, n_state: int, n_conv: int, dt_rank: int) -> None:
        """Add one layer of the Mamba model, with channels that forget at different speeds."""
        n_embd = self.spec.n_embd
        time_steps = np.geomspace(0.01, 0.3, n_inner)
        decay = -np.arange(1, n_state + 1, dtype=np.float32)
        self.vector(f"{prefix}attn_norm.weight", 1.0)
        self.matrix(f"{prefix}ssm_in.weight", 2 * n_inner, n_embd)
        self.matrix(f"{prefix}ssm_conv1d.weight", n_inner, n_conv, dense=True)
        self.vector(f"{prefix}ssm_conv1d.bias", 0.0, n_inner)
        self.matrix(f"{prefix}ssm_x.weight", dt_rank + 2 * n_state, n_inner, gain=2.0)
        self.matrix(f"{prefix}ssm_dt.weight", n_inner, dt_rank, dense=True)
        self.vector(f"{prefix}ssm_dt.bias", np.log(np.expm1(time_steps)).astype(np.float32))  # the inverse of softplus
        self.tensor(f"{prefix}ssm_a", np.tile(decay, (n_inner, 1)), dense=True)
        self.vector(f"{prefix}ssm_d", 1.0, n_inner)
        self.matrix(f"{prefix}ssm_out.weight", n_embd, n_inner, gain=2.0)

    def save(self, path: PathLike) -> Path:
        """Write the file, which appears under its name only once it is complete."""
        if self.deltas:
            raise ValueError(f"the model has no {', '.join(self.deltas)}")
        with _atomic(Path(path)) as temporary:
            try:
                self.writer.write_header_to_file(temporary)
                self.writer.write_kv_data_to_file()
                self.writer.write_tensors_to_file()
            finally:
                self.writer.close()
        return Path(path)


def _projections(spec: TinySpec) -> dict[str, tuple[int, int]]:
    """Return the name and the shape (n_out, n_in) of each projection in the Llama layers (BERT has no gate)."""
    shapes = {
        "attn_q": (spec.n_embd, spec.n_embd),
        "attn_k": (spec.n_embd_kv, spec.n_embd),
        "attn_v": (spec.n_embd_kv, spec.n_embd),
        "attn_output": (spec.n_embd, spec.n_embd),
        "ffn_gate": (spec.n_ff, spec.n_embd),
        "ffn_up": (spec.n_ff, spec.n_embd),
        "ffn_down": (spec.n_embd, spec.n_ff),
    }
    return {f"blk.{i}.{part}.weight": shape for i in range(spec.n_layer) for part, shape in shapes.items()}


@lru_cache(maxsize=8)
def _tokenizer_of(path: str) -> tuple[tuple[str, Any, Any, Any], ...]:
    """Read the tokenizer metadata of a GGUF file: key, value, type, type of items (slow, hence cached)."""
    fields = [field for field in gguf.GGUFReader(path).fields.values() if field.name.startswith("tokenizer.")]
    return tuple((field.name, field.contents(), field.types[0], field.types[-1]) for field in fields)


def _normal(rng: np.random.Generator, shape: tuple[int, int], std: float) -> Array:
    return (std * rng.standard_normal(shape)).astype(np.float32)


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; that file takes its place if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
