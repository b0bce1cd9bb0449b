"""How much memory cycles leave behind."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.leaks.cycles import Cycle

_libc = ctypes.CDLL(None)
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks".split()
    ]
    _fields_ += [("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


@dataclass(frozen=True)
class Memory:
    """What the process has: resident bytes, bytes in use of C's heap, blocks in use of Python's."""

    resident: int
    heap: int
    blocks: int

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        gc.collect()  # what destructors of the first round let go
        _libc.malloc_trim(0)
        info = mallinfo2()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        return cls(resident, info.uordblks + info.hblkhd, sys.getallocatedblocks())

    def __sub__(self, earlier: Memory) -> Memory:
        return Memory(self.resident - earlier.resident, self.heap - earlier.heap, self.blocks - earlier.blocks)

    def __floordiv__(self, times: int) -> Memory:
        return Memory(self.resident // times, self.heap // times, self.blocks // times)


def growth(cycle: Cycle, warmup: int, count: int) -> Memory:
    """What `count` cycles leave behind, after some for the caches."""
    for _ in range(warmup):
        cycle()
    before = Memory.now()
    for _ in range(count):
        cycle()
    return Memory.now() - before


mallinfo2 = _libc.mallinfo2
mallinfo2.restype = _Mallinfo
