"""A device that is full: an exception, after which everything else goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import Ggml, Model, NativeMemoryError
from llama_cffi._host import resources
from tests.safety import isolated
from tests.vulkan import models
from tests.vulkan.conftest import Vulkan

# ggml reads the variable when it makes a device: each case has a process of its own.
_SMALL = """
import os
os.environ["GGML_VK_FORCE_MAX_BUFFER_SIZE"] = "{limit}"
from pathlib import Path
from tests.vulkan import models
Ggml.Backend.vkLoad()
file = Path(sys.argv[1])
devices = [device for device in Ggml.Backend.devices() if device.name == "Vulkan0"]
with Model.load(file, Model.Params(devices=[])) as model, models.context(model) as witness:
    expected = models.greedy(witness, 4)
    witness.getMemory().clear(True)
    {attempt}
    assert models.greedy(witness, 4) == expected
"""


def test_weights_that_do_not_fit(vulkan: Vulkan, path: Path) -> None:
    attempt = """for _ in range(3):
        try:
            with Model.load(file, Model.Params(devices=devices)) as other, models.context(other) as ctx:
                models.greedy(ctx, 4)
        except NativeError as error:
            assert "Vulkan0" in str(error), str(error)
        else:
            raise SystemExit("it fitted")"""
    code = _SMALL.format(limit=1 << 16, attempt=attempt)
    ended = isolated.run(code, path, timeout=120, says="ggml_vulkan: ")
    assert ended.passed, ended


def test_a_cache_that_does_not_fit(vulkan: Vulkan, path: Path) -> None:
    """The weights fit, and so does a small context."""
    attempt = """with Model.load(file, Model.Params(devices=devices)) as other:
        for _ in range(3):
            try:
                models.context(other, nCtx=1 << 16).close()
            except NativeError as error:
                assert "Vulkan0" in str(error), str(error)
            else:
                raise SystemExit("it fitted")
        with models.context(other) as ctx:
            assert models.greedy(ctx, 4) == expected"""
    code = _SMALL.format(limit=8 << 20, attempt=attempt)
    ended = isolated.run(code, path, timeout=120, says="ggml_vulkan: ")
    assert ended.passed, ended


def test_a_cache_that_surely_does_not_fit(vulkan: Vulkan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before it is allocated: a device that shares the machine's memory might get the process killed."""
    monkeypatch.setattr(resources, "available_memory", lambda: 1 << 30)
    with Model.load(path, Model.Params(devices=vulkan.first)) as model:
        total = max(1 << 30, vulkan.first[0].memory.total)
        tokens = min(total // (models.LLAMA.n_layer * models.LLAMA.n_embd_kv * 4) + 4096, (1 << 31) - 256)
        with pytest.raises(NativeMemoryError, match=rf"{tokens} tokens.*devices"):
            models.context(model, nCtx=tokens, typeK=Ggml.Type.F32, typeV=Ggml.Type.F32)
        models.context(model).close()
