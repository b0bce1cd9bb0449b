"""How much memory a model and a context take: llama.cpp plans both, allocates neither, and logs what it would take."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from llama_cffi import ggml as Ggml
from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.native_log import native_log
from llama_cffi._generated.enums import GgmlType, LoadMode
from llama_cffi._host.resources import available_memory
from llama_cffi.context.context import Context
from llama_cffi.errors import NativeError, UnavailableError
from llama_cffi.log import logGet, logSet
from llama_cffi.model.gguf import TensorInfo
from llama_cffi.model.model import Model

CPU = "CPU"
_CELL = 64  # bytes that llama.cpp takes in earnest for each token of a context that it plans

_LAYER = re.compile(r"layer +(\d+) assigned to device (\S+?),")
_CACHE_LAYER = re.compile(r"layer +(\d+): dev = (\S+)")
_CACHE = re.compile(r"^\S+ +size = +([\d.]+) MiB \(")
_BUFFER = re.compile(r"^\S+ +(\S+) +(compute|output) buffer size = +([\d.]+) MiB")
_BLOCK = re.compile(r"^blk\.(\d+)\.")


@dataclass
class Share:
    """What one device holds, in bytes."""

    weights: int = 0
    cache: int = 0
    compute: int = 0
    output: int = 0
    free: int | None = None  # what it has left; None where nobody knows

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.output

    @property
    def fits(self) -> bool | None:
        return None if self.free is None else self.total <= self.free


@dataclass
class Estimate:
    """What a model takes with a context, by device."""

    nCtx: int
    shares: dict[str, Share] = field(default_factory=lambda: defaultdict(Share))

    @property
    def total(self) -> int:
        return sum(share.total for share in self.shares.values())

    @property
    def fits(self) -> bool | None:
        """Whether every device has the room; None where that is not known."""
        answers = [share.fits for share in self.shares.values()]
        return False if False in answers else None if None in answers else True

    @property
    def fits_mapped(self) -> bool:
        """Whether all but the mapped weights has room: the model then runs, and reads them from the disk again."""
        others = [share for name, share in self.shares.items() if name != CPU]
        here = self.shares[CPU]
        return all(share.fits for share in others) and here.total - here.weights <= (here.free or 0)


def estimate(path: str, tensors: Iterable[TensorInfo], model_params: Model.Params, params: Context.Params) -> Estimate:
    """Plan a context of a model. Raises UnavailableError where llama.cpp cannot say, with its reason."""
    if not has("llama_model_params.no_alloc"):
        raise UnavailableError("this version of llama.cpp cannot plan a context without making it")
    lines: list[str] = []
    before = logGet()
    shown = before[0] if callable(before[0]) else None

    def collect(level: object, text: str, data: object) -> None:
        lines.append(text.rstrip("\n"))
        if shown is not None:
            shown(level, text, data)  # type: ignore[arg-type]

    logSet(collect)
    try:
        n_ctx = _plan(path, model_params, params)
    except NativeError as error:
        reasons = [line for line in error.log.splitlines() if "error" in line or "failed" in line or "require" in line]
        raise UnavailableError(reasons[0] if reasons else str(error).splitlines()[0]) from None
    finally:
        logSet(*before)
    found = Estimate(n_ctx)
    _read(lines, found)
    _spread(tensors, lines, found)
    for name, share in found.shares.items():
        device = None if name == CPU else Ggml.BackendDevice.byName(name)
        share.free = device.memory.free if device else available_memory()
    return found


def _plan(path: str, model_params: Model.Params, params: Context.Params) -> int:
    model_params.noAlloc, model_params.loadMode = True, LoadMode.NONE
    with Model.load(path, model_params) as model:
        n_ctx = params.nCtx or model.nCtxTrain
        available = available_memory()
        if available is not None and n_ctx * _CELL > available:
            raise UnavailableError(f"a context of {n_ctx:,} tokens is too large to plan here")
        struct, kept = params._for_c()
        pointer = lib.llama_init_from_model(model._c, struct[0])
        del kept
        if not pointer:
            raise NativeError("llama.cpp cannot make this context", log=native_log())
        n_ctx = lib.llama_n_ctx(pointer)
        lib.llama_free(pointer)
        return n_ctx


def _read(lines: list[str], found: Estimate) -> None:
    """Caches, which are shared evenly by the layers that were named before, and the buffers of computing."""
    layers: list[str] = []
    for line in lines:
        if match := _CACHE_LAYER.search(line):
            layers.append(_device(match[2]))
        elif match := _CACHE.search(line):
            for name in layers or [CPU]:
                found.shares[name].cache += int(float(match[1]) * (1 << 20) / max(len(layers), 1))
            layers = []
        elif match := _BUFFER.search(line):
            share = found.shares[_device(match[1])]
            setattr(share, match[2], getattr(share, match[2]) + int(float(match[3]) * (1 << 20)))


def _spread(tensors: Iterable[TensorInfo], lines: list[str], found: Estimate) -> None:
    """The weights, by the device of their layer; the last layer is the output."""
    devices = {int(m[1]): _device(m[2]) for line in lines if (m := _LAYER.search(line))}
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
            name = name if _multiplies(name, tensor) else CPU
        found.shares[name].weights += tensor.size
    if output is None and embeddings is not None and last != CPU and _multiplies(last, embeddings):
        found.shares[last].weights += embeddings.size  # a second copy, which is the output


def _multiplies(name: str, matrix: TensorInfo) -> bool:
    """Whether a device takes the largest matrix of a model: to some it is too large, and stays with the CPU."""
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


def _device(buffer: str) -> str:
    """The device whose memory a type of buffer names: host memory of any device is the machine's."""
    names = [device.name for device in Ggml.Backend.devices()]
    return buffer if buffer in names else CPU
