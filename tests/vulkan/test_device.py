"""Whether there is anything to test."""

from __future__ import annotations

import pytest

from llama_cffi import Ggml
from tests.vulkan.conftest import MODULES, REQUIRED, Vulkan


def test_a_build_with_vulkan_finds_a_device() -> None:
    """The other tests skip where there is none: this one fails, so that such a run is no success."""
    if not any(MODULES.glob("libggml-vulkan*")):
        if REQUIRED:
            pytest.fail(
                "LLAMA_CFFI_TEST_VULKAN=1, and this build has no Vulkan module: run `make build BACKEND=vulkan`"
            )
        pytest.skip("this build has no Vulkan module: build with GGML_USE_VULKAN=1")
    Ggml.Backend.vkLoad()
    names = [device.name for device in Ggml.Backend.devices()]
    assert "Vulkan0" in names, f"no Vulkan device among {names}: install a driver (apt install mesa-vulkan-drivers)"


def test_devices(vulkan: Vulkan) -> None:
    for device in vulkan.devices:
        assert device.type in (Ggml.BackendDevType.GPU, Ggml.BackendDevType.IGPU)
        assert 0 < device.memory.free <= device.memory.total
        assert device.bufferType().name == device.name and not device.bufferType().isHost
        assert device.bufferType().getDevice() == device
        assert device.supportsBuft(device.bufferType())
        host = device.hostBufferType()
        assert host is not None and host.isHost
    assert not vulkan.cpu.supportsBuft(vulkan.devices[0].bufferType())


def test_loading_it_again_changes_nothing(vulkan: Vulkan) -> None:
    before = Ggml.Backend.devices()
    Ggml.Backend.vkLoad()
    Ggml.Backend.cpuLoad()
    assert Ggml.Backend.devices() == before
