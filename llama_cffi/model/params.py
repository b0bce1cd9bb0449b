"""Parameters of models: what C reads through pointers is checked, built and kept alive here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import c_string
from llama_cffi._core.base_types import ProgressCallback
from llama_cffi._core.callbacks import Callback
from llama_cffi._core.checks import out_of_range
from llama_cffi._core.compat import has, require
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.structs import FLOAT_MAX, Field, Struct, T
from llama_cffi._generated.enums import LoadMode, ModelKvOverrideType
from llama_cffi._generated.structs import ModelParamsFields
from llama_cffi.ggml.device import BackendBufferType, BackendDevice

KvOverrides = Mapping[str, bool | int | float | str]

_MMAP = (LoadMode.AUTO, LoadMode.MMAP, LoadMode.MMAP_MLOCK)
_MLOCK = (LoadMode.MLOCK, LoadMode.MMAP_MLOCK)
_KEY_BYTES = 127
_DEVICES = 14  # llama.cpp's scheduler has room for 16 backends, the CPU's among them
_LAYERS = 512
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
EPSILON = re.compile(r"norm(_rms)?_epsilon$")


@dataclass
class TensorBuftOverride:
    """Which type of memory tensors go to: those that the regular expression `pattern` finds in their name.

    Maps to `llama_model_tensor_buft_override`.
    """

    pattern: str
    buft: BackendBufferType


class PointerField(Field[T]):
    """A field that C reads through a pointer; None is NULL. `build` checks a value, and returns what the field is read
    as, the pointer, and the memory behind it.
    """

    def __init__(self, c_name: str, build: Callable[[Any], tuple[T, Any, Any]]) -> None:
        super().__init__(c_name)
        self.build = build

    def _read(self, instance: Struct) -> T:
        value: T = instance._keep.get(self.name, (None,))[0]
        return value

    def __set__(self, instance: Struct, value: T) -> None:
        name = f"{instance._C_TYPE.removeprefix('struct ')}.{self.c_name}"
        if value is None:
            if has(name):
                setattr(instance._c, self.c_name, ffi.NULL)
            instance._keep.pop(self.name, None)
            return
        require(name)
        kept, pointer, memory = self.build(value)
        setattr(instance._c, self.c_name, pointer)
        instance._keep[self.name] = (kept, memory)


class Progress:
    """Calls a progress callback the way the user wrote it, and remembers whether it stopped the load."""

    def __init__(self, function: Callable[..., Any] | None, data: object) -> None:
        self.function = function
        self.data = data
        self.stopped = False

    def __call__(self, progress: float) -> bool:
        if self.function is None:
            return True  # the call alone lets Python handle Ctrl-C
        arguments = (progress,) if self.data is None else (progress, self.data)
        answer = self.function(*arguments)
        self.stopped = answer is not None and not answer
        return not self.stopped


def _devices(value: Sequence[BackendDevice]) -> tuple[tuple[BackendDevice, ...], Any, Any]:
    devices = tuple(value)
    for device in devices:
        if not isinstance(device, BackendDevice):
            raise TypeError(f"devices holds {device!r}: Ggml.Backend.devices() lists what belongs there")
    if len(set(devices)) < len(devices):
        raise ValueError("devices names a device twice")
    if len(devices) > _DEVICES:
        raise ValueError(f"devices has {len(devices)} entries, and llama.cpp takes {_DEVICES} at most")
    array = ffi.new("ggml_backend_dev_t[]", [device._c for device in devices] + [ffi.NULL])
    return devices, array, array


def _buft_overrides(value: Sequence[TensorBuftOverride]) -> tuple[tuple[TensorBuftOverride, ...], Any, Any]:
    overrides = tuple(value)
    most = lib.llama_max_tensor_buft_overrides() - 1  # the last one ends the list
    if len(overrides) > most:
        raise ValueError(f"tensorBuftOverrides has {len(overrides)} entries, and llama.cpp takes {most} at most")
    array = ffi.new("struct llama_model_tensor_buft_override[]", len(overrides) + 1)
    names = []
    for entry, override in zip(array, overrides, strict=False):
        if not isinstance(override, TensorBuftOverride) or not isinstance(override.buft, BackendBufferType):
            raise TypeError(
                f"tensorBuftOverrides holds {override!r}: write TensorBuftOverride(pattern, device.bufferType())"
            )
        names.append(ffi.new("char[]", c_string(override.pattern, "pattern")))
        entry.pattern, entry.buft = names[-1], override.buft._c
    return overrides, array, (array, names)


def _tensor_split(value: Sequence[float]) -> tuple[tuple[float, ...], Any, Any]:
    shares = tuple(float(share) for share in value)
    most = lib.llama_max_devices()
    if len(shares) > most:
        raise ValueError(f"tensorSplit has {len(shares)} shares, but a model is spread over {most} devices at most")
    for share in shares:
        if not (math.isfinite(share) and share >= 0):
            raise ValueError(f"tensorSplit holds {share}: a share is a number from 0, and their ratio counts")
    if sum(shares) > FLOAT_MAX:
        raise ValueError("the shares of tensorSplit add up to more than a float holds: only their ratio counts")
    array = ffi.new("float[]", most)  # C reads as many, whatever was given
    array[0 : len(shares)] = shares
    return shares, array, array


def kv_overrides(value: KvOverrides) -> tuple[KvOverrides, Any, Any]:
    """Build the C array for a dict of metadata; for `PointerField`."""
    if not isinstance(value, Mapping):
        raise TypeError(f"kvOverrides is a dict of metadata names and values, not {type(value).__name__}")
    overrides = dict(value)
    array = ffi.new("struct llama_model_kv_override[]", len(overrides) + 1)  # an empty key ends the list
    for entry, (key, item) in zip(array, overrides.items(), strict=False):
        if not key:
            raise ValueError("a key of kvOverrides is empty")
        entry.key = _short(key, "a key of kvOverrides")
        _check_override(key, item)
        if isinstance(item, bool):
            entry.tag, entry.val_bool = ModelKvOverrideType.BOOL, item
        elif isinstance(item, int):
            if not -(1 << 63) <= item < 1 << 63:
                raise ValueError(f"kvOverrides[{key!r}] is {item}, which 64 bits do not hold")
            entry.tag, entry.val_i64 = ModelKvOverrideType.INT, item
        elif isinstance(item, float):
            entry.tag, entry.val_f64 = ModelKvOverrideType.FLOAT, item
        elif isinstance(item, str):
            entry.tag, entry.val_str = ModelKvOverrideType.STR, _short(item, f"kvOverrides[{key!r}]")
        else:
            raise TypeError(f"kvOverrides[{key!r}] is int, float, bool or str, not {type(item).__name__}")
    return MappingProxyType(overrides), array, array


def _short(text: str, what: str) -> bytes:
    data = c_string(text, what)
    if len(data) > _KEY_BYTES:
        raise ValueError(f"{what} has {len(data)} bytes of UTF-8, and llama.cpp has room for {_KEY_BYTES}")
    return data


def _check_override(key: str, value: object) -> None:
    """Refuse values at which llama.cpp ends the process instead of the load."""
    if key.endswith(".block_count") and not (isinstance(value, int) and 1 <= value <= _LAYERS):
        raise out_of_range(f"kvOverrides[{key!r}]", value, 1, _LAYERS)
    if key.endswith(".rope.scaling.type") and value not in _ROPE_SCALINGS:
        raise ValueError(f"kvOverrides[{key!r}] is one of {', '.join(_ROPE_SCALINGS)}, not {value!r}")
    if EPSILON.search(key) and isinstance(value, float) and not 0 <= value < math.inf:
        raise ValueError(f"kvOverrides[{key!r}] is a number from 0, not {value}")


if TYPE_CHECKING:
    from typing_extensions import Unpack

    from llama_cffi._generated.structs import ModelParamsKeywords

    class _Keywords(ModelParamsKeywords, total=False):
        devices: Sequence[BackendDevice] | None
        tensorBuftOverrides: Sequence[TensorBuftOverride] | None
        tensorSplit: Sequence[float] | None
        kvOverrides: KvOverrides | None
        progressCallback: Callable[..., bool | None] | None
        progressCallbackUserData: Any
        useMmap: bool
        useMlock: bool
        useDirectIo: bool


class ModelParams(ModelParamsFields):
    """How to load a model. `Model.Params(nGpuLayers=0)` sets fields; the others keep llama.cpp's defaults.

    Maps to `llama_model_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    devices = PointerField[Sequence[BackendDevice] | None]("devices", _devices)
    """The devices to spread the model over, from `Ggml.Backend.devices()`. None: every GPU; empty: the CPU alone."""
    tensorBuftOverrides = PointerField[Sequence[TensorBuftOverride] | None]("tensor_buft_overrides", _buft_overrides)
    """Types of memory for certain tensors; the first pattern that matches decides."""
    tensorSplit = PointerField[Sequence[float] | None]("tensor_split", _tensor_split)
    """How much of the model each device takes, as a ratio: `[3, 1]`; devices without a share take nothing. None, or
    zeros alone: by free memory. There may be no more shares than devices. Without effect on the CPU alone.
    """
    kvOverrides = PointerField[KvOverrides | None]("kv_overrides", kv_overrides)
    """Metadata to replace that of the file: `{"llama.rope.freq_base": 1e6}`. The type must be the metadata's (1e6 for a
    float): others, and unknown names, are ignored by llama.cpp with a warning in its log.
    """

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_model_default_params()

    @property
    def progressCallback(self) -> ProgressCallback | None:
        """Called while the model loads, with a number from 0 to 1, and with `progressCallbackUserData` unless that is
        None. Returning False stops the load with a ModelLoadError; what it raises, `Model.load` raises.
        """
        function: ProgressCallback | None = self._keep.get("progressCallback")
        return function

    @progressCallback.setter
    def progressCallback(self, value: ProgressCallback | None) -> None:
        if value is not None and not callable(value):
            raise TypeError(f"progressCallback is a function or None, not {type(value).__name__}")
        self._keep["progressCallback"] = value
        self._set_progress()

    @property
    def progressCallbackUserData(self) -> Any:
        """Any object, to be given to `progressCallback` as its second argument; None for one argument."""
        return self._keep.get("progressCallbackUserData")

    @progressCallbackUserData.setter
    def progressCallbackUserData(self, value: Any) -> None:
        self._keep["progressCallbackUserData"] = value
        self._set_progress()

    def _set_progress(self, always: bool = False) -> Progress:
        """Point C at the callback; with `always`, at one that does nothing if there is none."""
        progress = Progress(self.progressCallback, self.progressCallbackUserData)
        if progress.function is None and not always:
            self._keep.pop("progress", None)
            self._c.progress_callback = ffi.NULL
            self._c.progress_callback_user_data = ffi.NULL
        else:
            callback = self._keep["progress"] = Callback(progress)
            self._c.progress_callback = ffi.addressof(lib, "shim_on_progress")
            self._c.progress_callback_user_data = callback.data
        return progress

    def _copy(self) -> ModelParams:
        """The same parameters, which nobody else changes, and all that C may read through them."""
        copy = type(self)()
        copy._c[0] = self._c[0]
        copy._keep.update(self._keep)
        return copy

    @property
    def useMmap(self) -> bool:
        """Map the file into memory instead of reading it. A view of `loadMode`, which is AUTO by default and maps."""
        return self.loadMode in _MMAP

    @useMmap.setter
    def useMmap(self, value: bool) -> None:
        if bool(value) != self.useMmap:
            self._set_load_mode(mmap=bool(value), mlock=self.useMlock)

    @property
    def useMlock(self) -> bool:
        """Keep the model in physical memory. A view of `loadMode`."""
        return self.loadMode in _MLOCK

    @useMlock.setter
    def useMlock(self, value: bool) -> None:
        if bool(value) != self.useMlock:
            self._set_load_mode(mmap=self.useMmap, mlock=bool(value))

    @property
    def useDirectIo(self) -> bool:
        """Read the file past the page cache, which excludes mapping and locking it. A view of `loadMode`."""
        return self.loadMode == LoadMode.DIRECT_IO

    @useDirectIo.setter
    def useDirectIo(self, value: bool) -> None:
        if bool(value) != self.useDirectIo:
            self.loadMode = LoadMode.DIRECT_IO if value else LoadMode.AUTO

    def _set_load_mode(self, mmap: bool, mlock: bool) -> None:
        if mmap:
            self.loadMode = LoadMode.MMAP_MLOCK if mlock else LoadMode.MMAP
        else:
            self.loadMode = LoadMode.MLOCK if mlock else LoadMode.NONE
