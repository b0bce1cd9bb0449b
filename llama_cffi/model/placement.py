"""Where a model goes: the devices that llama.cpp would spread it over, and which parameters do not fit them."""

from __future__ import annotations

from typing import Any

from llama_cffi._core.compat import member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.enums import GgmlBackendDevType, SplitMode
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.model.params import ModelParams

_OF_THE_CPU = (GgmlBackendDevType.CPU, GgmlBackendDevType.ACCEL)
_LISTED = "Ggml.Backend.devices() lists the devices, and Ggml.Backend.vkLoad() adds those of Vulkan"


def _known(params: ModelParams) -> tuple[BackendDevice, ...]:
    """The devices to choose from. Where `devices` is not set, llama.cpp may leave out some of these: a GPU that two
    backends list, and integrated ones beside others.
    """
    if params.devices is not None:
        return tuple(params.devices)
    return tuple(device for device in Backend.devices() if device.type not in _OF_THE_CPU)


def spread_over(params: ModelParams) -> tuple[BackendDevice, ...]:
    """The devices that take layers, in the order in which they do; none where the CPU runs the whole model."""
    known = _known(params)
    if params.splitMode == SplitMode.NONE:
        return known[params.mainGpu : params.mainGpu + 1] if params.mainGpu >= 0 else ()
    return known


def layers_on_devices(params: ModelParams, n_layer: int) -> int:
    """How many of a model's layers are on devices other than the CPU. The last of `nGpuLayers` is the output."""
    if all(device.type in _OF_THE_CPU for device in spread_over(params)):
        return 0
    return n_layer if params.nGpuLayers < 0 else min(max(params.nGpuLayers - 1, 0), n_layer)


def is_on_cpu(params: ModelParams) -> bool:
    """Whether all weights are in the CPU's memory."""
    if params.tensorBuftOverrides:
        return False
    return params.nGpuLayers == 0 or all(device.type in _OF_THE_CPU for device in spread_over(params))


def check_offload(params: ModelParams) -> None:
    """Refuse what llama.cpp would ignore without a word, answer with an assertion, or fail at with less of a reason."""
    known = _known(params)
    names = ", ".join(device.name for device in known)
    if known and params.splitMode == SplitMode.NONE and params.mainGpu >= len(known):
        raise ValueError(
            f"mainGpu must be between 0 and {len(known) - 1} (or -1: the CPU), got {params.mainGpu}: the devices are "
            f"{names}. {_LISTED}"
        )
    shares = list(params.tensorSplit or ())
    while shares and not shares[-1]:
        shares.pop()
    if known and len(shares) > len(known):
        raise ValueError(
            f"tensorSplit has {len(shares)} shares, and the devices are {names}: give at most {len(known)}. {_LISTED}"
        )
    if params.splitMode == SplitMode.ROW:
        _check_rows(known)
    if params.splitMode == member(SplitMode, "TENSOR") and any(device.type in _OF_THE_CPU for device in known):
        raise ValueError("splitMode is TENSOR, which takes the CPU for no device: leave it out of Model.Params.devices")
    _check_overrides(params)


def for_c(params: ModelParams) -> Any:
    """A copy of the struct. Older versions refuse SplitMode.NONE where there is no device: nothing to split there."""
    struct = ffi.new("struct llama_model_params *", params._c[0])
    alone = all(device.type in _OF_THE_CPU for device in _known(params))
    if params.splitMode == SplitMode.NONE and params.mainGpu >= 0 and alone:
        struct.split_mode = SplitMode.LAYER
    return struct


def _check_rows(devices: tuple[BackendDevice, ...]) -> None:
    for device in devices:
        reg = lib.ggml_backend_dev_backend_reg(device._c)
        if lib.ggml_backend_reg_get_proc_address(reg, b"ggml_backend_split_buffer_type") == ffi.NULL:
            raise ValueError(
                f"splitMode is ROW, and the backend of {device.name} does not split tensors by their rows: use "
                "SplitMode.LAYER, or SplitMode.TENSOR"
            )


def _check_overrides(params: ModelParams) -> None:
    """Tensors in the memory of a device that does not compute with the model are out of everybody's reach."""
    used = () if params.splitMode == member(SplitMode, "TENSOR") else spread_over(params)
    for override in params.tensorBuftOverrides or ():
        buft = override.buft
        if not buft.isHost and buft.getDevice() not in used:
            names = ", ".join(device.name for device in used) or "none"
            raise ValueError(
                f"tensorBuftOverrides puts {override.pattern!r} into memory of type {buft.name}, whose device does not "
                f"run this model (devices that do: {names}): name it in Model.Params.devices too"
            )
