"""A model that is spread over workers gives the text of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rpc.conftest import Client
from tests.rpc.workers import Worker, pids

SPLIT = """
import re

held = {}

def look(level, text, data):
    if match := re.search(r"(RPC\\d+\\[[0-9.:]+\\]|CPU\\w*) model buffer size = +([0-9.]+) MiB", text):
        held[match[1]] = float(match[2])

def resident(pid):
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024

alone = greedy(Model.Params(devices=[]))
devices, workers = added(), [text for text in sys.argv[2:] if ":" not in text]
assert len(devices) == 2
before = [resident(pid) for pid in workers]
logSet(look)
with Model.load(path("rpc"), Model.Params(devices=devices, PARAMS)) as model:
    logSet(None)
    assert write(model) == alone
    grown = [resident(pid) - rss for pid, rss in zip(workers, before)]
    sizes = [held[f"RPC0[{endpoint}]"] for endpoint in endpoints]
    assert all(size > 2 for size in sizes), held
    assert all(more > 0.9 * size for more, size in zip(grown, sizes)), (grown, sizes)
    CHECK
"""


@pytest.mark.parametrize(
    ("params", "check"),
    [
        ("nGpuLayers=7", "assert sum(sizes) > 13 + 31, held  # the layers, and the output; the embeddings stay here"),
        ("nGpuLayers=5", "assert held['CPU_Mapped'] > 31 + 4, held  # two layers stay here"),
        ("nGpuLayers=6, tensorSplit=[5, 1]", "assert sizes[0] > 9 and sizes[1] > 31, held"),
        ("nGpuLayers=7, splitMode=SplitMode.LAYER, tensorSplit=[1, 1]", ""),
    ],
)
def test_same_text_and_the_weights_are_there(client: Client, fresh: list[Worker], params: str, check: str) -> None:
    code = SPLIT.replace("PARAMS", params).replace("CHECK", check)
    client(code, *(w.endpoint for w in fresh), *pids(fresh))


def test_devices(client: Client, workers: list[Worker]) -> None:
    code = """
devices = added()
assert [device.name for device in devices] == ["RPC0", "RPC1"]
assert [device.description for device in devices] == endpoints == Ggml.Rpc.servers()
assert all(0 < device.memory.free <= device.memory.total for device in devices)
assert all(device.type == Ggml.BackendDevType.GPU for device in devices)
assert devices == Ggml.Rpc.devices() and all(device in Ggml.Backend.devices() for device in devices)
assert Ggml.BackendDevice.byName("RPC1") == devices[1]
"""
    client(code, *(w.endpoint for w in workers))


def test_adding_twice_is_harmless(client: Client, workers: list[Worker]) -> None:
    code = """
devices, many = added(), Ggml.Backend.devices()
assert added() == devices
named = endpoints[0].replace("127.0.0.1", "localhost")
with Model.load(path("rpc"), Model.Params(devices=devices, nGpuLayers=7)):  # its connection is the only one
    assert Ggml.Rpc.addServer(named) == devices[:1]
assert Ggml.Backend.devices() == many and Ggml.Rpc.devices() == devices
"""
    client(code, *(w.endpoint for w in workers))


def test_a_model_uses_workers_unless_told_otherwise(client: Client, workers: list[Worker]) -> None:
    code = """
lines = []
added()
logSet(lambda level, text, data: lines.append(text))
Model.load(path("rpc")).close()
assert sum("model buffer size" in line and "RPC" in line for line in lines) == 2, lines
del lines[:]
Model.load(path("rpc"), Model.Params(devices=[])).close()
assert not any("model buffer size" in line and "RPC" in line for line in lines), lines
"""
    client(code, *(w.endpoint for w in workers))


def test_loading_needs_no_server(client: Client) -> None:
    code = """
from llama_cffi import UnavailableError, supportsRpc
Ggml.Backend.cpuLoad()
assert not supportsRpc() and not Ggml.Rpc.devices() and not Ggml.Rpc.servers()
raises(UnavailableError, lambda: lib.ggml_backend_rpc_add_server(b"127.0.0.1:1"), "Ggml.Rpc.load()")
Ggml.Rpc.load()
Ggml.Rpc.load()
assert supportsRpc() and len(Ggml.Backend.devices()) == 1
"""
    client(code)


def test_a_worker_keeps_large_tensors(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with Worker("--cache", str(folder)) as worker:
        code = """
params = Model.Params(devices=added(), nGpuLayers=7)
first = greedy(params)
assert greedy(params) == first == greedy(Model.Params(devices=[]))
"""
        client(code, worker.endpoint)
    assert [path.stat().st_size for path in folder.iterdir()] == [32000 * 256 * 4]  # the embeddings, above 10 MiB
