"""Vulkan computes what the CPU computes, within a tolerance, for formats of weights, of caches, and architectures.

The measure is the normalized mean square error of the logits (of embeddings for encoders) after a prompt of 32 tokens
and after three single tokens, which are computed by other kernels. Vulkan's shaders round activations to F16, and add up
in F16 or F32 as the device likes; the CPU rounds the activations that meet quantized weights to 8 bits. So floats differ
less than quantized weights, whose activations have been rounded in two ways. With Mesa's lavapipe and a CPU with AVX-512:

    format       F32     F16     BF16    Q8_0    Q4_0    Q4_1    Q5_0    Q5_1    IQ4_NL  MXFP4   NVFP4   Q1_0
    error        1.1e-6  1.2e-6  4.7e-6  3.4e-5  3.3e-5  3.3e-5  3.4e-5  3.3e-5  3.6e-5  3.2e-5  3.4e-5  3.0e-5
    format       Q2_K    Q3_K    Q4_K    Q5_K    Q6_K    IQ4_XS  TQ1_0   TQ2_0   IQ1_S   IQ1_M   IQ2_XXS IQ2_XS
    error        5.2e-5  5.1e-5  5.5e-5  5.6e-5  5.8e-5  6.5e-5  4.4e-5  4.4e-5  6.5e-5  4.7e-5  4.9e-5  6.6e-5

    architecture qwen2   qwen3   gemma2  gemma3  phi3    qwen3moe gpt-oss mamba  mamba2  rwkv7   llama   t5
    error        1.6e-6  1.4e-6  2.5e-6  1.6e-6  1.5e-6  2.4e-6  3.0e-7  2.2e-6  2.8e-7  7.3e-8  1.1e-6  4.1e-7

The tolerances are about ten times that, for other devices; a format of one bit less, or a bias left out, is far beyond.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import FlashAttnType, Ggml, Model
from tests import tiny_archs
from tests.vulkan import models
from tests.vulkan.conftest import Vulkan

FLOATS, QUANTIZED = 5e-5, 5e-4  # the tolerances

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
    finer, coarser = (models.write_llama(folder / f"{kind}.gguf", kind) for kind in ("Q5_1", "Q4_1"))
    assert models.error(models.outputs(coarser, []), models.outputs(finer, [])) > 2 * QUANTIZED


@pytest.mark.parametrize("arch", [*models.OLDER, *tiny_archs.ARCHITECTURES])
def test_architectures(vulkan: Vulkan, folder: Path, arch: str) -> None:
    path = models.write(folder / f"{arch}.gguf", arch)
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
