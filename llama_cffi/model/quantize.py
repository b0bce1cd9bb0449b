"""Quantizing: a model file in, one of another format out."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llama_cffi._core.arguments import StrPath, c_string, path_bytes
from llama_cffi._core.atomic_write import beside
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.native_log import native_log
from llama_cffi._core.structs import EnumField
from llama_cffi._generated.enums import GgmlType
from llama_cffi._generated.structs import ModelQuantizeParamsFields
from llama_cffi.errors import NativeError
from llama_cffi.ggml.backend import Backend
from llama_cffi.model.params import KvOverrides, PointerField, kv_overrides

K = TypeVar("K")
V = TypeVar("V")

Imatrix = Mapping[str, Sequence[float]]
TensorTypes = Mapping[str, GgmlType]

# What ggml has no code to write; at the last four it ends the process from a thread of its own.
_NOT_WRITTEN = frozenset(
    kind for kind in GgmlType if kind.name in ("Q8_1", "Q8_K") or kind.name[0] == "I" and kind.name[1] != "Q"
) | {GgmlType.F64}


class _TypeField(EnumField[GgmlType]):
    """A type of tensor to write. COUNT leaves the choice to `ftype`."""

    def __init__(self, c_name: str) -> None:
        super().__init__(c_name, GgmlType)

    def _to_c(self, value: GgmlType) -> int:
        return _writable(value, self.name)


def _writable(value: GgmlType, what: str) -> int:
    try:
        kind = GgmlType(value)
    except ValueError:
        raise ValueError(f"{what} is a Ggml.Type, not {value!r}") from None
    if kind in _NOT_WRITTEN:
        raise ValueError(f"{what}: ggml cannot write {kind.name}")
    return int(kind)


def _mapping(value: Mapping[K, V], what: str) -> dict[K, V]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is a dict, not {type(value).__name__}")
    return dict(value)


def _imatrix(value: Imatrix) -> tuple[Imatrix, Any, Any]:
    entries = _mapping(value, "imatrix")
    array = ffi.new("struct llama_model_imatrix_data[]", len(entries) + 1)  # a NULL name ends the list
    memory: list[Any] = [array]
    for entry, (name, weights) in zip(array, entries.items(), strict=False):
        numbers = ffi.new("float[]", [float(weight) for weight in weights])
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"imatrix[{name!r}] holds a number that is not finite")
        memory += [numbers, ffi.new("char[]", c_string(name, "a name of imatrix"))]
        entry.name, entry.data, entry.size = memory[-1], numbers, len(numbers)
    return entries, array, memory


def _tensor_types(value: TensorTypes) -> tuple[TensorTypes, Any, Any]:
    entries = _mapping(value, "ttOverrides")
    array = ffi.new("struct llama_model_tensor_override[]", len(entries) + 1)  # a NULL pattern ends the list
    memory: list[Any] = [array]
    for entry, (pattern, kind) in zip(array, entries.items(), strict=False):
        memory.append(ffi.new("char[]", c_string(pattern, "a pattern of ttOverrides")))
        entry.pattern, entry.type = memory[-1], _writable(kind, f"ttOverrides[{pattern!r}]")
    return entries, array, memory


def _prune_layers(value: Sequence[int]) -> tuple[tuple[int, ...], Any, Any]:
    layers = tuple(sorted(set(value)))  # llama.cpp takes the first for the lowest
    if layers and layers[0] < 0:
        raise ValueError(f"pruneLayers holds {layers[0]}: layers are counted from 0")
    array = ffi.new("int32_t[]", [*layers, -1])
    return layers, array, array


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama_cffi._generated.structs import ModelQuantizeParamsKeywords

    class _Keywords(ModelQuantizeParamsKeywords, total=False):
        outputTensorType: GgmlType
        tokenEmbeddingType: GgmlType
        imatrix: Imatrix | None
        kvOverrides: KvOverrides | None
        ttOverrides: TensorTypes | None
        pruneLayers: Sequence[int] | None


class ModelQuantizeParams(ModelQuantizeParamsFields):
    """How to quantize. `Model.QuantizeParams(ftype=Ftype.MOSTLY_Q4_K_M)` sets fields; the others keep the defaults.

    Maps to `llama_model_quantize_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    outputTensorType = _TypeField("output_tensor_type")
    """The type of the output projection; `Ggml.Type.COUNT` leaves it to `ftype`."""
    tokenEmbeddingType = _TypeField("token_embedding_type")
    """The type of the token embeddings; `Ggml.Type.COUNT` leaves it to `ftype`."""
    imatrix = PointerField[Imatrix | None]("imatrix", _imatrix)
    """How much each column of a tensor matters: tensor name to numbers. Formats below about 3 bits want it."""
    kvOverrides = PointerField[KvOverrides | None]("kv_overrides", kv_overrides)
    """Metadata to be written instead of that of the file."""
    ttOverrides = PointerField[TensorTypes | None]("tt_overrides", _tensor_types)
    """The types of certain tensors: regular expression (in lower case) to type. The first that matches decides."""
    pruneLayers = PointerField[Sequence[int] | None]("prune_layers", _prune_layers)
    """Layers to leave out, counted from 0."""

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_model_quantize_default_params()


def quantize(source: StrPath, target: StrPath, params: ModelQuantizeParams | None) -> None:
    """`Model.quantize`."""
    chosen = ModelQuantizeParams() if params is None else params
    if not isinstance(chosen, ModelQuantizeParams):
        raise TypeError(f"params is a Model.QuantizeParams, not {type(params).__name__}")
    if chosen.nthread > lib.GGML_MAX_N_THREADS:
        raise ValueError(f"nthread is at most {lib.GGML_MAX_N_THREADS}, not {chosen.nthread}")
    out = os.fsdecode(path_bytes(target, "target"))
    name = path_bytes(source, "source")
    with open(name, "rb"):  # says at once, and in Python's words, what is wrong with the path
        pass
    for existing in [out, *glob.glob(f"{glob.escape(out)}-[0-9]*-of-[0-9]*.gguf")]:
        if os.path.exists(existing) and os.path.samefile(existing, os.fsdecode(source)):
            raise ValueError(f"{existing} is the file to read: name another one to write")
    Backend.ensureCpu()
    with beside(out) as scratch:
        code = lib.llama_model_quantize(name, os.fsencode(scratch), chosen._c)
        if code:
            raise NativeError(
                f"{os.fsdecode(source)} could not be quantized",
                operation="llama_model_quantize",
                code=code,
                log=native_log(),
            )
