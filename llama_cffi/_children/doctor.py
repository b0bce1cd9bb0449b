"""The child process of the `doctor` command: all native code runs here, so that a crash can be reported.

A program, not a module. The request on stdin says where to find the package, and which question to answer.
"""

from __future__ import annotations

import json
import math
import operator
import os
import random
import resource
import sys
import time
import warnings
from array import array
from collections.abc import Sequence
from typing import Any

_SIZE = 512  # rows and columns of the product whose result is checked
_MAX_SIZE = 8192  # the same of products that are timed
_MIN_SECONDS = 0.01  # a faster product is too small to be timed
_SAMPLE = 64  # elements that Python computes without numpy


def main() -> None:
    """Read the request and answer. Output of drivers goes to stderr, not into the answer."""
    request = json.load(sys.stdin)
    answer_to = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path[:] = request["path"]
    try:
        answer = _QUESTIONS[request["question"]](request)
    except Exception as error:
        name = "" if type(error).__module__.startswith("llama_cffi") else f"{type(error).__name__}: "
        answer = {"error": f"{name}{error}"}
    with open(answer_to, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os._exit(0)  # skips the unloading of drivers, which may crash


def _versions(request: dict[str, Any]) -> dict[str, Any]:
    """The versions of the package, of llama.cpp and of cffi, and the loaded libraries."""
    import importlib.metadata

    import cffi

    from llama_cffi._core import abi
    from llama_cffi._core.compat import has
    from llama_cffi._core.ffi import PIN, ffi, lib

    try:
        package = importlib.metadata.version("llama-cffi")
    except importlib.metadata.PackageNotFoundError:
        package = "not installed, but on the path"
    return {
        "package": package,
        "pin": PIN,
        "abi": f"{lib.shim_abi():016x}",
        "linked": {library.file: library.loaded for library in abi.libraries(ffi, lib)},
        "llama.cpp": ffi.string(lib.llama_version()).decode() if has("llama_version") else "one that does not tell",
        "ggml": ffi.string(lib.ggml_version()).decode(),
        "ggml commit": ffi.string(lib.ggml_commit()).decode(),
        "cffi": cffi.__version__,
    }


def _cpu(request: dict[str, Any]) -> dict[str, Any]:
    """The variants of the CPU backend, and the one that was loaded or the error."""
    from llama_cffi._core.ffi import lib
    from llama_cffi.errors import LlamaError
    from llama_cffi.ggml.backend import Backend

    answer: dict[str, Any] = {
        "amx": bool(lib.shim_amx_works()),
        "variants": [{**v._asdict(), "path": str(v.path)} for v in Backend.cpuVariants()],
    }
    try:
        Backend.cpuLoad()
    except LlamaError as error:
        return {**answer, "error": str(error)}
    chosen = Backend.cpuVariant()
    assert chosen is not None
    return {**answer, "chosen": chosen.name, **_backends()}


def _vulkan(request: dict[str, Any]) -> dict[str, Any]:
    """The warnings of vkLoad(), and the loaded backends."""
    from llama_cffi.ggml.backend import Backend

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Backend.vkLoad()
    return {"warnings": [str(warning.message) for warning in caught], **_backends()}


def _backends() -> dict[str, Any]:
    """The loaded backends with their features and devices."""
    from llama_cffi.ggml.backend import Backend

    return {
        "backends": [
            {
                "name": backend.name,
                "features": backend.features,
                "devices": [
                    {
                        "name": device.name,
                        "description": device.description,
                        "type": device.type.name,
                        "free": device.memory.free,
                        "total": device.memory.total,
                        "id": device.deviceId,
                    }
                    for device in backend.devices()
                ],
            }
            for backend in Backend.registrations()
        ]
    }


def _product(request: dict[str, Any]) -> dict[str, Any]:
    """Multiply two matrices on a device: once to check the result, then repeatedly to measure the speed."""
    from llama_cffi.ggml.backend import Backend
    from llama_cffi.ggml.device import BackendDevice

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Backend.vkLoad() if request["vulkan"] else Backend.cpuLoad()
    device = BackendDevice.byName(request["device"])
    if device is None:
        return {"error": f"the device {request['device']} does not exist any more"}
    with Device(device) as machine:
        numbers = random.Random(0)
        a = array("f", (numbers.uniform(-1, 1) for _ in range(_SIZE * _SIZE)))
        b = array("f", (numbers.uniform(-1, 1) for _ in range(_SIZE * _SIZE)))
        with machine.product(_SIZE, a, b) as product:
            product.compute()
            error, by, compared = _largest_error(product.result(), a, b)
            seconds = product.compute()
        size = _SIZE
        while seconds < _MIN_SECONDS and 2 * size <= _MAX_SIZE:
            size *= 2
            with machine.product(size, a, b) as product:
                product.compute()  # the first one includes compilation and allocation
                seconds = product.compute()
        with machine.product(size, a, b) as product:
            product.compute()
            times = [product.compute()]
            while sum(times) < request["duration"]:
                times.append(product.compute())
    return {
        "gflops": 2 * size**3 * len(times) / sum(times) / 1e9,
        "size": size,
        "error_size": _SIZE,
        "largest_error": error if math.isfinite(error) else None,
        "compared_with": by,
        "compared": compared,
    }


class Device:
    """An open device, used through ggml's functions."""

    def __init__(self, device: Any) -> None:
        from llama_cffi._core.ffi import ffi, lib
        from llama_cffi._host.resources import usable_cpus

        self.ffi, self.lib = ffi, lib
        self.device = device
        self.backend = lib.ggml_backend_dev_init(device._c, ffi.NULL)
        if self.backend == ffi.NULL:
            raise RuntimeError(f"{device.name} could not be opened")
        if device.name == "CPU":
            lib.ggml_backend_cpu_set_n_threads(self.backend, usable_cpus())

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.lib.ggml_backend_free(self.backend)

    def product(self, size: int, a: array[float], b: array[float]) -> MatMul:
        return MatMul(self, size, a, b)


class MatMul:
    """The product of `b` and the transpose of `a`, two square matrices with the repeated numbers of `a` and `b`."""

    def __init__(self, machine: Device, size: int, a: array[float], b: array[float]) -> None:
        self.machine = machine
        ffi, lib = machine.ffi, machine.lib
        params = ffi.new("struct ggml_init_params *")
        params.mem_size, params.no_alloc = 8 * lib.ggml_tensor_overhead() + lib.ggml_graph_overhead(), True
        self.context = lib.ggml_init(params[0])
        tensors = [lib.ggml_new_tensor_2d(self.context, lib.GGML_TYPE_F32, size, size) for _ in range(2)]
        self.out = lib.ggml_mul_mat(self.context, *tensors)
        self.graph = lib.ggml_new_graph(self.context)
        lib.ggml_build_forward_expand(self.graph, self.out)
        if not lib.ggml_backend_supports_op(machine.backend, self.out):
            raise RuntimeError(f"{machine.device.name} does not support the product of F32 matrices")
        self.buffer = lib.ggml_backend_alloc_ctx_tensors(self.context, machine.backend)
        if self.buffer == ffi.NULL:
            raise MemoryError(f"{machine.device.name} is out of memory for three matrices of {4 * size**2:,} bytes")
        for tensor, numbers in zip(tensors, (a, b), strict=True):
            data = numbers.tobytes()
            for offset in range(0, 4 * size**2, len(data)):
                lib.ggml_backend_tensor_set(tensor, data, offset, len(data))

    def compute(self) -> float:
        """Compute the product and return the seconds that it took."""
        lib, backend = self.machine.lib, self.machine.backend
        begin = time.perf_counter()
        status = lib.ggml_backend_graph_compute(backend, self.graph)
        seconds = time.perf_counter() - begin
        if status != lib.GGML_STATUS_SUCCESS:
            raise RuntimeError(f"{self.machine.device.name} failed: ggml_backend_graph_compute returned {status}")
        return seconds

    def result(self) -> array[float]:
        out = array("f", bytes(self.machine.lib.ggml_nbytes(self.out)))
        data = self.machine.ffi.from_buffer("char[]", out, require_writable=True)
        self.machine.lib.ggml_backend_tensor_get(self.out, data, 0, len(data))
        return out

    def __enter__(self) -> MatMul:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.lib.ggml_backend_buffer_free(self.buffer)
        self.machine.lib.ggml_free(self.context)


def _largest_error(got: Sequence[float], a: array[float], b: array[float]) -> tuple[float, str, int]:
    """The largest error relative to the largest element, who computed the reference, and how many elements."""
    try:
        import numpy as np
    except ImportError:
        places = random.Random(1).sample(range(_SIZE * _SIZE), _SAMPLE)
        right = [math.fsum(map(operator.mul, _row(a, p % _SIZE), _row(b, p // _SIZE))) for p in places]
        wrong = max(abs(got[p] - r) if math.isfinite(got[p]) else math.inf for p, r in zip(places, right, strict=True))
        return wrong / max(map(abs, right)), "plain Python, because numpy is not installed", _SAMPLE
    left, upper = (np.frombuffer(m, np.float32).reshape(_SIZE, _SIZE).astype(np.float64) for m in (b, a))
    wanted = (left @ upper.T).ravel()
    difference = float(np.max(np.abs(np.asarray(got) - wanted)))  # NaN if an element is NaN
    return difference / float(np.max(np.abs(wanted))), "numpy", wanted.size


def _row(matrix: array[float], index: int) -> array[float]:
    return matrix[_SIZE * index : _SIZE * (index + 1)]


_QUESTIONS = {"versions": _versions, "cpu": _cpu, "vulkan": _vulkan, "product": _product}


if __name__ == "__main__":
    main()
