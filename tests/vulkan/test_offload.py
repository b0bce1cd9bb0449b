"""The options of offload do what they say. Where weights and caches land is what llama.cpp logs of their buffers, and
the graph says it once more: each of its tensors names its buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Batch, ContextError, FlashAttnType, Ggml, Model, SplitMode, TensorBuftOverride, ffi, lib
from llama_cffi.ggml import BackendDevice
from tests.vulkan import models
from tests.vulkan.conftest import Vulkan
from tests.vulkan.lines import Lines

LAYERS = models.LLAMA.n_layer


def weights(lines: Lines, path: Path, **params: Any) -> tuple[dict[str, float], list[int]]:
    """MiB of weights by type of memory, and the greedy text of a model that is loaded so."""
    with Model.load(path, Model.Params(**params)) as model, models.context(model) as ctx:
        return lines.memory("model"), models.greedy(ctx)


@pytest.fixture(scope="module")
def text(on_cpu: Model) -> list[int]:
    """What the CPU alone says."""
    with models.context(on_cpu) as ctx:
        return models.greedy(ctx)


def test_layers(vulkan: Vulkan, path: Path, lines: Lines, text: list[int]) -> None:
    """Of `nGpuLayers`, one is the output; the others are the last of the model's. Each puts as much onto the device."""
    found = []
    for n in (0, 1, 2, 3, LAYERS + 1, -1, 99):
        lines.all.clear()
        memory, spoken = weights(lines, path, devices=vulkan.first, nGpuLayers=n)
        assert spoken == text
        found.append(memory.get("Vulkan0", 0.0))
        assert memory["CPU_Mapped"] > 0  # the embeddings stay there
        assert f"offloaded {LAYERS + 1 if n < 0 or n > LAYERS else n}/{LAYERS + 1} layers" in lines
    none, output, one, two, whole, default, many = found
    assert none == 0 < output < one < two < whole
    assert whole == default == many
    assert two - one == pytest.approx(one - output, abs=0.02)
    assert whole - output == pytest.approx(LAYERS * (one - output), abs=0.05)


def test_no_devices(vulkan: Vulkan, path: Path, lines: Lines, text: list[int]) -> None:
    for devices in ([], [vulkan.cpu]):
        lines.all.clear()
        memory, spoken = weights(lines, path, devices=devices)
        assert spoken == text and set(memory) <= {"CPU", "CPU_Mapped", "CPU_REPACK", "AMX"}
        assert set(lines.memory("KV")) == {"CPU"}


def test_the_default_is_every_device(vulkan: Vulkan, path: Path, lines: Lines, text: list[int]) -> None:
    memory, spoken = weights(lines, path)
    assert spoken == text and memory["Vulkan0"] > 0


def test_tensor_split(two: list[BackendDevice], path: Path, lines: Lines, text: list[int]) -> None:
    for shares, counts in (([1, 0], (5, 0)), ([0, 1], (0, 5)), ([3, 2], (3, 2)), ([1, 4], (1, 4)), ([1], (5, 0))):
        lines.all.clear()
        memory, spoken = weights(lines, path, devices=two, tensorSplit=shares)
        assert spoken == text
        placed = [sum(f"layer {i:3} assigned to device {device.name}" in lines for i in range(5)) for device in two]
        assert tuple(placed) == counts
        assert [device.name in memory for device in two] == [n > 0 for n in counts]


def test_the_order_of_devices(two: list[BackendDevice], path: Path, lines: Lines) -> None:
    for devices in (two, two[::-1]):
        lines.all.clear()
        memory, _ = weights(lines, path, devices=devices, tensorSplit=[4, 1])
        assert memory[devices[0].name] > memory[devices[1].name] > 0
        assert f"layer   0 assigned to device {devices[0].name}" in lines


def test_one_device_of_two(two: list[BackendDevice], path: Path, lines: Lines, text: list[int]) -> None:
    for main, device in enumerate(two):
        lines.all.clear()
        memory, spoken = weights(lines, path, devices=two, splitMode=SplitMode.NONE, mainGpu=main)
        assert spoken == text
        assert set(memory) == {"CPU_Mapped", device.name} and set(lines.memory("KV")) == {device.name}
    lines.all.clear()
    memory, spoken = weights(lines, path, devices=two, splitMode=SplitMode.NONE, mainGpu=-1)
    assert spoken == text and not {device.name for device in two} & set(memory)


def test_tensors_split_over_devices(two: list[BackendDevice], path: Path, lines: Lines, text: list[int]) -> None:
    """Half of each matrix on each device; llama.cpp logs what the first of them has."""
    memory, spoken = weights(lines, path, devices=two[:1], splitMode=SplitMode.TENSOR)
    lines.all.clear()
    halves, spoken_by_two = weights(lines, path, devices=two, splitMode=SplitMode.TENSOR)
    assert spoken == spoken_by_two == text
    (whole,), (half,) = ([size for name, size in found.items() if "Meta" in name] for found in (memory, halves))
    assert half == pytest.approx(whole / 2, rel=0.1)


def test_overrides(vulkan: Vulkan, path: Path, lines: Lines, text: list[int]) -> None:
    cpu, device = vulkan.cpu.bufferType(), vulkan.devices[0].bufferType()
    host = vulkan.devices[0].hostBufferType()
    assert host is not None
    everything, _ = weights(lines, path, devices=vulkan.first)

    def placed(*overrides: tuple[str, Any], **params: Any) -> dict[str, float]:
        lines.all.clear()
        chosen = [TensorBuftOverride(*override) for override in overrides]
        memory, spoken = weights(lines, path, devices=vulkan.first, tensorBuftOverrides=chosen, **params)
        assert spoken == text
        return memory

    assert set(placed((".*", cpu))) <= {"CPU", "CPU_Mapped"}
    assert set(placed((".*", device))) == {"Vulkan0"}
    assert "Vulkan0" not in placed((".*", host))
    assert set(placed((".*", device), nGpuLayers=0)) == {"Vulkan0"}
    without = placed(("ffn", cpu))["Vulkan0"]
    assert 0 < without < everything["Vulkan0"]
    kept = placed((r"blk\.0\.ffn_up", device), ("ffn", cpu))["Vulkan0"]  # the first that matches decides
    assert kept - without == pytest.approx(256 * 512 * 2 / 2**20, abs=0.02)


def _buffers(path: Path, name: str, **params: Any) -> dict[str, str]:
    """Where the first source of each matrix product and its result are, as the graph itself says it."""
    found: dict[str, str] = {}

    def look(tensor: Any, ask: bool) -> bool:
        pointer = tensor._c
        source = pointer.src[0]
        if source != ffi.NULL and name in ffi.string(source.name).decode():
            for key, one in (("weights", source), ("result", pointer)):
                if one.buffer != ffi.NULL:
                    found[key] = ffi.string(lib.ggml_backend_buffer_name(one.buffer)).decode()
        return not ask

    with Model.load(path, Model.Params(**params)) as model, models.context(model, cbEval=look) as ctx:
        ctx.decode(Batch.getOne(models.PROMPT[:4]))
    return found


def test_the_graph_computes_where_the_weights_are(vulkan: Vulkan, path: Path) -> None:
    on_device = {"weights": "Vulkan0", "result": "Vulkan0"}
    assert _buffers(path, "blk.3.ffn_up", devices=vulkan.first) == on_device
    assert _buffers(path, "blk.3.ffn_up", devices=vulkan.first, nGpuLayers=2) == on_device
    assert "Vulkan0" not in _buffers(path, "blk.2.ffn_up", devices=vulkan.first, nGpuLayers=2).values()
    assert "Vulkan0" not in _buffers(path, "blk.3.ffn_up", devices=[]).values()


def cache(lines: Lines, model: Model, **params: Any) -> dict[str, float]:
    lines.all.clear()
    with models.context(model, **params):
        return lines.memory("KV")


def test_the_cache(on_vulkan: Model, lines: Lines) -> None:
    assert set(cache(lines, on_vulkan)) == {"Vulkan0"}
    assert set(cache(lines, on_vulkan, offloadKqv=False)) == {"CPU"}
    half = cache(lines, on_vulkan, nCtx=512)["Vulkan0"]
    for kind, size in (("F32", 2.0), ("BF16", 1.0), ("Q8_0", 34 / 64), ("Q4_0", 18 / 64)):
        found = cache(lines, on_vulkan, nCtx=512, typeK=Ggml.Type[kind], typeV=Ggml.Type[kind])["Vulkan0"]
        assert found == pytest.approx(size * half, rel=0.02)
    mixed = cache(lines, on_vulkan, nCtx=512, typeK=Ggml.Type.Q8_0)["Vulkan0"]
    assert mixed == pytest.approx((0.5 + 17 / 64) * half, rel=0.02)


def test_the_cache_goes_with_its_layers(vulkan: Vulkan, path: Path, lines: Lines) -> None:
    with Model.load(path, Model.Params(devices=vulkan.first, nGpuLayers=2)) as model:
        found = cache(lines, model, nCtx=512)
    assert found["CPU"] == pytest.approx(3 * found["Vulkan0"], abs=0.02)


def test_flash_attention(on_vulkan: Model, lines: Lines, text: list[int]) -> None:
    for kind, words in ((FlashAttnType.ENABLED, "= enabled"), (FlashAttnType.DISABLED, "= disabled")):
        lines.all.clear()
        with models.context(on_vulkan, flashAttnType=kind) as ctx:
            assert models.greedy(ctx) == text
        assert f"flash_attn            {words}" in lines
    lines.all.clear()
    models.context(on_vulkan).close()
    assert "Flash Attention enabled" in lines  # the device can, and llama.cpp found out
    with pytest.raises(ContextError, match="quantized V cache"):
        models.context(on_vulkan, typeV=Ggml.Type.Q8_0, flashAttnType=FlashAttnType.DISABLED)


def test_large_products_of_the_cpus_weights(vulkan: Vulkan, path: Path, lines: Lines) -> None:
    """`opOffload`: where weights are on the CPU, a device may still compute batches of 32 tokens and more."""

    def products(**params: Any) -> set[str]:
        found: set[str] = set()

        def look(tensor: Any, ask: bool) -> bool:
            if tensor.name.startswith("ffn_up") and tensor._c.buffer != ffi.NULL:
                found.add(ffi.string(lib.ggml_backend_buffer_name(tensor._c.buffer)).decode())
            return not ask

        with Model.load(path, Model.Params(devices=vulkan.first, nGpuLayers=0)) as model:
            with models.context(model, cbEval=look, **params) as ctx:
                ctx.decode(Batch.getOne(models.PROMPT))
        return found

    assert "Vulkan0" in products(opOffload=True)
    assert "Vulkan0" not in products(opOffload=False)


def test_what_does_not_fit_the_devices(two: list[BackendDevice], path: Path) -> None:
    def load(**params: Any) -> Callable[[], Model]:
        return lambda: Model.load(path, Model.Params(**params))

    n = len([device for device in Ggml.Backend.devices() if device.name != "CPU"])
    override = TensorBuftOverride("ffn", two[1].bufferType())
    for call, words in (
        (load(splitMode=SplitMode.NONE, mainGpu=n), f"mainGpu must be between 0 and {n - 1} .* got {n}"),
        (load(splitMode=SplitMode.NONE, mainGpu=1, devices=two[:1]), "mainGpu .* got 1: the devices are Vulkan0"),
        (load(tensorSplit=[1] * (n + 1)), f"tensorSplit .*at most {n} shares, got {n + 1}"),
        (load(tensorSplit=[0, 0, 1], devices=two), "tensorSplit .*at most 2 shares, got 3 .*Vulkan0, Vulkan1"),
        (load(splitMode=SplitMode.ROW), "splitMode=ROW .*Vulkan0 does not"),
        (load(splitMode=SplitMode.TENSOR, devices=[Ggml.BackendDevice.byName("CPU"), two[0]]), "leave it out"),
        (load(tensorBuftOverrides=[override], devices=two[:1]), r"type Vulkan1, .* \(it uses: Vulkan0\)"),
        (load(tensorBuftOverrides=[override], devices=[]), r"\(it uses: none\)"),
        (load(tensorBuftOverrides=[override], devices=two, splitMode=SplitMode.TENSOR), "it uses"),
        (lambda: Model.Params(tensorSplit=[-1]), "at least 0, got -1"),
        (lambda: Model.Params(tensorSplit=[float("nan")]), "at least 0, got nan"),
        (lambda: Model.Params(tensorSplit=[3e38, 3e38]), "sum of tensorSplit"),
        (lambda: Model.Params(devices=[two[0], two[0]]), "twice"),
    ):
        with pytest.raises(ValueError, match=words):
            call().close()
