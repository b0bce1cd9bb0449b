"""Struct fields that this version of llama.cpp lacks or spells differently; used by `_generated/structs.py`."""

from __future__ import annotations

from llama_cffi._core.compat import raise_unavailable
from llama_cffi._core.structs import EnumField, Field, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import IntEnum
    from typing import Any, TypeVar

    E = TypeVar("E", bound=IntEnum)
    T = TypeVar("T")
else:
    E = T = object


class AbsentField(Field[T]):
    """A field that this llama.cpp lacks. Its value says how this llama.cpp behaves, and cannot be set."""

    def __init__(self, c_name: str, value: T, versions: str) -> None:
        super().__init__(c_name)
        self.value = value
        self.versions = versions

    def _read(self, instance: Struct) -> T:
        return self.value

    def __set__(self, instance: Struct, value: T) -> None:
        raise_unavailable(self.c_name, self.versions)


class LoadModeField(EnumField[E]):
    """`load_mode`, for older versions with a boolean for each mode."""

    def _read(self, instance: Struct) -> E:
        kind: Any = self.kind
        kept: E | None = instance._keep.get("loadMode")
        if kept is not None:
            return kept
        if instance._c.use_mmap:
            result: E = kind.MMAP_MLOCK if instance._c.use_mlock else kind.AUTO
        else:
            result = kind.MLOCK if instance._c.use_mlock else kind.NONE
        return result

    def __set__(self, instance: Struct, value: E) -> None:
        kind: Any = self.kind
        mode = kind(self._to_c(value))
        if mode == kind.DIRECT_IO and not hasattr(instance._c, "use_direct_io"):
            raise_unavailable("llama_load_mode.DIRECT_IO", "0.3.20 or later")
        if hasattr(instance._c, "use_direct_io"):
            instance._c.use_direct_io = mode == kind.DIRECT_IO
        instance._c.use_mmap = mode in (kind.AUTO, kind.MMAP, kind.MMAP_MLOCK)
        instance._c.use_mlock = mode in (kind.MLOCK, kind.MMAP_MLOCK)
        instance._keep["loadMode"] = mode


class FlashAttnTypeField(EnumField[E]):
    """`flash_attn_type`, for older versions with on and off only: AUTO means off."""

    def _read(self, instance: Struct) -> E:
        kind: Any = self.kind
        kept: E | None = instance._keep.get("flashAttnType")
        result: E = kept if kept is not None else kind.ENABLED if instance._c.flash_attn else kind.DISABLED
        return result

    def __set__(self, instance: Struct, value: E) -> None:
        kind: Any = self.kind
        mode = kind(self._to_c(value))
        instance._c.flash_attn = mode == kind.ENABLED
        instance._keep["flashAttnType"] = mode
