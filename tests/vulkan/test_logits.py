"""Vulkan computes what the CPU computes, within a tolerance, for formats of weights, of caches, and architectures.

The measure is the normalized mean square error of the logits (of embeddings for encoders) after a prompt of 32 tokens
and after three single tokens, which are computed by other kernels. Vulkan's shaders round activations to F16, and add
up in F16 or F32 as the device likes; the CPU rounds the activations that meet F16 and BF16 weights to those types, and
those that meet quantized weights to 8 bits. So quantized weights differ most: activations are rounded in two ways.
With Mesa's lavapipe and a CPU with AVX-512:

    F32     2.3e-6    F16     4.3e-5    BF16    4.9e-5    Q8_0    7.2e-4    Q4_0    6.3e-4    Q4_1    8.5e-4
    Q5_0    7.8e-4    Q5_1    7.1e-4    IQ4_NL  6.0e-4    MXFP4   6.9e-4    NVFP4   6.6e-4    Q1_0    6.7e-4
    Q2_K    1.4e-3    Q3_K    1.8e-3    Q4_K    1.6e-3    Q5_K    1.9e-3    Q6_K    1.8e-3    IQ4_XS  1.7e-3
    TQ1_0   2.1e-3    TQ2_0   2.1e-3    IQ3_S   2.0e-3    IQ1_S   1.9e-3

and for other architectures, in F32:

    llama   1.1e-6    qwen2   1.6e-6    qwen3   1.4e-6    gemma2  2.5e-6    gemma3  1.6e-6    phi3    1.5e-6
    mamba   2.2e-6    mamba2  2.8e-7    rwkv7   7.3e-8    t5      4.1e-7    gpt-oss 3.0e-7    qwen3moe 2.4e-6

The tolerances are five to ten times that, for other devices. Weights in another format are beyond them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import FlashAttnType, Ggml, Model
from tests import tiny_archs
from tests.vulkan import models
from tests.vulkan.conftest import Vulkan

FLOATS, QUANTIZED = 5e-4, 1e-2  # the tolerances

KINDS = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 TQ2_0 Q1_0".split()
HEAVY = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S NVFP4".split()


@pytest.mark.parametrize("kind", [*KINDS, *HEAVY])
def test_formats_of_weights(vulkan: Vulkan, folder: Path, kind: str) -> None:
    if kind in HEAVY and vulkan.is_software:
        pytest.skip("its shaders take one to two minutes to compile on the CPU")
    path = models.write_llama(folder / f"{kind}.gguf", kind)
    found, expected = models.outputs(path, vulkan.first), models.outputs(path, [])
    assert models.error(found, expected) < (FLOATS if "F" in kind and "P" not in kind else QUANTIZED)


def test_the_tolerance_notices_another_format(vulkan: Vulkan, folder: Path) -> None:
    expected = models.outputs(models.write_llama(folder / "F32.gguf", "F32"), [])
    for kind, tolerance in (("Q4_0", QUANTIZED), ("Q8_0", FLOATS)):
        coarser = models.write_llama(folder / f"{kind}.gguf", kind)
        assert models.error(models.outputs(coarser, vulkan.first), expected) > tolerance


@pytest.mark.parametrize("arch", [*models.OLDER, *tiny_archs.ARCHITECTURES])
def test_architectures(vulkan: Vulkan, folder: Path, arch: str) -> None:
    path = models.write(folder / f"of-{arch}.gguf", arch)
    found, expected = models.outputs(path, vulkan.first), models.outputs(path, [])
    assert models.error(found, expected) < FLOATS


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"])
def test_formats_of_the_cache(on_vulkan: Model, on_cpu: Model, kind: str) -> None:
    params = {"typeK": Ggml.Type[kind], "typeV": Ggml.Type[kind], "flashAttnType": FlashAttnType.ENABLED}
    error = models.error(models.outputs_of(on_vulkan, **params), models.outputs_of(on_cpu, **params))
    assert error < (FLOATS if "F" in kind else QUANTIZED)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_attention_in_steps(on_vulkan: Model, on_cpu: Model, kind: str) -> None:
    """Without flash attention; only keys may be quantized then."""
    params = {"typeK": Ggml.Type[kind], "flashAttnType": FlashAttnType.DISABLED}
    error = models.error(models.outputs_of(on_vulkan, **params), models.outputs_of(on_cpu, **params))
    assert error < (FLOATS if "F" in kind else QUANTIZED)
