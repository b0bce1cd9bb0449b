"""Placement of a model: which devices llama.cpp puts its layers on, and checks of the parameters that say so."""

from __future__ import annotations

from llama_cffi._core.compat import member
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated import enums
from llama_cffi.ggml.backend import Backend
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.model.params import ModelParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_warned = False
_HINT = "Ggml.Backend.devices() lists the devices, and Ggml.Backend.vkLoad() adds those of Vulkan"


def _is_cpu(device: BackendDevice) -> bool:
    return device.type in (enums.GgmlBackendDevType.CPU, enums.GgmlBackendDevType.ACCEL)


def _known(params: ModelParams) -> tuple[BackendDevice, ...]:
    """The devices to choose from.

    If `devices` is not set, llama.cpp may skip some of them: a GPU that two backends list, and integrated GPUs if there
    are others.
    """
    if params.devices is not None:
        return tuple(params.devices)
    return tuple(device for device in Backend.devices() if not _is_cpu(device))


def spread_over(params: ModelParams) -> tuple[BackendDevice, ...]:
    """The devices that layers are placed on, in that order; empty if the CPU runs the whole model."""
    known = _known(params)
    if params.splitMode == enums.SplitMode.NONE:
        return known[params.mainGpu : params.mainGpu + 1] if params.mainGpu >= 0 else ()
    return known


def layers_on_devices(params: ModelParams, n_layer: int) -> int:
    """The number of layers that are placed on other devices than the CPU. `nGpuLayers` counts the output layer too."""
    if all(_is_cpu(device) for device in spread_over(params)):
        return 0
    return n_layer if params.nGpuLayers < 0 else min(max(params.nGpuLayers - 1, 0), n_layer)


def is_on_cpu(params: ModelParams) -> bool:
    """Return True if all weights are in CPU memory."""
    if params.tensorBuftOverrides:
        return False
    return params.nGpuLayers == 0 or all(_is_cpu(device) for device in spread_over(params))


def uses_cpu_alone(params: ModelParams) -> bool:
    """Return True if no computation of the model can be on another device."""
    return not params.tensorBuftOverrides and all(_is_cpu(device) for device in spread_over(params))


def check_offload(params: ModelParams) -> None:
    """Refuse parameters that llama.cpp would ignore silently, fail an assertion at, or reject without a reason."""
    known = _known(params)
    names = ", ".join(device.name for device in known)
    if known and params.splitMode == enums.SplitMode.NONE and params.mainGpu >= len(known):
        raise ValueError(
            f"mainGpu must be between 0 and {len(known) - 1} (or -1: the CPU), got {params.mainGpu}: the devices are "
            f"{names}. {_HINT}"
        )
    shares = list(params.tensorSplit or ())
    while shares and not shares[-1]:
        shares.pop()
    if known and len(shares) > len(known):
        raise ValueError(
            f"tensorSplit must have at most {len(known)} shares, got {len(shares)} shares: the devices are {names}. "
            f"{_HINT}"
        )
    if params.splitMode == enums.SplitMode.ROW:
        _check_rows(known)
    if params.splitMode == member(enums.SplitMode, "TENSOR") and any(_is_cpu(device) for device in known):
        raise ValueError("splitMode=TENSOR cannot use the CPU as a device: leave it out of Model.Params.devices")
    _check_overrides(params)
    if params.nGpuLayers > 0 and params.devices is None and all(map(_is_cpu, known)):
        _warn_of_layers(params.nGpuLayers)


def _warn_of_layers(layers: int) -> None:
    """Warn once in a process that there is no GPU for the layers that were asked for."""
    global _warned
    if _warned or layers == lib.llama_model_default_params().n_gpu_layers:  # of older versions, above 0
        return
    _warned = True
    loadable = "vulkan" in Backend.available()
    step = "call Ggml.Backend.vkLoad() first" if loadable else "make build BACKEND=vulkan adds Vulkan to a checkout"
    from llama_cffi._core.user_warnings import warn

    warn(f"nGpuLayers={layers} has no effect, because no GPU backend is loaded: {step}", RuntimeWarning)


def for_c(params: ModelParams) -> Any:
    """A copy of the C struct. SplitMode.NONE becomes LAYER without GPUs: older versions refuse NONE there."""
    struct = ffi.new("struct llama_model_params *", params._c[0])
    alone = all(_is_cpu(device) for device in _known(params))
    if params.splitMode == enums.SplitMode.NONE and params.mainGpu >= 0 and alone:
        struct.split_mode = enums.SplitMode.LAYER
    return struct


def _check_rows(devices: tuple[BackendDevice, ...]) -> None:
    for device in devices:
        reg = lib.ggml_backend_dev_backend_reg(device._c)
        if lib.ggml_backend_reg_get_proc_address(reg, b"ggml_backend_split_buffer_type") == ffi.NULL:
            raise ValueError(
                f"splitMode=ROW needs a backend that splits tensors by rows; that of {device.name} does not: use "
                "SplitMode.LAYER or SplitMode.TENSOR"
            )


def _check_overrides(params: ModelParams) -> None:
    """Refuse overrides into the memory of a device that the model does not use: others cannot read it."""
    used = () if params.splitMode == member(enums.SplitMode, "TENSOR") else spread_over(params)
    for override in params.tensorBuftOverrides or ():
        buft = override.buft
        if not buft.isHost and buft.getDevice() not in used:
            names = ", ".join(device.name for device in used) or "none"
            raise ValueError(
                f"tensorBuftOverrides puts {override.pattern!r} into memory of type {buft.name}, but this model does "
                f"not use the device of that memory (it uses: {names}): add it to Model.Params.devices"
            )
