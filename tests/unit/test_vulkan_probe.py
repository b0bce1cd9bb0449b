"""Why there is no Vulkan device: what is said for each answer of the loader. Real loaders are in tests/vulkan."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_cffi._host import child_process, vulkan, vulkan_drivers

V1_1, V1_2, V1_3 = (1 << 22 | minor << 12 for minor in (1, 2, 3))
OTHER, INTEGRATED, DISCRETE, VIRTUAL, CPU = range(5)

Answer = Callable[..., None]


def device(type: int = DISCRETE, name: str = "Card", version: int = V1_3, storage16: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "type": type,
        "version": version,
        "driver": "drv",
        "driverInfo": "1",
        "storage16": storage16,
    }


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VK_", "GGML_VK_", "LLAMA_CFFI_VULKAN")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(vulkan, "_kept", None)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Makes the child answer so."""

    def set_answer(
        *devices: dict[str, Any], loader: str = "/lib/libvulkan.so.1", version: int = V1_3, **more: str
    ) -> None:
        answer = {"loader": loader, "version": version, "devices": list(devices), **more}
        monkeypatch.setattr(vulkan, "ask", lambda *_: answer)

    return set_answer


@pytest.mark.parametrize(
    "devices",
    [
        [device()],
        [device(INTEGRATED)],
        [device(CPU), device(DISCRETE)],
        [device(VIRTUAL)],
        [device(CPU), device(OTHER)],
        [device(DISCRETE, storage16=False), device(INTEGRATED)],
    ],
)
def test_a_device_that_ggml_would_take(answers: Answer, devices: list[dict[str, Any]]) -> None:
    answers(*devices)
    assert vulkan.why_not() is None


@pytest.mark.parametrize(
    ("devices", "cause"),
    [
        ([device(CPU, "llvmpipe")], "the only Vulkan device is a CPU, llvmpipe"),
        ([device(DISCRETE, storage16=False)], r"Card \(discrete GPU\) does not support 16-bit storage"),
        ([device(VIRTUAL, version=V1_1)], r"Card \(virtual GPU\) supports Vulkan 1.1, but ggml needs 1.2"),
        ([], "has drivers, but they found no device"),
    ],
)
def test_a_device_that_ggml_would_not_take(answers: Answer, devices: list[dict[str, Any]], cause: str) -> None:
    answers(*devices)
    problem = vulkan.why_not()
    assert problem is not None and problem.advice
    assert re.search(cause, problem.cause), problem
    assert "models run on the CPU" in str(problem)


def test_other_answers_of_the_loader(answers: Answer) -> None:
    for change, cause, advice in (
        ({"missing": "no such file"}, "there is no Vulkan loader (no such file)", "apt install libvulkan1"),
        (
            {"failure": "vkCreateInstance failed with VK_ERROR_INCOMPATIBLE_DRIVER"},
            "found no driver that works",
            "apt install mesa-vulkan-drivers",
        ),
        ({"failure": "vkCreateInstance failed with VK_ERROR_LAYER_NOT_PRESENT"}, "does not work", "Reinstall"),
        (
            {"failure": "vkEnumeratePhysicalDevices failed with VK_ERROR_INITIALIZATION_FAILED"},
            "they found no device",
            "It looked for drivers at",
        ),
        ({"version": V1_1}, "supports Vulkan 1.1, but ggml needs 1.2", "newer"),
    ):
        vulkan._kept = None
        answers(**change)  # type: ignore[arg-type]
        problem = vulkan.why_not()
        assert problem is not None and cause in problem.cause and advice in problem.advice, problem


def test_gpus_that_this_user_may_not_open(answers: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers()
    monkeypatch.setattr(vulkan, "closed_nodes", lambda: ["/dev/dri/renderD128"])
    problem = vulkan.why_not()
    assert problem is not None and "may not open /dev/dri/renderD128" in problem.advice
    assert "usermod -aG render" in problem.advice


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11 (SIGSEGV)"),
        ("import sys; sys.exit('the driver is ill')", "exit code 1 and without a result (the driver is ill)"),
        ("import time; time.sleep(60)", "did not end within 1 seconds"),
    ],
)
def test_a_driver_that_crashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, how: str) -> None:
    child = tmp_path / "child.py"
    child.write_text(code)
    monkeypatch.setattr(vulkan, "_CHILD", child)
    monkeypatch.setattr(vulkan, "_TIMEOUT_S", 1.0)
    problem = vulkan.why_not()
    assert problem is not None and "a Vulkan driver crashed" in problem.cause
    assert how in problem.cause
    assert "VK_DRIVER_FILES" in problem.advice


@pytest.mark.parametrize("value", ["0", "1", "0,1", "1 0", " 0, 1 ", "0,", "0,0"])
def test_devices_by_number(answers: Answer, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    answers(device(CPU), device())
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", value)
    assert vulkan.why_not() is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("abc", "got 'abc'"),
        ("0,x", "got 'x'"),
        ("-1", "got '-1'"),
        ("0x1", "got '0x1'"),
        ("99999999999999999999", "got '99999999999999999999'"),
        ("7", r"names device 7, but the Vulkan devices are 0 = Card \(CPU\), 1 = Old \(discrete GPU\)"),
        ("0,2", "names device 2"),
        ("1", r"names device 1, Old \(discrete GPU\), which does not support 16-bit storage"),
    ],
)
def test_numbers_of_no_device(answers: Answer, monkeypatch: pytest.MonkeyPatch, value: str, error: str) -> None:
    """ggml would end, or silently use fewer."""
    answers(device(CPU), device(name="Old", storage16=False))
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", value)
    with pytest.raises(ValueError, match=error):
        vulkan.why_not()


def test_every_device_hidden(answers: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(device())
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "")
    problem = vulkan.why_not()
    assert problem is not None and "hides every Vulkan device" in problem.cause


def test_the_answer_is_kept_while_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(*_: object) -> dict[str, Any]:
        asked.append(1)
        return {"loader": "l", "version": V1_3, "devices": [device()]}

    monkeypatch.setattr(vulkan, "ask", ask)
    assert [vulkan.why_not() for _ in range(3)] == [None] * 3 and len(asked) == 1
    monkeypatch.setenv("VK_DRIVER_FILES", "/x.json")
    assert vulkan.why_not() is None and len(asked) == 2


def test_a_program_that_is_no_python_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen program would start itself again, and so on."""
    monkeypatch.setattr(vulkan, "ask", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(vulkan, "LOADER", "libc.so.6")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "")
        assert not child_process.can_ask() and vulkan.why_not() is None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "frozen", True, raising=False)
        assert not child_process.can_ask() and vulkan.why_not() is None
    monkeypatch.setenv("LLAMA_CFFI_VULKAN_PROBE", "0")
    assert vulkan.why_not() is None
    monkeypatch.setattr(vulkan, "LOADER", "libnothing.so.1")
    problem = vulkan.why_not()
    assert problem is not None and "there is no Vulkan loader (libnothing.so.1: " in problem.cause


# The files of drivers


def test_drivers_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, broken, absent = (tmp_path / f"{name}.json" for name in ("good", "broken", "absent"))
    good.write_text(json.dumps({"ICD": {"library_path": "libvulkan_x.so"}}))
    broken.write_text("{")
    lost = tmp_path / "folder" / "lost.json"
    lost.parent.mkdir()
    lost.write_text(json.dumps({"ICD": {"library_path": "./lost.so"}}))
    monkeypatch.setenv("VK_DRIVER_FILES", f"{good}:{broken}:{absent}:{lost.parent}:/nonexistent")
    drivers = vulkan_drivers.installed()
    assert drivers.override == "VK_DRIVER_FILES"
    assert {driver.file: driver.problem.partition(":")[0] for driver in drivers.found} == {
        good: "",
        broken: "cannot be read",
        absent: "the file does not exist",
        lost: "its library ./lost.so does not exist",
    }
    assert str(good) in str(drivers) and "does not exist" in str(drivers)


def test_drivers_in_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "XDG_DATA_DIRS" / "vulkan" / "icd.d"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps({"ICD": {"library_path": sys.executable}}))
    drivers = vulkan_drivers.installed()
    assert folder / "a.json" in [driver.file for driver in drivers.found]
    assert drivers.override == "" and "/etc/vulkan/icd.d" in drivers.places
    monkeypatch.setenv("VK_ADD_DRIVER_FILES", str(folder))
    assert vulkan_drivers.installed().places[0] == str(folder)


def test_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "/nonexistent")
    assert str(vulkan_drivers.installed()) == "VK_ICD_FILENAMES=/nonexistent, and found none"
