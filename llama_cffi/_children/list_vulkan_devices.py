"""The child process of `_host/vulkan.py`: asks the Vulkan loader for its devices, which runs code of every driver.

A program, not a module. It does not import the package, so its answer does not depend on how that was built.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from typing import Any

_APPLICATION_INFO, _INSTANCE_INFO = 0, 1  # VkStructureType
_VULKAN_11_FEATURES = 49
_FEATURES_2, _PROPERTIES_2, _DRIVER_PROPERTIES = 1000059000, 1000059001, 1000196000
_VULKAN_1_0 = 1 << 22

_Pointer = ctypes.c_void_p
_U32 = ctypes.c_uint32


class _Application(ctypes.Structure):
    """VkApplicationInfo."""

    _fields_ = [
        ("sType", _U32),
        ("pNext", _Pointer),
        ("name", ctypes.c_char_p),
        ("version", _U32),
        ("engine", ctypes.c_char_p),
        ("engineVersion", _U32),
        ("apiVersion", _U32),
    ]


class _Instance(ctypes.Structure):
    """VkInstanceCreateInfo."""

    _fields_ = [
        ("sType", _U32),
        ("pNext", _Pointer),
        ("flags", _U32),
        ("application", _Pointer),
        ("layerCount", _U32),
        ("layers", _Pointer),
        ("extensionCount", _U32),
        ("extensions", _Pointer),
    ]


class _Driver(ctypes.Structure):
    """VkPhysicalDeviceDriverProperties."""

    _fields_ = [
        ("sType", _U32),
        ("pNext", _Pointer),
        ("id", _U32),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("conformance", ctypes.c_uint8 * 4),
    ]


class _Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties2: the fields that are read, and space for the others."""

    _fields_ = [
        ("sType", _U32),
        ("pNext", _Pointer),
        ("apiVersion", _U32),
        ("driverVersion", _U32),
        ("vendor", _U32),
        ("device", _U32),
        ("type", _U32),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint8 * 2048),
    ]


class _Vulkan11(ctypes.Structure):
    """VkPhysicalDeviceVulkan11Features, with space to spare."""

    _fields_ = [("sType", _U32), ("pNext", _Pointer), ("storageBuffer16BitAccess", _U32), ("rest", _U32 * 32)]


class _Features(ctypes.Structure):
    """VkPhysicalDeviceFeatures2, with space to spare."""

    _fields_ = [("sType", _U32), ("pNext", _Pointer), ("rest", _U32 * 128)]


class _Failure(Exception):
    """A Vulkan call failed."""


def main() -> None:
    """Read the request, which names the loader, and answer. Output of drivers goes to stderr, not into the answer."""
    request = json.load(sys.stdin)
    answer_to = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = _answer(request["loader"])
    with open(answer_to, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os._exit(0)  # skips the unloading of drivers, which may crash


def _answer(name: str) -> dict[str, Any]:
    try:
        loader = ctypes.CDLL(name)
    except OSError as error:
        return {"missing": str(error)}
    answer: dict[str, Any] = {"loader": _path_of(name)}
    try:
        answer |= _ask(loader)
    except _Failure as failure:
        answer["failure"] = str(failure)
    return answer


def _path_of(name: str) -> str:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        paths = (line.split(maxsplit=5)[-1].strip() for line in file)
        return next((path for path in paths if os.path.basename(path).startswith(name)), name)


def _ask(loader: ctypes.CDLL) -> dict[str, Any]:
    """Create an instance as ggml does, and list its devices in Vulkan's order, which is that of ggml's numbers."""
    try:
        find = loader.vkGetInstanceProcAddr
    except AttributeError as error:
        raise _Failure(str(error)) from None
    find.restype, find.argtypes = _Pointer, [_Pointer, ctypes.c_char_p]
    instance = _Pointer()

    def call(name: str, *arguments: Any, returns: Any = ctypes.c_int32) -> None:
        address = find(instance, name.encode())
        if not address:
            raise _Failure(f"the loader does not export {name}")
        function = ctypes.CFUNCTYPE(returns, *[_Pointer] * len(arguments))(address)
        result = function(*arguments)
        if returns is not None and result < 0:
            raise _Failure(f"{name} failed with {_RESULTS.get(result, f'VkResult {result}')}")

    version = _U32(_VULKAN_1_0)
    if find(None, b"vkEnumerateInstanceVersion"):
        call("vkEnumerateInstanceVersion", ctypes.byref(version))
    application = _Application(_APPLICATION_INFO, None, b"llama_cffi", 1, None, 0, version.value)
    info = _Instance(_INSTANCE_INFO, application=ctypes.addressof(application))
    call("vkCreateInstance", ctypes.byref(info), None, ctypes.byref(instance))
    count = _U32()
    call("vkEnumeratePhysicalDevices", instance, ctypes.byref(count), None)
    devices = (_Pointer * max(count.value, 1))()
    if count.value:
        call("vkEnumeratePhysicalDevices", instance, ctypes.byref(count), devices)
    described = []
    for handle in devices[: count.value]:
        device = _Pointer(handle)
        driver = _Driver(_DRIVER_PROPERTIES)
        properties = _Properties(_PROPERTIES_2, ctypes.addressof(driver))
        vulkan11 = _Vulkan11(_VULKAN_11_FEATURES)
        features = _Features(_FEATURES_2, ctypes.addressof(vulkan11))
        if version.value > _VULKAN_1_0:  # both functions are of Vulkan 1.1
            call("vkGetPhysicalDeviceProperties2", device, ctypes.byref(properties), returns=None)
            call("vkGetPhysicalDeviceFeatures2", device, ctypes.byref(features), returns=None)
        described.append(
            {
                "name": _text(properties.name),
                "type": properties.type,
                "version": properties.apiVersion,
                "driver": _text(driver.name),
                "driverInfo": _text(driver.info),
                "storage16": bool(vulkan11.storageBuffer16BitAccess),
            }
        )
    return {"version": version.value, "devices": described}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


_RESULTS = {
    -1: "VK_ERROR_OUT_OF_HOST_MEMORY",
    -2: "VK_ERROR_OUT_OF_DEVICE_MEMORY",
    -3: "VK_ERROR_INITIALIZATION_FAILED",
    -4: "VK_ERROR_DEVICE_LOST",
    -6: "VK_ERROR_LAYER_NOT_PRESENT",
    -7: "VK_ERROR_EXTENSION_NOT_PRESENT",
    -9: "VK_ERROR_INCOMPATIBLE_DRIVER",
}


if __name__ == "__main__":
    main()
