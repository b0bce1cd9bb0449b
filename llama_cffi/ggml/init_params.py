"""`Ggml.InitParams`: how large a context is, and whether it has memory for data."""

from __future__ import annotations

from llama_cffi._core.arguments import byte_buffer
from llama_cffi._generated.structs import GgmlInitParamsFields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class InitParams(GgmlInitParamsFields):
    """Parameters of `Ggml.init`.

    Maps to `ggml_init_params`.
    """

    __slots__ = ()

    @property
    def memBuffer(self) -> Any:
        """Memory to use, of at least `memSize` bytes: a writable buffer, which the context keeps. None: allocate it."""
        return self._keep.get("memBuffer")

    @memBuffer.setter
    def memBuffer(self, value: Any) -> None:
        if value is None:
            self._keep.pop("memBuffer", None)
            return
        byte_buffer(value, "memBuffer", writable=True)
        self._keep["memBuffer"] = value
