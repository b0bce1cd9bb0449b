"""Validation of projector files (mmproj) before llama.cpp loads them.

Only contents at which ggml would end the process are looked for, as in `llama_cffi/model/validation.py`, and only those
that are the same for all kinds of projectors. `untrusted=True` finds the others.
"""

from __future__ import annotations

import re

from llama_cffi._generated import enums
from llama_cffi.errors import ModelLoadError
from llama_cffi.ggml.gguf_native import TensorInfo, open_gguf

_FLOATS = (enums.GgmlType.F32, enums.GgmlType.F16, enums.GgmlType.BF16)
_INTEGERS = ("I8", "I16", "I32", "I64", "F64")
_ATTENTION = re.compile(r"(.+\.blk\.\d+\.)attn_([qkv])\.weight")


def check_projector(path: bytes) -> None:
    """Raise ModelLoadError if loading or using the file would end the process."""
    with open_gguf(path) as file:
        if file is None:
            return
        for key in file.keys():
            value = file.scalar(key) if key.endswith("epsilon") else None
            if isinstance(value, float) and not 0 <= value < float("inf"):
                raise _damaged(f"{key} must be a finite number of at least 0, got {value}")
        names = set()
        for tensor in file.tensors():
            names.add(tensor.name)
            _check_type(tensor)
        for found in filter(None, map(_ATTENTION.fullmatch, names)):
            for part in ("q", "k", "v"):
                if f"{found[1]}attn_{part}.weight" not in names:
                    raise _damaged(f"the tensor {found[1]}attn_{part}.weight is missing")
        if "v.position_embd.weight" in names and "v.patch_embd.weight" not in names:
            raise _damaged("the tensor v.patch_embd.weight is missing")


def _check_type(tensor: TensorInfo) -> None:
    kind = enums.GgmlType(tensor.type)
    vector = tensor.shape[1:] == (1, 1, 1)
    if kind.name in _INTEGERS:
        raise _damaged(f"the tensor {tensor.name} is of type {kind.name}, which is not a type of weights")
    if vector and kind != enums.GgmlType.F32:
        raise _damaged(f"the tensor {tensor.name} must be of type F32, which the CPU computes with, got {kind.name}")
    if kind not in _FLOATS and not tensor.name.endswith(".weight"):
        raise _damaged(f"the tensor {tensor.name} must be of a float type, got {kind.name}")


def _damaged(what: str) -> ModelLoadError:
    return ModelLoadError(f"the file is damaged: {what}. Download the file again, or convert the projector again")
