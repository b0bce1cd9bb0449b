"""The LoRA adapters of a request, which stay alive until it ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi.errors import NativeError
from llama_cffi.model.adapter import Adapter, require_usable

if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.context.context import Context
    from llama_cffi.model.model import Model

AdapterKey = tuple[tuple[int, float], ...]


class AdapterSet:
    """Adapters, each with its scale. `key` is equal for equal sets, and does not keep the adapters alive.

    Freeing one of the adapters takes effect when the last set with it is gone.
    """

    __slots__ = ("_pins", "_pointers", "_scales", "key", "sources")

    def __init__(self, adapters: dict[Adapter, float]) -> None:
        chosen = sorted((adapter._serial, adapter, scale) for adapter, scale in adapters.items() if scale)
        self.key: AdapterKey = tuple((serial, scale) for serial, _, scale in chosen)
        self._scales = [scale for _, _, scale in chosen]
        self.sources = [(adapter._source, scale) for _, adapter, scale in chosen]  # their files
        self._pins: list[Any] = []
        self._pointers: list[Any] = []
        for _, adapter, _ in chosen:
            pointer, owned = adapter._c, adapter._owned
            pin = None if owned is None else owned.pin()
            if pin is None:  # it was freed meanwhile
                adapter._raise_closed()
            self._pins.append(pin)
            self._pointers.append(pointer)

    @classmethod
    def check(cls, model: Model, adapters: Iterable[tuple[Adapter, float]]) -> AdapterSet:
        """Raises TypeError or ValueError for anything but pairs for this model, ClosedError for a freed adapter."""
        if adapters == ():
            return NO_ADAPTERS
        if isinstance(adapters, (str, bytes)) or not isinstance(adapters, Iterable):
            raise expected("a list of (adapter, scale)", adapters, name="adapters")
        found: dict[Adapter, float] = {}
        for pair in adapters:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"adapters: expected (adapter, scale), got {pair!r}")
            adapter, scale = pair
            require_usable(model, adapter, scale)
            if adapter in found:
                raise ValueError("an adapter is given twice: pass it once, with the sum of its scales")
            found[adapter] = float(scale)
        return cls(found)

    def apply(self, ctx: Context) -> None:
        """Let a context compute with these adapters alone."""
        pointers = ffi.new("struct llama_adapter_lora *[]", self._pointers)
        scales = ffi.new("float[]", self._scales)
        code = ctx._run(lib.llama_set_adapters_lora, pointers, len(self._pointers), scales)
        if code != 0:
            raise NativeError(
                f"llama_set_adapters_lora returned {code}", operation="llama_set_adapters_lora", code=code
            )


NO_ADAPTERS = AdapterSet({})
