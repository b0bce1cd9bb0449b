"""The child process of `doctor.py`: everything that runs native code, so that what crashes is only reported.

A program, not a module: it is told by its input where to find the package, and which question to answer.
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

_SIZE = 512  # rows and columns of the product whose result is looked at
_LARGEST = 8192  # and of one that is timed
_SHORT = 0.01  # seconds: a product that takes less is too small to be timed
_SAMPLE = 64  # how many elements plain Python computes


def main() -> None:
    """Read the request, answer. What a driver prints does not get into the answer."""
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
    os._exit(0)  # a driver that crashes when it is unloaded does no harm here


def _versions(request: dict[str, Any]) -> dict[str, Any]:
    """Whose versions belong to what is compiled."""
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
    """The variants of the CPU backend, and what became of loading one."""
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
    """What vkLoad() does here."""
    from llama_cffi.ggml.backend import Backend

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Backend.vkLoad()
    return {"warnings": [str(warning.message) for warning in caught], **_backends()}


def _backends() -> dict[str, Any]:
    """What is loaded."""
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
    """Multiply two matrices on a device: once to look at the result, then for a while to see how fast that is."""
    from llama_cffi.ggml.backend import Backend
    from llama_cffi.ggml.device import BackendDevice

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Backend.vkLoad() if request["vulkan"] else Backend.cpuLoad()
    device = BackendDevice.byName(request["device"])
    if device is None:
        return {"error": f"there is no device {request['device']} any more"}
    with Device(device) as machine:
        numbers = random.Random(0)
        a = array("f", (numbers.uniform(-1, 1) for _ in range(_SIZE * _SIZE)))
        b = array("f", (numbers.uniform(-1, 1) for _ in range(_SIZE * _SIZE)))
        with machine.product(_SIZE, a, b) as product:
            product.compute()
            error, by, compared = _largest_error(product.result(), a, b)
            seconds = product.compute()
        size = _SIZE
        while seconds < _SHORT and 2 * size <= _LARGEST:
            size *= 2
            with machine.product(size, a, b) as product:
                product.compute()  # a device compiles and allocates at the first one
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
    """A device at work, by ggml's own functions."""

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
    """`b` times the transpose of `a`, both square and made of the numbers in `a` and `b`, repeated."""

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
            raise RuntimeError(f"{machine.device.name} does not multiply matrices of 32-bit numbers")
        self.buffer = lib.ggml_backend_alloc_ctx_tensors(self.context, machine.backend)
        if self.buffer == ffi.NULL:
            raise MemoryError(f"{machine.device.name} has no memory for three matrices of {4 * size**2:,} bytes")
        for tensor, numbers in zip(tensors, (a, b), strict=True):
            data = numbers.tobytes()
            for offset in range(0, 4 * size**2, len(data)):
                lib.ggml_backend_tensor_set(tensor, data, offset, len(data))

    def compute(self) -> float:
        """Returns how many seconds it took."""
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
    """The largest difference as a part of the largest element, who computed what is right, and of how many elements."""
    try:
        import numpy as np
    except ImportError:
        places = random.Random(1).sample(range(_SIZE * _SIZE), _SAMPLE)
        right = [math.fsum(map(operator.mul, _row(a, p % _SIZE), _row(b, p // _SIZE))) for p in places]
        wrong = max(abs(got[p] - r) if math.isfinite(got[p]) else math.inf for p, r in zip(places, right, strict=True))
        return wrong / max(map(abs, right)), "plain Python, as there is no numpy", _SAMPLE
    left, upper = (np.frombuffer(m, np.float32).reshape(_SIZE, _SIZE).astype(np.float64) for m in (b, a))
    wanted = (left @ upper.T).ravel()
    difference = float(np.max(np.abs(np.asarray(got) - wanted)))  # NaN where one is
    return difference / float(np.max(np.abs(wanted))), "numpy", wanted.size


def _row(matrix: array[float], index: int) -> array[float]:
    return matrix[_SIZE * index : _SIZE * (index + 1)]


_QUESTIONS = {"versions": _versions, "cpu": _cpu, "vulkan": _vulkan, "product": _product}


if __name__ == "__main__":
    main()
