"""Whether Vulkan can be used here, found out before ggml's module is loaded: that crashes where there is no loader, and
a driver may crash where there is one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from llama_cffi._host.child_process import ChildError, ask, can_ask
from llama_cffi._host.vulkan_drivers import closed_nodes, installed

_CHILD = Path(__file__).resolve().parent.parent / "_children" / "list_vulkan_devices.py"
LOADER = "libvulkan.so.1"
_SECONDS = 60.0  # a machine of eight GPUs that were asleep takes a few
_NEEDED = (1, 2)  # the oldest Vulkan that ggml uses
_TYPES = ("unknown kind", "integrated GPU", "discrete GPU", "virtual GPU", "CPU")
_INTEGRATED, _DISCRETE, _CPU = 1, 2, 4
_VISIBLE = "GGML_VK_VISIBLE_DEVICES"
_ON_CPU = "models run on the CPU"
_GPU_DRIVERS = (
    "mesa-vulkan-drivers for Intel and AMD GPUs (Debian: apt install mesa-vulkan-drivers), NVIDIA's own for theirs"
)


class Problem(NamedTuple):
    """Why there is no Vulkan device, and what to do about it."""

    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}: {_ON_CPU}. {self.advice}"


NO_MODULE = Problem(
    "this build of llama_cffi has no Vulkan module",
    "To have it, build with `GGML_USE_VULKAN=1 pip install .` or `make build BACKEND=vulkan`",
)


class VulkanDevice(NamedTuple):
    """A device as Vulkan lists it. ggml's `Vulkan0`, `Vulkan1`, ... are those that it uses."""

    name: str
    type: int
    version: tuple[int, int]
    driver: str
    storage16: bool
    """Whether shaders can read 16-bit numbers, without which ggml does not use a device."""

    @property
    def kind(self) -> str:
        return _TYPES[self.type] if 0 <= self.type < len(_TYPES) else _TYPES[0]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class Vulkan(NamedTuple):
    """What the loader says."""

    loader: str
    """The path of the loader; empty where there is none."""
    version: tuple[int, int]
    devices: list[VulkanDevice]
    problem: Problem | None
    """Why there are no devices; None where there are some."""


def probe() -> Vulkan:
    """Ask the Vulkan loader for its devices, in a child process. The answer is kept as long as the environment is."""
    global _kept
    environment = dict(os.environ)
    if _kept is None or _kept[0] != environment:
        _kept = (environment, _probe())
    return _kept[1]


_kept: tuple[dict[str, str], Vulkan] | None = None


def why_not() -> Problem | None:
    """Why ggml would have no Vulkan device here; None where it has one.

    Raises ValueError where GGML_VK_VISIBLE_DEVICES is not what ggml can use.
    """
    wanted = _visible()
    if not can_ask() or os.environ.get("LLAMA_CFFI_VULKAN_PROBE") == "0":
        return _why_no_loader()
    if wanted == []:
        return Problem(f"{_VISIBLE} is set and empty, which hides every Vulkan device", "Unset it to use the GPUs")
    vulkan = probe()
    if vulkan.problem:
        return vulkan.problem
    if wanted is None:
        return _why_none(vulkan.devices)
    _check_wanted(wanted, vulkan.devices)
    return None


def _why_no_loader() -> Problem | None:
    """Without a child process: look for the loader, and trust its drivers."""
    import ctypes

    try:
        ctypes.CDLL(LOADER)
    except OSError as error:
        return _no_loader(str(error))
    return None


def _no_loader(error: str) -> Problem:
    advice = f"Install it (Debian: apt install libvulkan1), and a driver: {_GPU_DRIVERS}"
    return Problem(f"there is no Vulkan loader ({error})", advice)


def _visible() -> list[int] | None:
    """The numbers in GGML_VK_VISIBLE_DEVICES; None where it is not set. ggml stops reading at what is no number."""
    text = os.environ.get(_VISIBLE)
    if text is None:
        return None
    words = re.split(r"[,\s]+", text.strip(", \t"))
    if words == [""]:
        return []
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,9}", word)]
    if wrong:
        raise ValueError(f"{_VISIBLE}={text} holds {wrong[0]!r}: it takes the numbers of devices from 0, as in 0,1")
    return [int(word) for word in words]


def _check_wanted(wanted: list[int], devices: list[VulkanDevice]) -> None:
    """What was asked for by number is used or refused, never passed over."""
    listed = ", ".join(f"{number} = {device}" for number, device in enumerate(devices))
    for number in wanted:
        if number >= len(devices):
            raise ValueError(
                f"{_VISIBLE} names device {number}, but Vulkan has {listed}: name one of these, or unset it"
            )
        lack = _lack(devices[number])
        if lack:
            raise ValueError(
                f"{_VISIBLE} names device {number}, {devices[number]}, which {lack}: leave it out ({listed})"
            )


def _why_none(devices: list[VulkanDevice]) -> Problem | None:
    """ggml's own choice: every GPU with 16-bit storage, else the first device that is no CPU."""
    if any(device.type in (_INTEGRATED, _DISCRETE) and device.storage16 for device in devices):
        return None
    others = [device for device in devices if device.type != _CPU]
    if not others:
        return Problem(
            f"the only Vulkan device is a CPU, {devices[0].name}",
            f"That is faster without Vulkan; {_VISIBLE}=0 uses the device nevertheless. A GPU needs its driver: "
            f"{_GPU_DRIVERS}",
        )
    lack = _lack(others[0])
    return Problem(f"the Vulkan device {others[0]} {lack}", "A newer driver may help") if lack else None


def _lack(device: VulkanDevice) -> str:
    if device.version < _NEEDED:
        return f"has Vulkan {_dotted(device.version)}, and ggml needs {_dotted(_NEEDED)}"
    return "" if device.storage16 else "has no 16-bit storage, which ggml needs"


def _probe() -> Vulkan:
    nothing = Vulkan("", (0, 0), [], None)
    try:
        answer = ask(_CHILD, {"loader": LOADER}, _SECONDS, {})
    except ChildError as error:
        last = "".join(f" ({line})" for line in error.log.strip().splitlines()[-1:])
        problem = Problem(
            f"a Vulkan driver crashed when its devices were listed (a child process {error.how}{last}), so that "
            "Vulkan is not loaded",
            f"The loader looked for drivers at {installed()}. Update or remove the one that crashes; "
            "VK_DRIVER_FILES=FILE.json names the one to use",
        )
        return nothing._replace(problem=problem)
    if "missing" in answer:
        return nothing._replace(problem=_no_loader(answer["missing"]))
    vulkan = nothing._replace(
        loader=answer["loader"],
        version=_version(answer.get("version", 0)),
        devices=[_device(entry) for entry in answer.get("devices", ())],
    )
    return vulkan._replace(problem=_problem(vulkan, answer.get("failure", "")))


def _problem(vulkan: Vulkan, failure: str) -> Problem | None:
    loader, looked = f"the Vulkan loader {vulkan.loader}", f"It looked for drivers at {installed()}"
    if "INCOMPATIBLE_DRIVER" in failure:
        advice = f"{looked}. Install one: {_GPU_DRIVERS}; VK_DRIVER_FILES=FILE.json names one elsewhere"
        return Problem(f"{loader} found no driver that works", advice)
    if failure and not failure.startswith("vkEnumeratePhysicalDevices"):  # that fails where drivers find no device
        return Problem(f"{loader} does not work ({failure})", f"{looked}. Reinstall it, and the drivers")
    if not failure and vulkan.version < _NEEDED:
        cause = f"{loader} has Vulkan {_dotted(vulkan.version)}, and ggml needs {_dotted(_NEEDED)}"
        return Problem(cause, "Install a newer one")
    if vulkan.devices:
        return None
    closed = closed_nodes()
    hint = (
        f"This user may not open {', '.join(closed)}: add it to the group that owns them (usermod -aG render USER)"
        if closed
        else f"A GPU needs a driver that fits it: {_GPU_DRIVERS}"
    )
    return Problem(f"{loader} has drivers, but they found no device", f"{looked}. {hint}")


def _device(entry: dict[str, Any]) -> VulkanDevice:
    driver = " ".join(filter(None, (entry["driver"], entry["driverInfo"])))
    return VulkanDevice(entry["name"], entry["type"], _version(entry["version"]), driver, entry["storage16"])


def _version(number: int) -> tuple[int, int]:
    return number >> 22 & 0x7F, number >> 12 & 0x3FF


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
