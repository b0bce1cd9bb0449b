"""`Model.Params`: checks values, and builds and keeps the C memory that llama.cpp reads through pointers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from llama_cffi._core.arguments import c_string
from llama_cffi._core.base_types import ProgressCallback
from llama_cffi._core.callbacks import Callback
from llama_cffi._core.checks import expected, out_of_range
from llama_cffi._core.compat import has, require
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.structs import FLOAT_MAX, Field, Struct, T
from llama_cffi._generated import enums
from llama_cffi._generated.structs import ModelParamsFields
from llama_cffi.ggml.device import BackendBufferType, BackendDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
    from typing import Any
else:
    from llama_cffi._core.stand_ins import dataclass

KvOverrides = Mapping[str, bool | int | float | str]

_INFINITE = float("inf")
_MAX_STRING_BYTES = 127  # of keys and strings in kvOverrides
_MAX_DEVICES = 14  # llama.cpp's scheduler takes 16 backends, with that of the CPU
_MAX_LAYERS = 512
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass()
class TensorBuftOverride:
    """Puts tensors into a type of memory: those with a name that the regular expression `pattern` finds.

    Maps to `llama_model_tensor_buft_override`.
    """

    pattern: str
    buft: BackendBufferType

    def __init__(self, pattern: str, buft: BackendBufferType) -> None:
        self.pattern = pattern
        self.buft = buft


class PointerField(Field[T]):
    """A field that C reads through a pointer; None is NULL.

    `build` checks a value and returns three things: the value to read back, the pointer, and the memory to keep alive.
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
    """Calls a progress callback with or without user data. `stopped` is True if it stopped the load."""

    def __init__(self, function: Callable[..., Any] | None, data: object) -> None:
        self.function = function
        self.data = data
        self.stopped = False

    def __call__(self, progress: float) -> bool:
        if self.function is None:
            return True  # even an empty call lets Python handle Ctrl-C
        arguments = (progress,) if self.data is None else (progress, self.data)
        answer = self.function(*arguments)
        self.stopped = answer is not None and not answer
        return not self.stopped


def _devices(value: Sequence[BackendDevice]) -> tuple[tuple[BackendDevice, ...], Any, Any]:
    devices = tuple(value)
    for device in devices:
        if not isinstance(device, BackendDevice):
            raise expected("a Ggml.BackendDevice", device, "Ggml.Backend.devices() lists them", "devices")
    if len(set(devices)) < len(devices):
        raise ValueError("devices must not contain a device twice")
    if len(devices) > _MAX_DEVICES:
        raise ValueError(f"devices must have at most {_MAX_DEVICES} entries, got {len(devices)}")
    array = ffi.new("ggml_backend_dev_t[]", [device._c for device in devices] + [ffi.NULL])
    return devices, array, array


def _buft_overrides(value: Sequence[TensorBuftOverride]) -> tuple[tuple[TensorBuftOverride, ...], Any, Any]:
    overrides = tuple(value)
    most = lib.llama_max_tensor_buft_overrides() - 1  # the last one ends the list
    if len(overrides) > most:
        raise ValueError(f"tensorBuftOverrides must have at most {most} entries, got {len(overrides)}")
    array = ffi.new("struct llama_model_tensor_buft_override[]", len(overrides) + 1)
    names = []
    for entry, override in zip(array, overrides, strict=False):
        if not isinstance(override, TensorBuftOverride):
            hint = "TensorBuftOverride(pattern, device.bufferType()) makes one"
            raise expected("a TensorBuftOverride", override, hint, "tensorBuftOverrides")
        if not isinstance(override.buft, BackendBufferType):
            hint = "device.bufferType() returns one"
            raise expected("a Ggml.BackendBufferType", override.buft, hint, "buft of tensorBuftOverrides")
        names.append(ffi.new("char[]", c_string(override.pattern, "pattern")))
        entry.pattern, entry.buft = names[-1], override.buft._c
    return overrides, array, (array, names)


def _tensor_split(value: Sequence[float]) -> tuple[tuple[float, ...], Any, Any]:
    shares = tuple(float(share) for share in value)
    most = lib.llama_max_devices()
    if len(shares) > most:
        raise ValueError(f"tensorSplit must have at most {most} shares, got {len(shares)}: one for each device")
    for share in shares:
        if not 0 <= share < _INFINITE:
            raise ValueError(f"the shares of tensorSplit must be finite and at least 0, got {share}")
    if sum(shares) > FLOAT_MAX:
        raise ValueError(
            f"the sum of tensorSplit must be at most {FLOAT_MAX}, got {sum(shares)}: only the ratio counts"
        )
    array = ffi.new("float[]", most)  # C reads all of them
    array[0 : len(shares)] = shares
    return shares, array, array


def kv_overrides(value: KvOverrides) -> tuple[KvOverrides, Any, Any]:
    """Build the C array of a dict of metadata; for `PointerField`."""
    if not isinstance(value, Mapping):
        raise expected("a dict of metadata keys and values", value, name="kvOverrides")
    overrides = dict(value)
    array = ffi.new("struct llama_model_kv_override[]", len(overrides) + 1)  # an empty key ends the list
    for entry, (key, item) in zip(array, overrides.items(), strict=False):
        if not key:
            raise ValueError("a key of kvOverrides is empty")
        entry.key = _short(key, "a key of kvOverrides")
        _check_override(key, item)
        if isinstance(item, bool):
            entry.tag, entry.val_bool = enums.ModelKvOverrideType.BOOL, item
        elif isinstance(item, int):
            if not -(1 << 63) <= item < 1 << 63:
                raise out_of_range(f"kvOverrides[{key!r}]", item, -(1 << 63), (1 << 63) - 1)
            entry.tag, entry.val_i64 = enums.ModelKvOverrideType.INT, item
        elif isinstance(item, float):
            entry.tag, entry.val_f64 = enums.ModelKvOverrideType.FLOAT, item
        elif isinstance(item, str):
            entry.tag, entry.val_str = enums.ModelKvOverrideType.STR, _short(item, f"kvOverrides[{key!r}]")
        else:
            raise expected("int, float, bool or str", item, name=f"kvOverrides[{key!r}]")
    return MappingProxyType(overrides), array, array


def _short(text: str, what: str) -> bytes:
    data = c_string(text, what)
    if len(data) > _MAX_STRING_BYTES:
        raise ValueError(f"{what} must have at most {_MAX_STRING_BYTES} bytes of UTF-8, got {len(data)}")
    return data


def _check_override(key: str, value: object) -> None:
    """Refuse values at which llama.cpp would end the process instead of failing the load."""
    if key.endswith(".block_count") and not (isinstance(value, int) and 1 <= value <= _MAX_LAYERS):
        raise out_of_range(f"kvOverrides[{key!r}]", value, 1, _MAX_LAYERS)
    if key.endswith(".rope.scaling.type") and value not in _ROPE_SCALINGS:
        raise ValueError(f"kvOverrides[{key!r}] must be one of {', '.join(_ROPE_SCALINGS)}, got {value!r}")
    if is_epsilon(key) and isinstance(value, float) and not 0 <= value < _INFINITE:
        raise ValueError(f"kvOverrides[{key!r}] must be finite and at least 0, got {value}")


def is_epsilon(key: str) -> bool:
    """Return True if a metadata key names the epsilon of a norm."""
    return key.endswith(("norm_epsilon", "norm_rms_epsilon"))


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
    """Parameters of `Model.load`. `Model.Params(nGpuLayers=0)` changes some of llama.cpp's defaults.

    Maps to `llama_model_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    devices = PointerField[Sequence[BackendDevice] | None]("devices", _devices)
    """The devices to place the model on, from `Ggml.Backend.devices()`. None: every GPU; empty: the CPU alone."""
    tensorBuftOverrides = PointerField[Sequence[TensorBuftOverride] | None]("tensor_buft_overrides", _buft_overrides)
    """Types of memory for single tensors. The first pattern that matches decides."""
    tensorSplit = PointerField[Sequence[float] | None]("tensor_split", _tensor_split)
    """The share of the model for each device, as a ratio: `[3, 1]`. A device without a share gets nothing. None or all
    zeros: by free memory. There must not be more shares than devices. Ignored on the CPU alone.
    """
    kvOverrides = PointerField[KvOverrides | None]("kv_overrides", kv_overrides)
    """Metadata that replaces entries of the file: `{"llama.rope.freq_base": 1e6}`. The type must be that of the entry
    (1e6 for a float). llama.cpp ignores other types and unknown keys, with a warning in its log.
    """

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_model_default_params()

    @property
    def progressCallback(self) -> ProgressCallback | None:
        """A function that is called during the load with a number from 0 to 1, and with `progressCallbackUserData`
        unless that is None. If it returns False, the load stops with ModelLoadError. Its exceptions reach the caller.
        """
        function: ProgressCallback | None = self._keep.get("progressCallback")
        return function

    @progressCallback.setter
    def progressCallback(self, value: ProgressCallback | None) -> None:
        if value is not None and not callable(value):
            raise expected("a function or None", value, name="progressCallback")
        self._keep["progressCallback"] = value
        self._set_progress()

    @property
    def progressCallbackUserData(self) -> Any:
        """The second argument of `progressCallback`, of any type; None: it is called with one argument."""
        return self._keep.get("progressCallbackUserData")

    @progressCallbackUserData.setter
    def progressCallbackUserData(self, value: Any) -> None:
        self._keep["progressCallbackUserData"] = value
        self._set_progress()

    def _set_progress(self, always: bool = False) -> Progress:
        """Point C at the callback. With `always`, at one that does nothing if the user has not set one."""
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
        """A copy that nobody else changes; it keeps the memory that C reads through it."""
        copy = type(self)()
        copy._c[0] = self._c[0]
        copy._keep.update(self._keep)
        return copy

    @property
    def useMmap(self) -> bool:
        """True to map the file into memory instead of reading it. Reads and sets `loadMode`, by default AUTO: maps."""
        return self.loadMode in (enums.LoadMode.AUTO, enums.LoadMode.MMAP, enums.LoadMode.MMAP_MLOCK)

    @useMmap.setter
    def useMmap(self, value: bool) -> None:
        if bool(value) != self.useMmap:
            self._set_load_mode(mmap=bool(value), mlock=self.useMlock)

    @property
    def useMlock(self) -> bool:
        """True to lock the model in physical memory. Reads and sets `loadMode`."""
        return self.loadMode in (enums.LoadMode.MLOCK, enums.LoadMode.MMAP_MLOCK)

    @useMlock.setter
    def useMlock(self, value: bool) -> None:
        if bool(value) != self.useMlock:
            self._set_load_mode(mmap=self.useMmap, mlock=bool(value))

    @property
    def useDirectIo(self) -> bool:
        """True to read the file past the page cache, without mapping or locking it. Reads and sets `loadMode`."""
        return self.loadMode == enums.LoadMode.DIRECT_IO

    @useDirectIo.setter
    def useDirectIo(self, value: bool) -> None:
        if bool(value) != self.useDirectIo:
            self.loadMode = enums.LoadMode.DIRECT_IO if value else enums.LoadMode.AUTO

    def _set_load_mode(self, mmap: bool, mlock: bool) -> None:
        if mmap:
            self.loadMode = enums.LoadMode.MMAP_MLOCK if mlock else enums.LoadMode.MMAP
        else:
            self.loadMode = enums.LoadMode.MLOCK if mlock else enums.LoadMode.NONE
