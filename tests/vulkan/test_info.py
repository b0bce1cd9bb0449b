"""The estimate of `python -m llama_cffi info` for models on Vulkan, against what llama.cpp allocates by device."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

import pytest

from llama_cffi import Context, Model, logGet, logSet
from llama_cffi.cli.memory_estimate import estimate
from llama_cffi.ggml.gguf_native import TensorInfo, open_gguf
from tests.vulkan.conftest import Vulkan

_PLANNED_MORE = 3  # MiB that llama.cpp plans more than it takes, to compute on the second of two devices

_BUFFER = re.compile(r" (\S+) +(model|KV|output|compute) buffer size = +([\d.]+) MiB")


def tensors_of(path: Path) -> list[TensorInfo]:
    with open_gguf(os.fsencode(path)) as file:
        assert file is not None
        return list(file.tensors())


def allocated(path: Path, layers: int, params: Context.Params) -> dict[str, float]:
    """MiB of llama.cpp's buffers, by device; memory of the CPU for a device is the CPU's."""
    lines: list[str] = []
    before = logGet()
    logSet(lambda level, text, data: lines.append(text))
    try:
        with Model.load(path, Model.Params(nGpuLayers=layers)) as model, Context.initFromModel(model, params):
            pass
    finally:
        logSet(*before)
    found: dict[str, float] = defaultdict(float)
    for match in filter(None, map(_BUFFER.search, lines)):
        found[match[1] if re.fullmatch(r"Vulkan\d+", match[1]) else "CPU"] += float(match[3])
    return found


@pytest.mark.parametrize("layers", [0, 2, -1])
def test_the_estimate_by_device(vulkan: Vulkan, path: Path, layers: int) -> None:
    params = Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)
    planned = estimate(str(path), tensors_of(path), Model.Params(nGpuLayers=layers), params)
    expected = allocated(path, layers, params)
    found = {name: share.total / (1 << 20) for name, share in planned.shares.items() if share.total}
    assert set(found) == {name for name, size in expected.items() if size}
    for name, size in expected.items():
        assert 0.95 * size - 0.05 <= found[name] <= 1.05 * size + _PLANNED_MORE
    assert planned.fits


def test_a_matrix_that_a_device_does_not_take(vulkan: Vulkan, gemma_path: Path) -> None:
    params = Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)
    planned = estimate(str(gemma_path), tensors_of(gemma_path), Model.Params(nGpuLayers=4), params)
    expected = allocated(gemma_path, 4, params)
    for name in (device.name for device in vulkan.devices):
        assert planned.shares[name].total / (1 << 20) == pytest.approx(expected[name], rel=0.05, abs=0.05)
