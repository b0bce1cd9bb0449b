"""What the machine has left, of memory and of threads: asked before something large, because Linux kills a process that
takes more memory, and OpenMP ends one that cannot start a thread.
"""

from __future__ import annotations

import os
import sys
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
    return min([1024 * memory["MemAvailable:"] + swap, *_cgroup_limits(swap)])


def usable_cpus() -> int:
    """The number of CPUs that this process may use. Every default number of threads comes from here."""
    return len(cpu_affinity())


def cpu_affinity() -> set[int]:
    """The numbers of the CPUs that the scheduler may run this process on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def startable() -> int | None:
    """How many threads this process can still start; None where nothing says so."""
    rooms = [_user_room()]
    for group, _ in _groups("pids"):
        limit, used = _number(f"{group}/pids.max"), _number(f"{group}/pids.current")
        rooms.append(None if limit is None or used is None else max(0, limit - used))
    return min((room for room in rooms if room is not None), default=None)


def check_threads(name: str, n: int) -> None:
    """Refuse a number of threads that cannot be started."""
    if n <= (os.cpu_count() or 1):  # what every program does by default
        return
    room = startable()
    if room is not None and n - 1 > room:  # the caller's own thread is one of them
        raise ValueError(
            f"{name} is {n}, but this process may start {room} more threads: use fewer, or raise the limit (ulimit -u, "
            "or pids.max of its control group)"
        )


def _user_room() -> int | None:
    """What RLIMIT_NPROC leaves; it counts the threads of all processes of the user, and does not bind root."""
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.geteuid() == 0 or not sys.platform.startswith("linux"):
        return None
    used, user = 0, os.getuid()
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == user:
                used += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:  # it has ended meanwhile
            pass
    return max(limit - used, 0)


def _groups(controller: str) -> Iterator[tuple[str, bool]]:
    """The control groups that this process is in, for a controller, and whether each is of version 1."""
    for line in _lines(_GROUPS_OF_PROCESS):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):  # a container sees its own group at the top, whatever the path says
            top = os.path.join(_GROUPS, controller) if controllers else _GROUPS
            yield os.path.join(top, *parts[:depth]), bool(controllers)


def _cgroup_limits(swap: int) -> Iterator[int]:
    """What memory each control group leaves this process."""
    for group, first in _groups("memory"):
        room = _room_v1(group, swap) if first else _room_v2(group, swap)
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
