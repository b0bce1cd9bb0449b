"""What this process may still take of the machine: beyond these limits, Linux or OpenMP would end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator


def startable() -> int | None:
    """How many threads the process may still start, at this moment; None where nothing says so."""
    rooms = [room for room in (*_cgroup_room("pids.max", "pids.current"), _user_room()) if room is not None]
    return min(rooms, default=None)


def check_threads(name: str, n: int) -> None:
    """Refuse a number of threads that cannot be started: OpenMP would end the process instead of failing."""
    if n <= (os.cpu_count() or 1):  # what every program does by default
        return
    room = startable()
    if room is not None and n - 1 > room:  # the caller's own thread is one of them
        raise ValueError(
            f"{name} is {n}, but this process may start {room} more threads: use fewer, or raise the limit (ulimit -u, "
            "or pids.max of its cgroup)"
        )


def available_memory() -> int | None:
    """How many bytes the process can still fill, with swap; None where nothing says so."""
    rooms = list(_cgroup_room("memory.max", None))
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = dict(line.split(":", 1) for line in lines)
        rooms.append(1024 * (_number(sizes["MemAvailable"]) + _number(sizes["SwapFree"])))
    except (OSError, KeyError, ValueError):
        pass
    return min(rooms, default=None)


def _number(text: str) -> int:
    return int(text.split()[0])


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


def _cgroup_room(limit_name: str, used_name: str | None) -> Iterator[int]:
    """What each cgroup (version 2) around the process leaves."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            path = next(line[3:].strip() for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    folder = f"/sys/fs/cgroup{path}"
    while folder.startswith("/sys/fs/cgroup"):
        limit = _read(f"{folder}/{limit_name}")
        used = _read(f"{folder}/{used_name}") if used_name else 0
        if limit is not None and used is not None:
            yield max(limit - used, 0)
        folder = os.path.dirname(folder.rstrip("/"))


def _read(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # not there, or "max"
        return None
