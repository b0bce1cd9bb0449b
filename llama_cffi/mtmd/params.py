"""Parameters of `Mtmd.Context`."""

from __future__ import annotations

from collections.abc import Callable

from llama_cffi._core.arguments import c_string
from llama_cffi._core.base_types import ProgressCallback
from llama_cffi._core.callbacks import Callback
from llama_cffi._core.checks import expected, function_or_none, out_of_range
from llama_cffi._core.compat import has, require
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._generated.structs import MtmdContextParamsFields
from llama_cffi._host.resources import check_threads, usable_cpus
from llama_cffi.context.compute_callbacks import eval_pointers
from llama_cffi.ggml.device import BackendDevice
from llama_cffi.model.params import PointerField, Progress
from llama_cffi.mtmd.files import require_library, require_str

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Unpack

    from llama_cffi._generated.structs import MtmdContextParamsKeywords

    class _Keywords(MtmdContextParamsKeywords, total=False):
        cbEval: Callable[..., bool | None] | None
        cbEvalData: Any
        device: BackendDevice | None
        mediaMarker: str | None
        progressCallback: ProgressCallback | None
        progressCallbackUserData: Any


_MARKER_LIMIT = 256  # bytes


def _device(value: BackendDevice) -> tuple[BackendDevice, Any, Any]:
    if not isinstance(value, BackendDevice):
        raise expected("a Ggml.BackendDevice or None", value, "Ggml.Backend.devices() lists them", "device")
    return value, value._c, None


def _marker(value: str) -> tuple[str, Any, Any]:
    data = c_string(require_str(value, "mediaMarker"), "mediaMarker")
    if not 1 <= len(data) <= _MARKER_LIMIT:
        raise out_of_range("the length of mediaMarker in bytes", len(data), 1, _MARKER_LIMIT)
    memory = ffi.new("char[]", data)
    return value, memory, memory


class MtmdContextParams(MtmdContextParamsFields):
    """Parameters of `Mtmd.Context.initFromFile`. `Mtmd.Context.Params(nThreads=4)` sets fields; the others keep
    llama.cpp's defaults, but for the number of threads.

    Maps to `mtmd_context_params`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **fields: Unpack[_Keywords]) -> None: ...

    device = PointerField[BackendDevice | None]("device", _device)
    """The device to encode on, from `Ggml.Backend.devices()`. None: the first GPU if `useGpu` is True, or the CPU."""
    mediaMarker = PointerField[str | None]("media_marker", _marker)
    """The text that stands for an image or a sound in a prompt. None: `Mtmd.defaultMarker()`."""

    def _set_defaults(self) -> None:
        require_library()
        self._c[0] = lib.mtmd_context_params_default()
        self._c.n_threads = usable_cpus()
        self._c.media_marker = ffi.NULL
        self._c.image_marker = ffi.NULL

    @property
    def progressCallback(self) -> ProgressCallback | None:
        """A function that is called during the load with a number from 0 to 1, and with `progressCallbackUserData`
        unless that is None. If it returns False, the load stops with ModelLoadError. Its exceptions reach the caller.
        """
        function: ProgressCallback | None = self._keep.get("progressCallback")
        return function

    @progressCallback.setter
    def progressCallback(self, value: ProgressCallback | None) -> None:
        if value is not None:
            require("mtmd_context_params.progress_callback")
        self._keep["progressCallback"] = function_or_none(value, "progressCallback")

    @property
    def progressCallbackUserData(self) -> Any:
        """The second argument of `progressCallback`, of any type; None: it is called with one argument."""
        return self._keep.get("progressCallbackUserData")

    @progressCallbackUserData.setter
    def progressCallbackUserData(self, value: Any) -> None:
        self._keep["progressCallbackUserData"] = value

    @property
    def cbEval(self) -> Callable[..., bool | None] | None:
        """Callback for tensors of the encoder's graph: see `Context.Params.cbEval`."""
        function: Callable[..., bool | None] | None = self._keep.get("cbEval")
        return function

    @cbEval.setter
    def cbEval(self, value: Callable[..., bool | None] | None) -> None:
        if value is not None:
            require("mtmd_context_params.cb_eval")
        self._keep["cbEval"] = function_or_none(value, "cbEval")

    @property
    def cbEvalData(self) -> Any:
        """Any object: unless it is None, `cbEval` gets it as the last argument."""
        return self._keep.get("cbEvalData")

    @cbEvalData.setter
    def cbEvalData(self, value: Any) -> None:
        self._keep["cbEvalData"] = value

    def _checked(self) -> None:
        """Raise ValueError for values that llama.cpp would not survive."""
        if not 1 <= self.nThreads <= lib.GGML_MAX_N_THREADS:
            raise out_of_range("nThreads", self.nThreads, 1, lib.GGML_MAX_N_THREADS)
        check_threads("nThreads", self.nThreads)

    def _for_c(self) -> tuple[Any, Progress, list[Any]]:
        """Return the struct for C, the progress callback, and what C may read through the struct."""
        struct = ffi.new("struct mtmd_context_params *")
        struct[0] = self._c[0]
        kept: list[Any] = [struct, *self._keep.values()]
        if self.mediaMarker is None:
            struct.media_marker = lib.mtmd_default_marker()
        if has("mtmd_context_params.cb_eval") and has("mtmd_context_params.cb_eval_user_data"):
            struct.cb_eval, struct.cb_eval_user_data, callback = eval_pointers(self.cbEval, self.cbEvalData)
            kept.append(callback)
        progress = Progress(self.progressCallback, self.progressCallbackUserData)
        if has("mtmd_context_params.progress_callback") and has("mtmd_context_params.progress_callback_user_data"):
            stored = Callback(progress)
            struct.progress_callback = ffi.addressof(lib, "shim_on_progress")
            struct.progress_callback_user_data = stored.data
            kept.append(stored)
        return struct, progress, kept
