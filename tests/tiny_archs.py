"""More architectures for `tiny_models`: decoders that differ from Llama in what their layers compute.

Each takes another way through a backend's kernels: biases, norms of heads, soft caps, sliding windows, fused
projections, attention sinks, mixtures of experts, states instead of caches. The weights are random, and those of norms
and biases too, so that a kernel which drops one of them changes the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import tiny_vocabs
from tests.tiny_models import ATTN_GAIN, LOGIT_GAIN, PathLike, Quant, TinySpec, _Builder

EXPERTS, EXPERTS_USED = 4, 2
WINDOW = 16  # tokens that a layer with a sliding window sees
RANK = 16  # of RWKV's low-rank projections


def write(path: PathLike, arch: str, quant: Quant = "F32", n_layer: int = 2) -> Path:
    """Write a decoder of an architecture of `ARCHITECTURES`, with a small tokenizer. Returns the path."""
    spec = TinySpec(arch=arch, quant=quant, n_layer=n_layer, n_head=4, n_head_kv=2, n_embd=128)
    model = _Builder(spec, arch, name="tiny")  # llama.cpp expects certain tokens where it reads "phi3"
    n_vocab = tiny_vocabs.add_sentencepiece(model.writer)
    model.integers({"vocab_size": n_vocab})
    model.table("token_embd.weight", n_vocab)
    ARCHITECTURES[arch](model)
    _scales(model, "output_norm.weight", spec.n_embd, LOGIT_GAIN)
    return model.save(path)


def _head(model: _Builder) -> int:
    return model.spec.n_embd // model.spec.n_head


def _random(model: _Builder, name: str, *shape: int, scale: float = 0.1, around: float = 0.0) -> None:
    """Add a tensor of F32, whatever the others are."""
    model.tensor(name, (around + scale * model.rng.standard_normal(shape)).astype(np.float32), dense=True)


def _scales(model: _Builder, name: str, size: int, around: float = 1.0) -> None:
    """Add the weights of a norm."""
    _random(model, name, size, scale=0.1 * around, around=around)


def _transformer(
    model: _Builder,
    *,
    biased: bool = False,
    head_norms: bool = False,
    post_norms: tuple[str, ...] = (),
    fused: bool = False,
    ffn: Callable[[_Builder, str], None] | None = None,
    ffn_norm: bool = True,
) -> None:
    """Add layers of attention and a feed-forward part; `fused` is Phi's way to store them."""
    spec, head = model.spec, _head(model)
    model.transformer_keys()
    model.integers({"rope.dimension_count": head, "attention.key_length": head, "attention.value_length": head})
    widths = {"q": spec.n_embd, "k": spec.n_embd_kv, "v": spec.n_embd_kv}
    for i in range(spec.n_layer):
        blk = f"blk.{i}."
        for norm in ("attn_norm", *(("ffn_norm",) if ffn_norm else ()), *post_norms):
            _scales(model, f"{blk}{norm}.weight", spec.n_embd)
        if fused:
            model.matrix(f"{blk}attn_qkv.weight", sum(widths.values()), spec.n_embd)
        else:
            for part, width in widths.items():
                model.matrix(f"{blk}attn_{part}.weight", width, spec.n_embd)
                if biased:
                    _random(model, f"{blk}attn_{part}.bias", width)
        if head_norms:
            for part in "qk":
                _scales(model, f"{blk}attn_{part}_norm.weight", head)
        model.matrix(f"{blk}attn_output.weight", spec.n_embd, spec.n_embd, ATTN_GAIN)
        (ffn or _feed_forward(2 if fused else 1))(model, blk)


def _feed_forward(parts: int) -> Callable[[_Builder, str], None]:
    """A feed-forward part whose gate has a matrix of its own, or is in the upper half of `ffn_up`."""

    def add(model: _Builder, blk: str) -> None:
        n_embd, n_ff = model.spec.n_embd, model.spec.n_ff
        if parts == 1:
            model.matrix(f"{blk}ffn_gate.weight", n_ff, n_embd)
        model.matrix(f"{blk}ffn_up.weight", parts * n_ff, n_embd)
        model.matrix(f"{blk}ffn_down.weight", n_embd, n_ff)

    return add


def _experts(model: _Builder, blk: str) -> None:
    n_embd, n_ff = model.spec.n_embd, model.spec.n_ff
    model.matrix(f"{blk}ffn_gate_inp.weight", EXPERTS, n_embd, dense=True)
    for part, n_out, n_in in (("gate", n_ff, n_embd), ("up", n_ff, n_embd), ("down", n_embd, n_ff)):
        weights = model.rng.standard_normal((EXPERTS, n_out, n_in)) * n_in**-0.5
        model.tensor(f"{blk}ffn_{part}_exps.weight", weights.astype(np.float32))


def _expert_keys(model: _Builder) -> None:
    model.integers({"expert_count": EXPERTS, "expert_used_count": EXPERTS_USED})
    model.integers({"expert_feed_forward_length": model.spec.n_ff})


def _qwen3moe(model: _Builder) -> None:
    _expert_keys(model)
    _transformer(model, head_norms=True, ffn=_experts)


def _gpt_oss(model: _Builder) -> None:
    spec = model.spec

    def experts(model: _Builder, blk: str) -> None:
        _experts(model, blk)
        _random(model, f"{blk}attn_sinks.weight", spec.n_head, scale=1.0)
        _random(model, f"{blk}attn_output.bias", spec.n_embd)
        _random(model, f"{blk}ffn_gate_inp.bias", EXPERTS)
        for part, width in (("gate", spec.n_ff), ("up", spec.n_ff), ("down", spec.n_embd)):
            _random(model, f"{blk}ffn_{part}_exps.bias", EXPERTS, width)

    _expert_keys(model)
    model.integers({"attention.sliding_window": WINDOW})
    _transformer(model, biased=True, post_norms=("post_attention_norm",), ffn=experts, ffn_norm=False)
    model.matrix("output.weight", 364, spec.n_embd)


def _gemma2(model: _Builder) -> None:
    model.integers({"attention.sliding_window": WINDOW})
    for name, cap in (("attn", 50.0), ("final", 30.0)):
        model.writer.add_float32(f"gemma2.{name}_logit_softcapping", cap)
    _transformer(model, post_norms=("post_attention_norm", "post_ffw_norm"))


def _gemma3(model: _Builder) -> None:
    model.integers({"attention.sliding_window": WINDOW})
    _transformer(model, head_norms=True, post_norms=("post_attention_norm", "post_ffw_norm"))


def _mamba2(model: _Builder) -> None:
    spec = model.spec
    n_inner, n_state, n_conv, n_head = 2 * spec.n_embd, 128, 4, 4  # what Vulkan's kernel asks for
    width = n_inner + 2 * n_state
    model.common_keys()
    model.writer.add_layer_norm_rms_eps(1e-5)
    model.integers({"ssm.inner_size": n_inner, "ssm.state_size": n_state, "ssm.conv_kernel": n_conv})
    model.integers({"ssm.time_step_rank": n_head, "ssm.group_count": 1})
    for i in range(spec.n_layer):
        blk = f"blk.{i}."
        _scales(model, f"{blk}attn_norm.weight", spec.n_embd)
        model.matrix(f"{blk}ssm_in.weight", n_inner + width + n_head, spec.n_embd)
        model.matrix(f"{blk}ssm_conv1d.weight", width, n_conv, dense=True)
        _random(model, f"{blk}ssm_conv1d.bias", width)
        _random(model, f"{blk}ssm_dt.bias", n_head, around=-3.0)
        _random(model, f"{blk}ssm_a", n_head, 1, around=-1.0)
        _random(model, f"{blk}ssm_d", n_head, 1, around=1.0)
        _random(model, f"{blk}ssm_norm.weight", 1, n_inner, around=1.0)
        model.matrix(f"{blk}ssm_out.weight", spec.n_embd, n_inner)


def _rwkv7(model: _Builder) -> None:
    spec, n_embd = model.spec, model.spec.n_embd
    model.common_keys()
    model.writer.add_layer_norm_eps(1e-5)
    model.integers({"feed_forward_length": spec.n_ff, "wkv.head_size": 64, "attention.head_count": 0})
    for part in ("decay", "iclr", "value_residual_mix", "gate"):
        model.integers({f"attention.{part}_lora_rank": RANK})
    for name in ("token_embd_norm", "output_norm"):
        if name == "token_embd_norm":
            _scales(model, f"{name}.weight", n_embd)
        _random(model, f"{name}.bias", n_embd)
    model.matrix("output.weight", 364, n_embd)
    for i in range(spec.n_layer):
        blk = f"blk.{i}."
        for norm in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            _scales(model, f"{blk}{norm}.weight", n_embd)
            _random(model, f"{blk}{norm}.bias", n_embd)
        for part in "wav":
            _random(model, f"{blk}time_mix_{part}0.weight", n_embd)
        for part in "wavg":
            model.matrix(f"{blk}time_mix_{part}1.weight", RANK, n_embd)
            model.matrix(f"{blk}time_mix_{part}2.weight", n_embd, RANK)
        _random(model, f"{blk}time_mix_lerp_fused.weight", 6, 1, 1, n_embd, around=0.5)
        _random(model, f"{blk}channel_mix_lerp_k.weight", 1, 1, n_embd, around=0.5)
        for part in ("k_k", "k_a", "r_k"):
            _random(model, f"{blk}time_mix_{part}.weight", n_embd, around=0.5)
        for part in ("key", "value", "receptance", "output"):
            model.matrix(f"{blk}time_mix_{part}.weight", n_embd, n_embd)
        model.matrix(f"{blk}channel_mix_key.weight", spec.n_ff, n_embd)
        model.matrix(f"{blk}channel_mix_value.weight", n_embd, spec.n_ff)


def write_hybrid(path: PathLike, window: int = 0) -> Path:
    """Write an LFM2: layers of short convolutions, and layers of attention (with a sliding window, if it is not 0)."""
    n_conv, n_layer = 3, 4
    spec = TinySpec(arch="lfm2", quant="F32", n_layer=n_layer, n_head=4, n_head_kv=2, n_embd=128)
    model, head = _Builder(spec, "lfm2", name="tiny"), 128 // 4
    n_vocab = tiny_vocabs.add_sentencepiece(model.writer)
    model.common_keys()
    model.integers({"vocab_size": n_vocab, "feed_forward_length": spec.n_ff, "shortconv.l_cache": n_conv})
    model.integers({"attention.head_count": spec.n_head, **({"attention.sliding_window": window} if window else {})})
    model.writer.add_head_count_kv([2 * (i % 2) for i in range(n_layer)])  # 0: a layer without attention
    model.writer.add_layer_norm_rms_eps(1e-5)
    model.table("token_embd.weight", n_vocab)
    _scales(model, "token_embd_norm.weight", spec.n_embd, LOGIT_GAIN)
    for i in range(n_layer):
        blk = f"blk.{i}."
        for norm in ("attn_norm", "ffn_norm"):
            _scales(model, f"{blk}{norm}.weight", spec.n_embd)
        if i % 2:
            for part, width in {"q": spec.n_embd, "k": spec.n_embd_kv, "v": spec.n_embd_kv}.items():
                model.matrix(f"{blk}attn_{part}.weight", width, spec.n_embd)
            for part in "qk":
                _scales(model, f"{blk}attn_{part}_norm.weight", head)
            model.matrix(f"{blk}attn_output.weight", spec.n_embd, spec.n_embd, ATTN_GAIN)
        else:
            model.matrix(f"{blk}shortconv.conv.weight", spec.n_embd, n_conv, dense=True)
            model.matrix(f"{blk}shortconv.in_proj.weight", 3 * spec.n_embd, spec.n_embd)
            model.matrix(f"{blk}shortconv.out_proj.weight", spec.n_embd, spec.n_embd)
        _feed_forward(1)(model, blk)
    return model.save(path)


def write_with_draft_head(path: PathLike) -> Path:
    """Write a GLM 4.5 of one layer, and one more that predicts the token after the next."""
    spec = TinySpec(arch="glm4moe", quant="F32", n_layer=2, n_head=4, n_head_kv=2, n_embd=128)
    model = _Builder(spec, "glm4moe", name="tiny")
    n_vocab = tiny_vocabs.add_sentencepiece(model.writer)
    model.integers({"vocab_size": n_vocab, "nextn_predict_layers": 1, "expert_shared_count": 1})
    model.table("token_embd.weight", n_vocab)

    def experts(model: _Builder, blk: str) -> None:
        _experts(model, blk)
        _random(model, f"{blk}exp_probs_b.bias", EXPERTS)
        for part, n_out, n_in in (("gate", spec.n_ff, 128), ("up", spec.n_ff, 128), ("down", 128, spec.n_ff)):
            model.matrix(f"{blk}ffn_{part}_shexp.weight", n_out, n_in)

    _expert_keys(model)
    _transformer(model, post_norms=("post_attention_norm",), ffn=experts, ffn_norm=False)
    model.matrix("blk.1.nextn.eh_proj.weight", spec.n_embd, 2 * spec.n_embd)
    for norm in ("enorm", "hnorm"):
        _scales(model, f"blk.1.nextn.{norm}.weight", spec.n_embd)
    _scales(model, "output_norm.weight", spec.n_embd, LOGIT_GAIN)
    return model.save(path)


ARCHITECTURES: dict[str, Callable[[_Builder], None]] = {
    "qwen2": lambda model: _transformer(model, biased=True),
    "qwen3": lambda model: _transformer(model, head_norms=True),
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": lambda model: _transformer(model, fused=True),
    "qwen3moe": _qwen3moe,
    "gpt-oss": _gpt_oss,
    "mamba2": _mamba2,
    "rwkv7": _rwkv7,
}
"""How to add the layers of each architecture."""
