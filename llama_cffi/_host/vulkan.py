"""The Vulkan loader, its devices, and the reason if ggml cannot use them. Found out before ggml's module is loaded.

ggml's module crashes without a loader, and a driver may crash with one. So a child process asks the loader.
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
_TIMEOUT_S = 60.0  # eight GPUs that wake up take a few seconds
_MIN_VERSION = (1, 2)  # the oldest Vulkan that ggml supports
_TYPES = ("unknown kind", "integrated GPU", "discrete GPU", "virtual GPU", "CPU")
_INTEGRATED, _DISCRETE, _CPU = 1, 2, 4
_VISIBLE = "GGML_VK_VISIBLE_DEVICES"
_ON_CPU = "models run on the CPU"
_GPU_DRIVERS = (
    "mesa-vulkan-drivers for Intel and AMD GPUs (Debian: apt install mesa-vulkan-drivers), NVIDIA's own for theirs"
)


class Problem(NamedTuple):
    """The reason why there is no Vulkan device, and the next step."""

    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}: {_ON_CPU}. {self.advice}"


NO_MODULE = Problem(
    "this build of llama_cffi has no Vulkan module",
    "To add it, build with `GGML_USE_VULKAN=1 pip install .` or `make build BACKEND=vulkan`",
)


class VulkanDevice(NamedTuple):
    """A device as Vulkan lists it. ggml numbers those that it uses: `Vulkan0`, `Vulkan1`, ..."""

    name: str
    type: int
    version: tuple[int, int]
    driver: str
    storage16: bool
    """True if shaders can read 16-bit numbers, which ggml requires."""

    @property
    def kind(self) -> str:
        return _TYPES[self.type] if 0 <= self.type < len(_TYPES) else _TYPES[0]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class Vulkan(NamedTuple):
    """The answer of the Vulkan loader."""

    loader: str
    """The path of the loader; empty if it is not installed."""
    version: tuple[int, int]
    devices: list[VulkanDevice]
    problem: Problem | None
    """Why there are no devices; None if there are some."""


def probe() -> Vulkan:
    """Ask the Vulkan loader for its devices, in a child process. Cached until the environment changes."""
    global _kept
    environment = dict(os.environ)
    if _kept is None or _kept[0] != environment:
        _kept = (environment, _probe())
    return _kept[1]


_kept: tuple[dict[str, str], Vulkan] | None = None


def why_not() -> Problem | None:
    """Return the reason why ggml cannot use a Vulkan device; None if it can.

    Raises ValueError if GGML_VK_VISIBLE_DEVICES is malformed or names a device that ggml cannot use.
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
    """The check without a child process: for the loader only, not for its drivers."""
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
    """The numbers in GGML_VK_VISIBLE_DEVICES; None if it is not set. ggml stops reading at other characters."""
    text = os.environ.get(_VISIBLE)
    if text is None:
        return None
    words = re.split(r"[,\s]+", text.strip(", \t"))
    if words == [""]:
        return []
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,9}", word)]
    if wrong:
        raise ValueError(
            f"{_VISIBLE} must contain the numbers of devices from 0, as in 0,1, got {wrong[0]!r} in {text!r}"
        )
    return [int(word) for word in words]


def _check_wanted(wanted: list[int], devices: list[VulkanDevice]) -> None:
    """Raise ValueError for a device that is requested by number but cannot be used: ggml would ignore it."""
    listed = ", ".join(f"{number} = {device}" for number, device in enumerate(devices))
    for number in wanted:
        if number >= len(devices):
            raise ValueError(
                f"{_VISIBLE} names device {number}, but the Vulkan devices are {listed}: name one of these, or unset it"
            )
        lack = _lack(devices[number])
        if lack:
            raise ValueError(
                f"{_VISIBLE} names device {number}, {devices[number]}, which {lack}: leave it out ({listed})"
            )


def _why_none(devices: list[VulkanDevice]) -> Problem | None:
    """ggml's own choice: every GPU with 16-bit storage, else the first device that is not a CPU."""
    if any(device.type in (_INTEGRATED, _DISCRETE) and device.storage16 for device in devices):
        return None
    others = [device for device in devices if device.type != _CPU]
    if not others:
        return Problem(
            f"the only Vulkan device is a CPU, {devices[0].name}",
            f"A CPU is faster without Vulkan; {_VISIBLE}=0 uses the device nevertheless. A GPU needs its driver: "
            f"{_GPU_DRIVERS}",
        )
    lack = _lack(others[0])
    return Problem(f"the Vulkan device {others[0]} {lack}", "A newer driver may help") if lack else None


def _lack(device: VulkanDevice) -> str:
    if device.version < _MIN_VERSION:
        return f"supports Vulkan {_dotted(device.version)}, but ggml needs {_dotted(_MIN_VERSION)}"
    return "" if device.storage16 else "does not support 16-bit storage, which ggml needs"


def _probe() -> Vulkan:
    nothing = Vulkan("", (0, 0), [], None)
    try:
        answer = ask(_CHILD, {"loader": LOADER}, _TIMEOUT_S, {})
    except ChildError as error:
        last = "".join(f" ({line})" for line in error.log.strip().splitlines()[-1:])
        problem = Problem(
            f"a Vulkan driver crashed when its devices were listed (a child process {error.how}{last})",
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
    if failure and not failure.startswith("vkEnumeratePhysicalDevices"):  # it fails if drivers do not find a device
        return Problem(f"{loader} does not work ({failure})", f"{looked}. Reinstall it, and the drivers")
    if not failure and vulkan.version < _MIN_VERSION:
        cause = f"{loader} supports Vulkan {_dotted(vulkan.version)}, but ggml needs {_dotted(_MIN_VERSION)}"
        return Problem(cause, "Install a newer one")
    if vulkan.devices:
        return None
    closed = closed_nodes()
    hint = (
        f"This user may not open {', '.join(closed)}: add it to the group that owns them (usermod -aG render USER)"
        if closed
        else f"A GPU needs a matching driver: {_GPU_DRIVERS}"
    )
    return Problem(f"{loader} has drivers, but they found no device", f"{looked}. {hint}")


def _device(entry: dict[str, Any]) -> VulkanDevice:
    driver = " ".join(filter(None, (entry["driver"], entry["driverInfo"])))
    return VulkanDevice(entry["name"], entry["type"], _version(entry["version"]), driver, entry["storage16"])


def _version(number: int) -> tuple[int, int]:
    return number >> 22 & 0x7F, number >> 12 & 0x3FF


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
