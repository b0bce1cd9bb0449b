"""vkLoad() with the module: what it loads, and each reason why it does not, with real loaders and drivers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("module")

LOAD = """
import os, sys, threading, warnings
from llama_cffi import *
def load():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Ggml.Backend.vkLoad()
    return [str(w.message) for w in caught]
def names():
    return [d.name for d in Ggml.Backend.devices()]
"""
REASON = "print(load()[0]); assert names() == ['CPU']; Model.load(sys.argv[1]).free()"


def _python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own. The only driver is lavapipe, unless another one is given."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("VK_", "GGML_"))}
    base["VK_DRIVER_FILES"] = lavapipe()
    command = [sys.executable, "-c", LOAD + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**base, **environment})


def lavapipe() -> str:
    """The file of Mesa's driver for CPUs: a GPU of this machine does not matter then."""
    given = os.environ.get("VK_DRIVER_FILES", "")
    if Path(given).name == "lavapipe.json":  # the one that `python -m vendor.vulkan --run` brings
        return given
    files = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
    assert files, "install Mesa's lavapipe (Debian: apt install mesa-vulkan-drivers)"
    return str(files[0])


def make_library(source: str, library: Path) -> Path:
    compiler = shutil.which("cc")
    assert compiler, "install a C compiler (Debian: apt install gcc)"
    file = library.with_suffix(".c")
    file.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, file], check=True)
    return library


def make_driver(folder: Path, library: str) -> str:
    file = folder / "driver.json"
    file.write_text(
        json.dumps({"file_format_version": "1.0.0", "ICD": {"library_path": library, "api_version": "1.3.0"}})
    )
    return str(file)


# With a device


@pytest.mark.parametrize("order", ["load()", "Ggml.Backend.cpuLoad(); load()", "load(); Ggml.Backend.cpuLoad()"])
def test_devices_appear_whatever_the_order(order: str) -> None:
    result = _python(
        f"{order}\n"
        "for _ in range(3): assert load() == []; Ggml.Backend.cpuLoad()\n"
        "print(*names(), *[r.name for r in Ggml.Backend.registrations()], lib.ggml_backend_vk_get_device_count())",
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert result.stdout.split() == ["CPU", "Vulkan0", "CPU", "Vulkan", "1"], result.stderr


def test_what_the_device_says() -> None:
    result = _python(
        "load()\n"
        "vulkan = Ggml.Backend.registrations()[1]; (device,) = vulkan.devices()\n"
        "assert device.backendReg() == vulkan and device.type == Ggml.BackendDevType.GPU and vulkan.features == {}\n"
        "assert 0 < device.memory.free <= device.memory.total and device.caps.async_ and device.caps.events\n"
        "assert device.bufferType().name == 'Vulkan0' and supportsGpuOffload()\n"
        "print(device.description)",
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert "llvmpipe" in result.stdout, result.stderr


def test_loads_on_several_threads() -> None:
    result = _python(
        "start = threading.Barrier(8)\n"
        "def one(load):\n    start.wait(); load()\n"
        "both = (Ggml.Backend.vkLoad, Ggml.Backend.cpuLoad)\n"
        "threads = [threading.Thread(target=one, args=(both[i % 2],)) for i in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "print(*names(), lib.ggml_backend_reg_count())",
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert result.stdout.split() == ["CPU", "Vulkan0", "2"], result.stderr


@pytest.mark.parametrize(("value", "expected"), [("1", "CPU Vulkan0"), ("true", "CPU"), ("0", "CPU"), ("", "CPU")])
def test_use_vulkan_loads_it_with_the_first_model(tiny_path: Path, value: str, expected: str) -> None:
    result = _python(
        "Ggml.Backend.cpuLoad(); assert names() == ['CPU']\n"
        "Model.load(sys.argv[1], Model.Params(vocabOnly=True)).free(); print(*names())",
        tiny_path,
        GGML_USE_VULKAN=value,
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert result.stdout.strip() == expected, result.stderr


def test_a_trial_in_a_child_process_stays_on_the_cpu(tiny_path: Path) -> None:
    result = _python(
        "Model.load(sys.argv[1], Model.Params(vocabOnly=True), untrusted=True).free(); print(*names())",
        tiny_path,
        GGML_USE_VULKAN="1",
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert result.stdout.strip() == "CPU Vulkan0", result.stderr


def test_a_model_that_was_loaded_before_stays_on_the_cpu(tiny_path: Path) -> None:
    result = _python(
        "lines = []\n"
        "logSet(lambda level, text, data: lines.append(text))\n"
        "def greedy(model):\n"
        "    ctx = Context.initFromModel(model, Context.Params(nCtx=64, nThreads=2)); out = []\n"
        "    ctx.decode(Batch.getOne(tokenize(model.vocab, 'Once upon a time')))\n"
        "    for _ in range(4): out.append(Sampler.initGreedy().sample(ctx)); ctx.decode(Batch.getOne(out[-1:]))\n"
        "    return out\n"
        "def on_gpu(): return any('Vulkan0' in line and 'buffer size' in line for line in lines)\n"
        "model = Model.load(sys.argv[1]); before = greedy(model)\n"
        "load()\n"
        "assert greedy(model) == before and not on_gpu(), lines\n"
        "Model.load(sys.argv[1]).free(); print(on_gpu())",
        tiny_path,
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert result.stdout.strip() == "True", result.stderr


def test_no_backend_is_loaded_inside_a_load(tiny_path: Path) -> None:
    result = _python(
        "def progress(done): load()\n"
        "try: Model.load(sys.argv[1], Model.Params(progressCallback=progress))\n"
        "except BusyError as error: print(error)\n"
        "params = Model.Params(progressCallback=progress, nGpuLayers=0)\n"
        "load(); Model.load(sys.argv[1], params).free(); print(*names())",
        tiny_path,
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert "inside a callback" in result.stdout and result.stdout.endswith("CPU Vulkan0\n"), result.stderr


def test_a_fork_afterwards_cannot_load_models(tiny_path: Path) -> None:
    result = _python(
        "load()\n"
        "if os.fork() == 0:\n"
        "    try: Model.load(sys.argv[1])\n"
        "    except ForkError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()",
        tiny_path,
        GGML_VK_VISIBLE_DEVICES="0",
    )
    assert "forked" in result.stdout and "GPU" in result.stdout and result.returncode == 0, result.stderr


# Without one


def test_only_a_cpu_device(tiny_path: Path) -> None:
    result = _python(REASON, tiny_path)
    assert "the only Vulkan device is a CPU, llvmpipe" in result.stdout, result.stderr
    assert "GGML_VK_VISIBLE_DEVICES=0 uses the device nevertheless" in result.stdout


def test_the_next_call_looks_again() -> None:
    result = _python(
        "assert load() and names() == ['CPU']\n"
        "os.environ['GGML_VK_VISIBLE_DEVICES'] = '0'\n"
        "assert not load(); print(*names())",
    )
    assert result.stdout.strip() == "CPU Vulkan0", result.stderr


def test_no_loader(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "libvulkan.so.1").write_text("found first, and no library")
    result = _python(REASON, tiny_path, LD_LIBRARY_PATH=str(tmp_path))
    assert "there is no Vulkan loader" in result.stdout and "apt install libvulkan1" in result.stdout, result.stderr


def test_a_loader_that_is_none(tiny_path: Path, tmp_path: Path) -> None:
    make_library("int nothing;", tmp_path / "libvulkan.so.1")
    result = _python(REASON, tiny_path, LD_LIBRARY_PATH=str(tmp_path))
    assert f"the Vulkan loader {tmp_path}/libvulkan.so.1 does not work" in result.stdout, result.stderr


@pytest.mark.parametrize("probe", ["1", "0"])
def test_no_driver(tiny_path: Path, probe: str) -> None:
    code = REASON if probe == "1" else "try: load()\nexcept UnavailableError as error: print(error)"
    result = _python(code, tiny_path, VK_DRIVER_FILES="/nonexistent", LLAMA_CFFI_VULKAN_PROBE=probe)
    if probe == "1":
        assert "found no driver that works" in result.stdout, result.stderr
        assert "VK_DRIVER_FILES=/nonexistent, and found none" in result.stdout
        assert "apt install mesa-vulkan-drivers" in result.stdout
    else:  # nobody looked before
        assert "could not be loaded as a backend" in result.stdout, result.stderr


def test_a_driver_without_its_library(tiny_path: Path, tmp_path: Path) -> None:
    result = _python(REASON, tiny_path, VK_DRIVER_FILES=make_driver(tmp_path, "./gone.so"))
    assert "found no driver that works" in result.stdout, result.stderr
    assert "driver.json (its library ./gone.so does not exist)" in result.stdout


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("__attribute__((constructor)) static void f(void) { *(volatile int *)0 = 1; }", "signal 11 (SIGSEGV)"),
        (
            "#include <stdlib.h>\nvoid * vk_icdGetInstanceProcAddr(void * i, char * n) { abort(); }",
            "signal 6 (SIGABRT)",
        ),
        ("#include <stdlib.h>\nvoid * vk_icdGetInstanceProcAddr(void * i, char * n) { exit(3); }", "exit code 3"),
    ],
)
def test_a_driver_that_crashes(tiny_path: Path, tmp_path: Path, source: str, how: str) -> None:
    library = make_library(source, tmp_path / "libcrash.so")
    result = _python(REASON, tiny_path, VK_DRIVER_FILES=make_driver(tmp_path, str(library)))
    assert "a Vulkan driver crashed" in result.stdout and how in result.stdout, result.stderr
    assert "driver.json" in result.stdout and result.returncode == 0


@pytest.mark.parametrize(("value", "error"), [("7", "names device 7"), ("abc", "got 'abc'")])
def test_numbers_of_no_device(tiny_path: Path, value: str, error: str) -> None:
    """ggml would refuse them too, but could not be asked again."""
    result = _python(
        "for _ in range(2):\n"
        "    try: load()\n"
        "    except ValueError as error: print(error)\n"
        "assert names() == ['CPU']\n"
        "del os.environ['GGML_VK_VISIBLE_DEVICES']; load()\n"
        "os.environ['GGML_VK_VISIBLE_DEVICES'] = '0'; load(); print(*names())",
        GGML_VK_VISIBLE_DEVICES=value,
    )
    assert result.stdout.count(error) == 2 and result.stdout.endswith("CPU Vulkan0\n"), result.stderr


def test_every_device_hidden(tiny_path: Path) -> None:
    result = _python(REASON, tiny_path, GGML_VK_VISIBLE_DEVICES="")
    assert "hides every Vulkan device" in result.stdout, result.stderr
