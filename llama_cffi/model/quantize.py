"""Quantization: `Model.quantize` and its parameters."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from llama_cffi._core.arguments import StrPath, c_string, path_bytes
from llama_cffi._core.checks import expected, no_threads
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.native_log import native_log
from llama_cffi._core.structs import FLOAT_MAX, EnumField
from llama_cffi._generated.structs import ModelQuantizeParamsFields
from llama_cffi.errors import NativeError
from llama_cffi.ggml.backend import Backend
from llama_cffi.model.params import KvOverrides, PointerField, kv_overrides

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias, TypeVar

    import numpy as np
    import numpy.typing as npt

    from llama_cffi._generated.enums import GgmlType

    K = TypeVar("K")
    V = TypeVar("V")

Imatrix: TypeAlias = "Mapping[str, Sequence[float] | npt.NDArray[np.float32]]"
TensorTypes: TypeAlias = "Mapping[str, GgmlType]"


class _TypeField(EnumField["GgmlType"]):
    """A tensor type to write. COUNT means that `ftype` decides."""

    def __init__(self, c_name: str) -> None:
        super().__init__(c_name, "GgmlType")

    def _to_c(self, value: GgmlType) -> int:
        return _writable(value, self.name)


def _writable(value: GgmlType, name: str) -> int:
    from llama_cffi.ggml.quantization import writable  # which a process that quantizes nothing need not load

    return writable(value, name)


def _mapping(value: Mapping[K, V], what: str) -> dict[K, V]:
    if not isinstance(value, Mapping):
        raise expected("a dict", value, name=what)
    return dict(value)


def _imatrix(value: Imatrix | StrPath) -> tuple[Imatrix, Any, Any]:
    if isinstance(value, (str, bytes, os.PathLike)):
        from llama_cffi.model.imatrix import read_imatrix

        value = read_imatrix(value)
    entries = _mapping(value, "imatrix")
    array = ffi.new("struct llama_model_imatrix_data[]", len(entries) + 1)  # a NULL name ends the list
    memory: list[Any] = [array]
    for entry, (name, weights) in zip(array, entries.items(), strict=False):
        numbers = ffi.new("float[]", [float(weight) for weight in weights])
        if not all(abs(number) <= FLOAT_MAX for number in numbers):
            raise ValueError(f"imatrix[{name!r}] must contain finite numbers only")
        memory += [numbers, ffi.new("char[]", c_string(name, "a key of imatrix"))]
        entry.name, entry.data, entry.size = memory[-1], numbers, len(numbers)
    return entries, array, memory


def _tensor_types(value: TensorTypes) -> tuple[TensorTypes, Any, Any]:
    entries = _mapping(value, "ttOverrides")
    array = ffi.new("struct llama_model_tensor_override[]", len(entries) + 1)  # a NULL pattern ends the list
    memory: list[Any] = [array]
    for entry, (pattern, kind) in zip(array, entries.items(), strict=False):
        memory.append(ffi.new("char[]", c_string(pattern, "a key of ttOverrides")))
        entry.pattern, entry.type = memory[-1], _writable(kind, f"ttOverrides[{pattern!r}]")
    return entries, array, memory


def _prune_layers(value: Sequence[int]) -> tuple[tuple[int, ...], Any, Any]:
    layers = tuple(sorted(set(value)))  # llama.cpp expects them in order
    if layers and layers[0] < 0:
        raise ValueError(f"pruneLayers must contain numbers of at least 0, got {layers[0]}")
    array = ffi.new("int32_t[]", [*layers, -1])
    return layers, array, array


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama_cffi._generated.structs import ModelQuantizeParamsKeywords

    class _Keywords(ModelQuantizeParamsKeywords, total=False):
        outputTensorType: GgmlType
        tokenEmbeddingType: GgmlType
        imatrix: Imatrix | StrPath | None
        kvOverrides: KvOverrides | None
        ttOverrides: TensorTypes | None
        pruneLayers: Sequence[int] | None


class ModelQuantizeParams(ModelQuantizeParamsFields):
    """Parameters of `Model.quantize`. `Model.QuantizeParams(ftype=Ftype.MOSTLY_Q4_K_M)` changes some of the defaults.

    Maps to `llama_model_quantize_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    outputTensorType = _TypeField("output_tensor_type")
    """The type of the output tensor; `Ggml.Type.COUNT` means that `ftype` decides."""
    tokenEmbeddingType = _TypeField("token_embedding_type")
    """The type of the token embeddings; `Ggml.Type.COUNT` means that `ftype` decides."""
    imatrix = PointerField["Imatrix | StrPath | None"]("imatrix", _imatrix)
    """The importance matrix: tensor name to a weight for each column. Formats below about 3 bits need it.

    The path of a GGUF file from `llama-imatrix` is read.
    """
    kvOverrides = PointerField[KvOverrides | None]("kv_overrides", kv_overrides)
    """Metadata that replaces entries of the file."""
    ttOverrides = PointerField["TensorTypes | None"]("tt_overrides", _tensor_types)
    """Types of single tensors: regular expression (in lower case) to type. The first match decides."""
    pruneLayers = PointerField[Sequence[int] | None]("prune_layers", _prune_layers)
    """Layers to leave out, counted from 0."""

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_model_quantize_default_params()


def quantize(
    source: StrPath,
    target: StrPath,
    params: ModelQuantizeParams | None,
    progress: Callable[[float], object] | None,
) -> None:
    """`Model.quantize`."""
    chosen = ModelQuantizeParams() if params is None else params
    if not isinstance(chosen, ModelQuantizeParams):
        raise expected("a Model.QuantizeParams", params, "Model.quantizeDefaultParams() makes one", "params")
    if progress is not None and not callable(progress):
        raise expected("a function of a number", progress, name="progress")
    if chosen.nthread > lib.GGML_MAX_N_THREADS:  # 0 and less: one thread for each CPU
        raise ValueError(f"nthread must be at most {lib.GGML_MAX_N_THREADS}, got {chosen.nthread}")
    import glob

    from llama_cffi._core.atomic_write import atomic_write, write_error
    from llama_cffi._core.files import require_regular
    from llama_cffi.ggml.gguf_native import require_complete
    from llama_cffi.model.quantize_progress import final_size, watched

    out = os.fsdecode(path_bytes(target, "target"))
    name = path_bytes(source, "source")
    require_regular(source)  # OSError names the problem
    for existing in [out, *glob.glob(f"{glob.escape(out)}-[0-9]*-of-[0-9]*.gguf")]:
        if os.path.exists(existing) and os.path.samefile(existing, os.fsdecode(source)):
            raise ValueError(f"target would overwrite the source {existing}: choose another name")
    Backend.ensureCpu()
    if not lib.shim_can_quantize(chosen.nthread):  # C++ would end the process
        what = f"the process cannot start the threads of quantize: nthread is {chosen.nthread}"
        raise no_threads(what, "lower nthread; 1 needs no thread", "llama_model_quantize")
    total = 0.0 if progress is None else final_size(name, os.fsencode(out), chosen._c)
    with atomic_write(out) as scratch:
        with watched(os.path.dirname(scratch), total, progress):
            code = lib.llama_model_quantize(name, os.fsencode(scratch), chosen._c)
            log = native_log()
        written = sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(scratch)), "*")))
        if not code:
            for path in written:
                require_complete(path, out)
        else:
            error = write_error(written[-1], out, "the quantized model could not be written") if written else None
            if error is not None and error.errno != errno.EIO:
                raise error
            again = ": its weights are quantized already: begin with an F16 file, or pass allowRequantize=True"
            raise NativeError(
                f"{os.fsdecode(source)} could not be quantized{again if 'requantiz' in log else ''}",
                operation="llama_model_quantize",
                code=code,
                log=log,
            )
