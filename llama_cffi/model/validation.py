"""Validation of model and adapter files before llama.cpp loads them.

Only contents at which ggml would end the process are looked for: by a signal, or on one of its own threads, where no
guard can catch it. llama.cpp finds and reports everything else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.files import require_regular
from llama_cffi._generated import enums
from llama_cffi.errors import AdapterError, ModelLoadError
from llama_cffi.ggml.gguf_native import GgufFile, Scalar, TensorInfo, open_gguf
from llama_cffi.model.params import KvOverrides, is_epsilon

# Endings of matrices that are added or multiplied element by element; converters write them as F32.
_ELEMENTWISE = ("_norm.weight", ".ssm_conv1d.weight", ".shortconv.conv.weight")
_WITHOUT_HEADS = ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "wavtokenizer-dec")
_RELATIVE_BIAS = {"t5": ("enc.blk.0", "dec.blk.0"), "t5encoder": ("enc.blk.0",)}  # blocks with its table
_POOLING_UNSPECIFIED = 0xFFFFFFFF  # -1 as an unsigned number
# Tokenizers that prepare tables of the vocabulary: the power of a token's characters that these take, and the largest
# sum of that. t5 and rwkv also use a stack frame for each byte of a token.
_TOKENIZERS = {"t5": (1, 1 << 24), "rwkv": (1, 1 << 24), "plamo2": (3, 1 << 30), "plamo3": (3, 1 << 30)}
_MAX_TOKEN_BYTES = 4096
_TEMPLATE = "tokenizer.chat_template."


class ModelFile:
    """The facts about a model that its files state before they are loaded."""

    def __init__(self, paths: list[bytes]) -> None:
        self.paths = paths  # of all its files
        self.quantized = False  # some weights are in a format that may be repacked in memory
        self.size = 0  # bytes of all tensors
        self.sections: list[int | float] | None = None  # numbers of a head for each part of a multi-part position
        self.head_size = 0
        self.positions = 0  # rows in the table of position embeddings (0: no table): ggml ends the process beyond them
        self.names: set[str] = set()  # of all tensors
        self.templates: list[str] = []  # names of chat templates besides the default one

    @classmethod
    def inspect(cls, paths: Sequence[bytes], overrides: KvOverrides | None, vocab_only: bool) -> ModelFile:
        """Read and validate the files of a model; of a split model, `paths` may be the first file alone.

        Raises ModelLoadError if loading or using the model would end the process.
        """
        model = cls([*paths])
        with ExitStack() as stack:
            first = stack.enter_context(open_gguf(paths[0]))
            if first is None:
                return model
            values = {**_scalars(first), **(overrides or {})}
            model.templates = [key[len(_TEMPLATE) :] for key in first.keys() if key.startswith(_TEMPLATE)]
            if values.get("general.type") == "adapter":
                raise ModelLoadError(
                    f"{os.fsdecode(paths[0])} is an adapter, not a model: Adapter.loraInit(model, path) loads it"
                )
            _check_tokens(first, values)
            _check_epsilons(values)
            if len(paths) == 1:
                model.paths += _other_files(paths[0], values)
            files = [first, *(stack.enter_context(open_gguf(path)) for path in model.paths[1:])]
            for tensor in (tensor for file in files if file for tensor in file.tensors()):
                if not vocab_only:
                    _check_type(tensor)
                model._add(tensor)
            if not vocab_only:
                _check_architecture(first, values, model)
        return model

    def _add(self, tensor: TensorInfo) -> None:
        self.names.add(tensor.name)
        if tensor.name == "position_embd.weight":
            self.positions = tensor.shape[1]
        self.size += tensor.size
        floats = (enums.GgmlType.F32, enums.GgmlType.F16, enums.GgmlType.BF16)
        self.quantized = self.quantized or tensor.type not in floats

    def require_positions(self) -> None:
        """For multi-part RoPE: check how a head is divided among the parts. Raises ModelLoadError."""
        parts = self.sections or [0]
        parts = parts * 4 if len(parts) == 1 else parts  # a single number applies to all of them
        if min(parts) < 0 or not 1 <= sum(parts) <= self.head_size or not any(parts[:3]):
            raise _damaged(
                f"rope.dimension_sections must be four numbers of at least 0 with a sum between 1 and {self.head_size} "
                f"(the size of a head), got {self.sections}"
            )


def _scalars(file: GgufFile) -> dict[str, Scalar]:
    """The values that are looked at here: reading all of a file with many keys would take longer than its load."""
    prefixes = ("general.", "split.", "tokenizer.ggml.model", f"{file.scalar('general.architecture') or ''}.")
    found = ((key, file.scalar(key)) for key in file.keys() if key.startswith(prefixes) or is_epsilon(key))
    return {key: value for key, value in found if value is not None}


def _check_tokens(file: GgufFile, values: dict[str, Scalar]) -> None:
    name = values.get("tokenizer.ggml.model")
    if name not in _TOKENIZERS:
        return
    power, limit = _TOKENIZERS[str(name)]
    work = 0
    for text in file.texts("tokenizer.ggml.tokens", _MAX_TOKEN_BYTES + 1):
        if len(text) > _MAX_TOKEN_BYTES:
            raise _damaged(f"a token has more than {_MAX_TOKEN_BYTES} bytes")
        work += len(text.decode("utf-8", "replace")) ** power
    if work > limit:
        raise _damaged(
            f"the tokenizer {name} would take {work} steps to prepare for these tokens, and the limit is {limit}"
        )


def _check_epsilons(values: dict[str, Scalar]) -> None:
    for key in filter(is_epsilon, values):
        value = values[key]
        if isinstance(value, float) and not 0 <= value < float("inf"):
            raise _damaged(f"{key} must be a finite number of at least 0, got {value}")


def _check_type(tensor: TensorInfo) -> None:
    name, kind = tensor.name, enums.GgmlType(tensor.type)
    integers = name == "d2t" or name.endswith(".ffn_gate_tid2eid.weight")
    if _is_integer(kind) and not integers:
        raise _damaged(f"the tensor {name} is of type {kind.name}, which is not a type of weights")
    if kind == enums.GgmlType.F32 or integers:
        return
    vector = tensor.shape[1:] == (1, 1, 1) and not _is_matrix(name)
    if vector or not name.endswith(".weight") or name.endswith(_ELEMENTWISE):
        raise _damaged(f"the tensor {name} must be of type F32, which the CPU computes with, got {kind.name}")


def _is_integer(kind: int) -> bool:
    """Return True for the types that are not types of weights."""
    return kind in (enums.GgmlType.I8, enums.GgmlType.I16, enums.GgmlType.I32, enums.GgmlType.I64, enums.GgmlType.F64)


def _is_matrix(name: str) -> bool:
    """Return True for a tensor that is not a vector, even if it has a single row."""
    first = name.partition(".")[0]
    return first == "cls" or (first[:-1] == "dense_" and first[-1:].isdigit()) or name.endswith("_inp_shexp.weight")


def _check_architecture(file: GgufFile, values: dict[str, Scalar], model: ModelFile) -> None:
    """Check the metadata of the model's architecture, and keep what `require_positions` needs."""
    arch = str(values.get("general.architecture", ""))
    heads = _integers(file, values, f"{arch}.attention.head_count")
    if arch not in _WITHOUT_HEADS and not any(heads):
        raise _damaged(f"{arch}.attention.head_count is missing or 0")
    width = _integer(values, f"{arch}.embedding_length")
    width_out = _integer(values, f"{arch}.embedding_length_out")
    if arch in _RELATIVE_BIAS and width_out not in (0, width):
        raise _damaged(f"{arch}.embedding_length_out must be {width}, the encoder's width, got {width_out}")
    for side in _RELATIVE_BIAS.get(arch, ()):
        if f"{side}.attn_rel_b.weight" not in model.names:
            raise _damaged(f"the tensor {side}.attn_rel_b.weight is missing")
    pooling = _integer(values, f"{arch}.pooling_type")
    if pooling not in (*enums.PoolingType, _POOLING_UNSPECIFIED):
        raise _damaged(
            f"{arch}.pooling_type must be one of {', '.join(map(str, map(int, enums.PoolingType)))}, got {pooling}"
        )
    model.sections = file.numbers(f"{arch}.rope.dimension_sections")
    size = _integer(values, f"{arch}.attention.key_length") or width // max([1, *heads[:1]])
    model.head_size = _integer(values, f"{arch}.rope.dimension_count", size)


def _integer(values: dict[str, Scalar], key: str, default: int = 0) -> int:
    """An integer; `default`, which is llama.cpp's own, if it is missing or of another type."""
    value = values.get(key, default)
    return value if isinstance(value, int) else default


def _integers(file: GgufFile, values: dict[str, Scalar], key: str) -> list[int]:
    found = [values[key]] if key in values else file.numbers(key) or []
    return [number for number in found if isinstance(number, int)]


def _other_files(first: bytes, values: dict[str, Scalar]) -> Iterable[bytes]:
    """The paths of the other files of a split model, from the path of its first one."""
    count = values.get("split.count", 0)
    if not isinstance(count, int) or not 1 < count <= 0xFFFF:
        return
    size = len(first) + 64
    prefix, path = ffi.new("char[]", size), ffi.new("char[]", size)
    if not lib.llama_split_prefix(prefix, size, first, 0, count):
        return
    for i in range(1, count):
        lib.llama_split_path(path, size, prefix, i, count)
        name = bytes(ffi.string(path))
        if not os.path.exists(name):
            return
        require_regular(name)
        yield name


def check_adapter(path: bytes) -> None:
    """Validate the file of a LoRA adapter. Raises AdapterError if loading it would end the process."""
    with open_gguf(path) as file:
        for tensor in file.tensors() if file else ():
            kind = enums.GgmlType(tensor.type)
            if _is_integer(kind) or tensor.shape[2:] != (1, 1):
                shape = " x ".join(map(str, tensor.shape))
                raise AdapterError(
                    f"the file is damaged: the tensor {tensor.name} must be a matrix of a float or quantized type, got "
                    f"{kind.name} of shape {shape}. Download the file again, or convert the adapter again"
                )


def _damaged(what: str) -> ModelLoadError:
    return ModelLoadError(f"the file is damaged: {what}. Download the file again, or convert the model again")
