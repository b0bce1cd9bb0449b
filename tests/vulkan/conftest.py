"""Vulkan, for the tests of this folder; they come last, because models that are loaded after it go to its devices.

Without a setting of the user's own, ggml is shown the first device twice. So Mesa's lavapipe counts, which is a device
on the CPU; and what spreads a model over two devices can be tested with one. `GGML_VK_VISIBLE_DEVICES=0,1` names two.

The tests need no more than pytest, numpy and gguf: the models are written here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import llama_cffi
from llama_cffi import Ggml, Model, logGet, logSet
from llama_cffi.ggml import BackendDevice
from tests import tiny_models
from tests.vulkan import models
from tests.vulkan.lines import Lines

MODULES = Path(llama_cffi.__file__).with_name("lib")
REQUIRED = os.environ.get("LLAMA_CFFI_TEST_VULKAN") == "1"

os.environ.setdefault("GGML_VK_VISIBLE_DEVICES", "0,0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests after all others of the session."""
    here = Path(__file__).parent
    items.sort(key=lambda item: here in item.path.parents)


@dataclass(frozen=True)
class Vulkan:
    """The devices of this machine."""

    devices: list[BackendDevice]
    cpu: BackendDevice

    @property
    def first(self) -> list[BackendDevice]:
        """One device: what most tests run on."""
        return self.devices[:1]

    @property
    def is_software(self) -> bool:
        """Whether shaders run on the CPU, where the large ones take minutes to compile."""
        return "llvmpipe" in self.devices[0].description


@pytest.fixture(scope="session")
def module() -> None:
    """Skips where this build has no Vulkan."""
    if not any(MODULES.glob("libggml-vulkan*")):
        pytest.skip("this build has no Vulkan module: build with GGML_USE_VULKAN=1")


@pytest.fixture(scope="session")
def vulkan(module: None) -> Vulkan:
    """The Vulkan devices, with the backend loaded. Skips where there are none, which `test_device.py` does not."""
    Ggml.Backend.vkLoad()
    found = Ggml.Backend.devices()
    devices = [device for device in found if device.name.startswith("Vulkan")]
    if not devices:
        pytest.skip("there is no Vulkan device here: install a driver (Debian: apt install mesa-vulkan-drivers)")
    return Vulkan(devices, next(device for device in found if device.name == "CPU"))


@pytest.fixture(scope="session")
def two(vulkan: Vulkan) -> list[BackendDevice]:
    """Two devices."""
    if len(vulkan.devices) < 2:
        pytest.skip("GGML_VK_VISIBLE_DEVICES names a single device: leave it unset, or name two")
    return vulkan.devices[:2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vulkan")


@pytest.fixture(scope="session")
def path(folder: Path) -> Path:
    """A Llama of four layers in F16, whose greedy text does not hang on a rounding."""
    return models.write_llama(folder / "llama.gguf", "F16")


@pytest.fixture(scope="session")
def lora(folder: Path) -> Path:
    """An adapter for it."""
    tiny_models.write_lora(folder / "lora.gguf", models.LLAMA)
    return folder / "lora.gguf"


@pytest.fixture(scope="session")
def on_cpu(vulkan: Vulkan, path: Path) -> Iterator[Model]:
    with Model.load(path, Model.Params(devices=[])) as model:
        yield model


@pytest.fixture(scope="session")
def on_vulkan(vulkan: Vulkan, path: Path) -> Iterator[Model]:
    with Model.load(path, Model.Params(devices=vulkan.first)) as model:
        yield model


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What llama.cpp logs during the test."""
    before: tuple[Callable[..., object] | object, object] = logGet()
    found = Lines()
    logSet(found.add)
    yield found
    logSet(*before)  # type: ignore[arg-type]
