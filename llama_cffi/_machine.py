"""What the machine has left: asked before something large, because Linux kills a process that takes more."""

from __future__ import annotations

import os
from collections.abc import Iterator

_MEMINFO = "/proc/meminfo"
_GROUPS_OF_PROCESS = "/proc/self/cgroup"
_GROUPS = "/sys/fs/cgroup"


def available_memory() -> int | None:
    """How many bytes this process can still take, swap included; None where the system does not say.

    An upper bound: what other processes take meanwhile is not known. The page cache counts as free: it gives way.
    """
    memory = _numbers(_MEMINFO)
    if "MemAvailable:" not in memory:
        return None
    swap = 1024 * memory.get("SwapFree:", 0)
    return min([1024 * memory["MemAvailable:"] + swap, *_rooms(swap)])


def _rooms(swap: int) -> Iterator[int]:
    """What each control group that this process is in leaves it: version 1, 2, or both."""
    for line in _lines(_GROUPS_OF_PROCESS):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):  # a container sees its own group at the top, whatever the path says
            if controllers:
                room = _room_v1(os.path.join(_GROUPS, "memory", *parts[:depth]), swap)
            else:
                room = _room_v2(os.path.join(_GROUPS, *parts[:depth]), swap)
            if room is not None:
                yield max(0, room)


def _room_v1(group: str, swap: int) -> int | None:
    limit, used = _number(f"{group}/memory.limit_in_bytes"), _number(f"{group}/memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    cached = _numbers(f"{group}/memory.stat")
    return limit - used + cached.get("total_inactive_file", 0) + cached.get("total_active_file", 0) + swap


def _room_v2(group: str, swap: int) -> int | None:
    limit, used = _number(f"{group}/memory.max"), _number(f"{group}/memory.current")
    if limit is None or used is None:
        return None
    cached = _numbers(f"{group}/memory.stat")
    swap_limit = _number(f"{group}/memory.swap.max")
    if swap_limit is not None:
        swap = min(swap, swap_limit - (_number(f"{group}/memory.swap.current") or 0))
    return limit - used + cached.get("inactive_file", 0) + cached.get("active_file", 0) + swap


def _number(path: str) -> int | None:
    """The number that a file holds; None where it holds "max", and where there is no such file."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _numbers(path: str) -> dict[str, int]:
    """Those lines of a file that are a name and a number."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readlines()
    except OSError:
        return []
