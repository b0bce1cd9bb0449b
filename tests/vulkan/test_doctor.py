"""The doctor on a machine with a Vulkan device (lavapipe), and with a driver that crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vulkan.test_vk_load import lavapipe, make_driver, make_library

pytestmark = pytest.mark.usefixtures("module")


def _doctor(**environment: str) -> tuple[int, dict[str, Any]]:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("VK_", "GGML_"))}
    result = subprocess.run(
        [sys.executable, "-m", "llama_cffi", "doctor", "--json", "--seconds", "0"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**base, "VK_DRIVER_FILES": lavapipe(), **environment},
    )
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def _texts(report: dict[str, Any], mark: str) -> str:
    return "\n".join(check["text"] for check in report["checks"] if check["mark"] == mark)


def test_a_device_is_multiplied_on() -> None:
    code, report = _doctor(GGML_VK_VISIBLE_DEVICES="0")
    assert code == 0 and report["ok"], _texts(report, "fail")
    vulkan, products = report["facts"]["vulkan"], report["facts"]["devices"]["products"]
    assert vulkan["module"] and vulkan["loader"] and vulkan["listed"][0]["kind"] == "CPU"
    assert [driver["file"] for driver in vulkan["drivers"]] == [lavapipe()]
    assert set(products) == {"CPU", "Vulkan0"} and "llvmpipe" in products["Vulkan0"]["description"]
    device = products["Vulkan0"]
    assert device["gflops"] > 0 and device["largest_error"] <= device["tolerance"] == 1e-2
    assert "vkLoad() works; devices: Vulkan0" in _texts(report, "ok")


def test_only_a_cpu_device() -> None:
    code, report = _doctor()
    assert code == 0 and "the only Vulkan device is a CPU" in _texts(report, "warn")
    assert set(report["facts"]["devices"]["products"]) == {"CPU"}


def test_numbers_of_no_device() -> None:
    code, report = _doctor(GGML_VK_VISIBLE_DEVICES="7")
    assert code == 1 and "names device 7" in _texts(report, "fail")


@pytest.mark.parametrize(
    ("source", "mark", "said"),
    [
        ("#include <stdlib.h>\nvoid * vk_icdGetInstanceProcAddr(void * i, char * n) { abort(); }", "warn", "SIGABRT"),
        ("int no_driver;", "warn", "found no driver that works"),
    ],
)
def test_a_driver_that_does_not_work(tmp_path: Path, source: str, mark: str, said: str) -> None:
    library = make_library(source, tmp_path / "libbad.so")
    code, report = _doctor(VK_DRIVER_FILES=make_driver(tmp_path, str(library)))
    assert code == 0 and said in _texts(report, mark), report["checks"]
    assert report["facts"]["devices"]["products"]["CPU"]["gflops"] > 0
