"""What the API tells about CPU variants and devices, as named tuples. Loading a model does not need them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class CpuVariant(NamedTuple):
    """A build of the CPU backend; `runs` is True if this machine can run it."""

    name: str
    path: Path
    score: int
    """ggml's ranking; 0 if the CPU lacks an instruction set."""
    reason: str
    """Why it cannot run here; empty if it can."""

    @property
    def runs(self) -> bool:
        return not self.reason


class DeviceMemory(NamedTuple):
    """The memory of a device, in bytes."""

    free: int
    total: int


class DeviceCaps(NamedTuple):
    """The capabilities of a device.

    Maps to `ggml_backend_dev_caps`.
    """

    async_: bool
    """It computes asynchronously: the caller continues meanwhile."""
    hostBuffer: bool
    """It has a type of pinned CPU memory, which it reads fast: `hostBufferType()`."""
    bufferFromHostPtr: bool
    """It can use memory that the caller has allocated."""
    events: bool
    """It supports events, for synchronization with other devices."""
    mmapSupport: bool
    """It can use models that are mapped into memory."""
