"""Validation of projector files (mmproj) before llama.cpp loads them.

Only contents at which ggml would end the process are looked for, as in `llama_cffi/model/validation.py`: those that are
the same for all kinds of projectors, and some of LLaVA's and of Whisper encoders. `untrusted=True` finds the others.
"""

from __future__ import annotations

import re

from llama_cffi._generated import enums
from llama_cffi.errors import ModelLoadError
from llama_cffi.ggml.gguf_native import GgufFile, Scalar, TensorInfo, open_gguf

_FLOATS = (enums.GgmlType.F32, enums.GgmlType.F16, enums.GgmlType.BF16)
_INTEGERS = ("I8", "I16", "I32", "I64", "F64")
_MLP = ("mm.0.weight", "mm.0.bias", "mm.2.weight", "mm.2.bias")
_MLP_NORM = tuple(f"mm.{i}.{part}" for i in (0, 1, 3, 4) for part in ("weight", "bias"))
_LLAVA = ("mlp", "ldp", "ldpv2", "adapter")  # kinds that look up the position of each patch
_STACKING = ("ultravox", "voxtral", "meralion")  # kinds that make one embedding of several frames
_WHISPER = (*_STACKING, "qwen2a", "musicflamingo", "glma")  # kinds with Whisper's encoder
_BIASED = ("qwen2vl_merger", "qwen2.5vl_merger")  # kinds that add biases in the attention
_FRAMES = 3000  # of 30 seconds, after which Whisper's encoder has half as many
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
        names = {tensor.name: tensor for tensor in file.tensors()}
        for tensor in names.values():
            _check_type(tensor)
        endings = ("weight", "bias") if _kind(file, "vision") in _BIASED else ("weight",)
        for found in filter(None, map(_ATTENTION.fullmatch, names)):
            for part in [f"{found[1]}attn_{part}.{ending}" for part in "qkv" for ending in endings]:
                if part not in names:
                    raise _damaged(f"the tensor {part} is missing")
        if "v.position_embd.weight" in names and "v.patch_embd.weight" not in names:
            raise _damaged("the tensor v.patch_embd.weight is missing")
        for kinds, modality in ((_LLAVA, "vision"), (_WHISPER, "audio")):
            name = f"{modality[0]}.position_embd.weight"
            if _kind(file, modality) in kinds and name not in names:
                raise _damaged(f"the tensor {name} is missing")
        _check_llava(file, names)
        _check_stack(file)


def _check_llava(file: GgufFile, tensors: dict[str, TensorInfo]) -> None:
    """Check that LLaVA's projector is whole, and that each patch of an image has a position."""
    kind = _kind(file, "vision")
    if kind == "mlp":
        for name in _MLP_NORM if "mm.3.weight" in tensors else _MLP:
            if name not in tensors:
                raise _damaged(f"the tensor {name} is missing")
    positions = tensors.get("v.position_embd.weight")
    size, patch = (file.scalar(f"clip.vision.{name}_size") for name in ("image", "patch"))
    if kind in _LLAVA and positions is not None and isinstance(size, int) and isinstance(patch, int) and patch > 0:
        needed = (size // patch) ** 2 + ("v.class_embd" in tensors)
        if positions.shape[1] < needed:
            raise _damaged(
                f"v.position_embd.weight must have {needed} rows for images of {size} pixels in patches of {patch}, "
                f"got {positions.shape[1]}"
            )


def _check_stack(file: GgufFile) -> None:
    """Check that llama.cpp counts as many embeddings of a sound as the encoder makes of it."""
    factor = file.scalar("clip.audio.projector.stack_factor")
    if _kind(file, "audio") in _STACKING and isinstance(factor, int):
        if factor < 1 or -(-_FRAMES // factor) // 2 != -(-_FRAMES // 2 // factor):
            raise _damaged(
                f"clip.audio.projector.stack_factor must be a number for which llama.cpp counts right (such as 10), "
                f"got {factor}"
            )


def _kind(file: GgufFile, modality: str) -> Scalar | None:
    return file.scalar("clip.projector_type") or file.scalar(f"clip.{modality}.projector_type")


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
