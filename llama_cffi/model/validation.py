"""What a model file must not say: ggml would end the process, on a thread of its own or by a signal, where no guard
reaches. Everything else that is wrong with a file, llama.cpp finds itself, and reports.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.enums import GgmlType, PoolingType
from llama_cffi.errors import AdapterError, ModelLoadError
from llama_cffi.model.gguf import GgufFile, Scalar, TensorInfo, opened
from llama_cffi.model.params import EPSILON, KvOverrides

_INTEGERS = (GgmlType.I8, GgmlType.I16, GgmlType.I32, GgmlType.I64, GgmlType.F64)
_FLOATS = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
_TABLES = re.compile(r"^d2t$|\.ffn_gate_tid2eid\.weight$")  # the only tensors that hold integers
# Tensors that are added or multiplied element by element, as converters write them: in full.
_FULL = re.compile(r"(?<!\.weight)$|_norm\.weight$|\.(ssm_conv1d|shortconv\.conv)\.weight$")
_MATRICES = re.compile(r"^(cls|dense_\d)\b|_inp_shexp\.weight$")  # which may have one row alone, and be no vector
_HEADLESS = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "wavtokenizer-dec")
_RELATIVE = {"t5": ("enc.blk.0", "dec.blk.0"), "t5encoder": ("enc.blk.0",)}
_UNSPECIFIED = 0xFFFFFFFF  # of types of pooling: -1, as the file writes it
_TREES = ("t5", "rwkv")  # tokenizers that walk down a tree, a stack frame for each byte of a token
_TOKEN_BYTES = 4096


@dataclass
class Scan:
    """What a model's files say of it."""

    paths: list[bytes]
    quantized: bool = False  # some weights are in a format that may be repacked in memory
    size: int = 0  # bytes of all tensors
    sections: list[int | float] | None = None  # of a position with several parts
    head_size: int = 0
    positions: int = 0  # rows of a table of them; beyond the last one, a thread of ggml's own would end the process
    names: set[str] = field(default_factory=set)


def scan_model(paths: Sequence[bytes], overrides: KvOverrides | None, vocab_only: bool) -> Scan:
    """Look at the files of a model: of a split one, all of them or the first. Raises ModelLoadError for what would end
    the process."""
    scan = Scan([*paths])
    with ExitStack() as stack:
        first = stack.enter_context(opened(paths[0]))
        if first is None:
            return scan
        values = {**_scalars(first), **(overrides or {})}
        if values.get("general.type") == "adapter":
            raise ModelLoadError(
                f"{os.fsdecode(paths[0])} is an adapter, and no model: Adapter.loraInit(model, path) loads it"
            )
        _check_tokens(first, values)
        _check_epsilons(values)
        if len(paths) == 1:
            scan.paths += _other_files(paths[0], values)
        files = [first, *(stack.enter_context(opened(path)) for path in scan.paths[1:])]
        for tensor in (tensor for file in files if file for tensor in file.tensors()):
            if not vocab_only:
                _check_type(tensor)
            scan.names.add(tensor.name)
            if tensor.name == "position_embd.weight":
                scan.positions = tensor.shape[1]
            scan.size += tensor.size
            scan.quantized = scan.quantized or tensor.type not in _FLOATS
        if not vocab_only:
            _check_architecture(first, values, scan)
    return scan


def check_positions(scan: Scan) -> None:
    """Of a model whose positions have several parts: how a head's numbers are shared among them must add up."""
    parts = scan.sections or [0]
    parts = parts * 4 if len(parts) == 1 else parts  # a single number stands for all of them
    if min(parts) < 0 or not 1 <= sum(parts) <= scan.head_size or not any(parts[:3]):
        raise _damaged(
            f"rope.dimension_sections is {scan.sections}, and four numbers from 0 are wanted, with a sum from 1 "
            f"to the size of a head, {scan.head_size}"
        )


def _scalars(file: GgufFile) -> dict[str, Scalar]:
    found = ((key, file.scalar(key)) for key in file.keys())
    return {key: value for key, value in found if value is not None}


def _check_tokens(file: GgufFile, values: dict[str, Scalar]) -> None:
    if values.get("tokenizer.ggml.model") in _TREES and file.has_longer_text("tokenizer.ggml.tokens", _TOKEN_BYTES):
        raise _damaged(f"a token has more than {_TOKEN_BYTES} bytes")


def _check_epsilons(values: dict[str, Scalar]) -> None:
    for key in filter(EPSILON.search, values):
        value = values[key]
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise _damaged(f"{key} is {value}, and a number from 0 is wanted")


def _check_type(tensor: TensorInfo) -> None:
    kind = GgmlType(tensor.type)
    if kind in _INTEGERS and not _TABLES.search(tensor.name):
        raise _damaged(f"the tensor {tensor.name} is of type {kind.name}, which no weight has")
    vector = tensor.shape[1:] == (1, 1, 1) and not _MATRICES.search(tensor.name)
    if kind == GgmlType.F32 or _TABLES.search(tensor.name) or not (vector or _FULL.search(tensor.name)):
        return
    raise _damaged(f"the tensor {tensor.name} is of type {kind.name}, and the CPU computes with F32 alone there")


def _check_architecture(file: GgufFile, values: dict[str, Scalar], scan: Scan) -> None:
    arch = str(values.get("general.architecture", ""))
    heads = _whole_numbers(file, values, f"{arch}.attention.head_count")
    if arch not in _HEADLESS and not any(heads):
        raise _damaged(f"{arch}.attention.head_count is missing or 0")
    width = _whole(values, f"{arch}.embedding_length")
    width_out = _whole(values, f"{arch}.embedding_length_out")
    if arch in _RELATIVE and width_out not in (0, width):
        raise _damaged(f"{arch}.embedding_length_out is {width_out}, and the encoder gives {width} numbers a token")
    for side in _RELATIVE.get(arch, ()):
        if f"{side}.attn_rel_b.weight" not in scan.names:
            raise _damaged(f"the tensor {side}.attn_rel_b.weight is missing")
    pooling = _whole(values, f"{arch}.pooling_type")
    if pooling not in (*PoolingType, _UNSPECIFIED):
        raise _damaged(f"{arch}.pooling_type is {pooling}, and no such type is known")
    scan.sections = file.numbers(f"{arch}.rope.dimension_sections")
    size = _whole(values, f"{arch}.attention.key_length") or width // max([1, *heads[:1]])
    scan.head_size = _whole(values, f"{arch}.rope.dimension_count", size)


def _whole(values: dict[str, Scalar], key: str, default: int = 0) -> int:
    """A whole number; where it is missing or something else, llama.cpp's own default."""
    value = values.get(key, default)
    return value if isinstance(value, int) else default


def _whole_numbers(file: GgufFile, values: dict[str, Scalar], key: str) -> list[int]:
    found = [values[key]] if key in values else file.numbers(key) or []
    return [number for number in found if isinstance(number, int)]


def _other_files(first: bytes, values: dict[str, Scalar]) -> Iterable[bytes]:
    """The other files of a split model, which are named after the first one."""
    count = values.get("split.count", 0)
    if not isinstance(count, int) or not 1 < count <= 0xFFFF:
        return
    room = len(first) + 64
    prefix, path = ffi.new("char[]", room), ffi.new("char[]", room)
    if not lib.llama_split_prefix(prefix, room, first, 0, count):
        return
    for i in range(1, count):
        lib.llama_split_path(path, room, prefix, i, count)
        name = bytes(ffi.string(path))
        if not os.path.exists(name):
            return
        yield name


def scan_adapter(path: bytes) -> None:
    """Look at the file of an adapter. Raises AdapterError for what would end the process."""
    with opened(path) as file:
        for tensor in file.tensors() if file else ():
            kind = GgmlType(tensor.type)
            if kind in _INTEGERS or tensor.shape[2:] != (1, 1):
                shape = " x ".join(map(str, tensor.shape))
                raise AdapterError(
                    f"the file is damaged: the tensor {tensor.name} is of type {kind.name} and shape {shape}, and a "
                    "matrix of floats or of a quantized type is wanted. Get the file anew, or convert the adapter again"
                )


def _damaged(what: str) -> ModelLoadError:
    return ModelLoadError(f"the file is damaged: {what}. Get the file anew, or convert the model again")
