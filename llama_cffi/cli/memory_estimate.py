"""Estimate of the memory that a model and a context need, by device.

llama.cpp plans both with `no_alloc`, which allocates nothing, and logs the sizes of its buffers; these are read here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import llama_cffi.ggml as Ggml
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.native_log import native_log
from llama_cffi._generated.enums import GgmlType, LoadMode
from llama_cffi._host.resources import available_memory
from llama_cffi.context.context import Context
from llama_cffi.errors import NativeError, UnavailableError
from llama_cffi.ggml.gguf_native import TensorInfo
from llama_cffi.log import logGet, logSet
from llama_cffi.model.model import Model

CPU = "CPU"
_BYTES_PER_CELL = 64  # really allocated for each cell of the KV cache, even when it is only planned

_LAYER_DEVICE = re.compile(r"layer +(\d+) assigned to device (\S+?),")
_CACHE_LAYER_DEVICE = re.compile(r"layer +(\d+): dev = (\S+)")
_CACHE = re.compile(r"^\S+ +size = +([\d.]+) MiB \(")
_BUFFER = re.compile(r"^\S+ +(\S+) +(compute|output) buffer size = +([\d.]+) MiB")
_BLOCK = re.compile(r"^blk\.(\d+)\.")


@dataclass
class Share:
    """The memory needed on one device, in bytes."""

    weights: int = 0
    cache: int = 0
    compute: int = 0
    output: int = 0
    free: int | None = None  # free memory of the device; None if unknown

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.output

    @property
    def fits(self) -> bool | None:
        """True if the device has enough free memory; None if that is unknown."""
        return None if self.free is None else self.total <= self.free


@dataclass
class Estimate:
    """The memory that a model and a context of `n_ctx` tokens need, by device."""

    n_ctx: int
    shares: dict[str, Share] = field(default_factory=lambda: defaultdict(Share))

    @property
    def total(self) -> int:
        return sum(share.total for share in self.shares.values())

    @property
    def fits(self) -> bool | None:
        """True if every device has enough free memory; None if that is unknown."""
        answers = [share.fits for share in self.shares.values()]
        return False if False in answers else None if None in answers else True

    @property
    def fits_mapped(self) -> bool:
        """True if everything but the mapped weights fits: the model then runs, but keeps reading weights from disk."""
        others = [share for name, share in self.shares.items() if name != CPU]
        cpu = self.shares[CPU]
        return all(share.fits for share in others) and cpu.total - cpu.weights <= (cpu.free or 0)


def estimate(path: str, tensors: Iterable[TensorInfo], model_params: Model.Params, params: Context.Params) -> Estimate:
    """Plan a model and a context. Raises UnavailableError with the reason if llama.cpp cannot plan them."""
    if not has("llama_model_params.no_alloc"):
        raise UnavailableError("this version of llama.cpp cannot plan a model without loading it")
    with _log_lines() as lines:
        try:
            n_ctx = _plan(path, model_params, params)
        except NativeError as error:
            raise UnavailableError(_reason(error)) from None
    result = Estimate(n_ctx)
    _add_buffers(lines, result)
    _add_weights(tensors, lines, result)
    for name, share in result.shares.items():
        device = None if name == CPU else Ggml.BackendDevice.byName(name)
        share.free = device.memory.free if device else available_memory()
    return result


@contextmanager
def _log_lines() -> Iterator[list[str]]:
    """Collect llama.cpp's log lines; a log function that was set keeps receiving them."""
    lines: list[str] = []
    before = logGet()
    forward = before[0] if callable(before[0]) else None

    def collect(level: object, text: str, data: object) -> None:
        lines.append(text.rstrip("\n"))
        if forward is not None:
            forward(level, text, data)  # type: ignore[arg-type]

    logSet(collect)
    try:
        yield lines
    finally:
        logSet(*before)


def _reason(error: NativeError) -> str:
    """The log line that explains the failure, or else the first line of the message."""
    lines = [line for line in error.log.splitlines() if "error" in line or "failed" in line or "require" in line]
    return lines[0] if lines else str(error).splitlines()[0]


def _plan(path: str, model_params: Model.Params, params: Context.Params) -> int:
    """Have llama.cpp plan the model and the context. Returns the context's size in tokens."""
    model_params.noAlloc, model_params.loadMode = True, LoadMode.NONE
    with Model.load(path, model_params) as model:
        n_ctx = params.nCtx or model.nCtxTrain
        available = available_memory()
        if available is not None and n_ctx * _BYTES_PER_CELL > available:
            raise UnavailableError(
                f"planning a context of {n_ctx:,} tokens needs more memory than is free: use a smaller --ctx"
            )
        struct, kept_alive = params._for_c()
        pointer = lib.llama_init_from_model(model._c, struct[0])
        del kept_alive
        if not pointer:
            raise NativeError("llama.cpp cannot create this context", log=native_log())
        n_ctx = lib.llama_n_ctx(pointer)
        lib.llama_free(pointer)
        return n_ctx


def _add_buffers(lines: list[str], result: Estimate) -> None:
    """Add the compute and output buffers, and the KV caches: one is split evenly over the layers logged before it."""
    layers: list[str] = []
    for line in lines:
        if match := _CACHE_LAYER_DEVICE.search(line):
            layers.append(_device_of(match[2]))
        elif match := _CACHE.search(line):
            for name in layers or [CPU]:
                result.shares[name].cache += int(float(match[1]) * (1 << 20) / max(len(layers), 1))
            layers = []
        elif match := _BUFFER.search(line):
            share = result.shares[_device_of(match[1])]
            setattr(share, match[2], getattr(share, match[2]) + int(float(match[3]) * (1 << 20)))


def _add_weights(tensors: Iterable[TensorInfo], lines: list[str], result: Estimate) -> None:
    """Add the weights to the device of their layer; the last layer is the output."""
    devices = {int(m[1]): _device_of(m[2]) for line in lines if (m := _LAYER_DEVICE.search(line))}
    last = devices.get(max(devices, default=0), CPU)
    embeddings: TensorInfo | None = None
    output: TensorInfo | None = None
    for tensor in tensors:
        block = _BLOCK.match(tensor.name)
        name = devices.get(int(block[1]), CPU) if block else last if tensor.name.startswith("output") else CPU
        if tensor.name == "token_embd.weight":
            embeddings = tensor
        elif tensor.name == "output.weight":
            output = tensor
            name = name if _can_multiply(name, tensor) else CPU
        result.shares[name].weights += tensor.size
    if output is None and embeddings is not None and last != CPU and _can_multiply(last, embeddings):
        result.shares[last].weights += embeddings.size  # tied embeddings: a second copy is the output matrix


def _can_multiply(name: str, matrix: TensorInfo) -> bool:
    """Return whether a device can multiply with this matrix. llama.cpp keeps one that is too large on the CPU."""
    device = Ggml.BackendDevice.byName(name)
    if device is None or name == CPU:
        return True
    params = ffi.new("struct ggml_init_params *", {"mem_size": 8 * lib.ggml_tensor_overhead(), "no_alloc": True})
    context = lib.ggml_init(params[0])
    buffer = lib.ggml_backend_buft_alloc_buffer(device.bufferType()._c, 0)
    try:
        width, height = matrix.shape[:2]
        weight = lib.ggml_new_tensor_2d(context, matrix.type, width, height)
        weight.buffer = buffer
        product = lib.ggml_mul_mat(context, weight, lib.ggml_new_tensor_2d(context, GgmlType.F32, width, 512))
        return bool(lib.ggml_backend_dev_supports_op(device._c, product))
    finally:
        lib.ggml_free(context)
        lib.ggml_backend_buffer_free(buffer)


def _device_of(buffer: str) -> str:
    """The device of a buffer type in the log. Host memory that a device uses counts as the CPU's."""
    names = [device.name for device in Ggml.Backend.devices()]
    return buffer if buffer in names else CPU
