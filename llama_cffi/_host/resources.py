"""Free memory, CPUs and startable threads of this process, with the limits of control groups (cgroups).

They are checked before large requests: Linux kills a process that uses too much memory, and OpenMP ends one that cannot
start a thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

_MEMINFO = "/proc/meminfo"
_PROCESS_CGROUPS = "/proc/self/cgroup"
_CGROUPS = "/sys/fs/cgroup"
_CPUS = "/sys/devices/system/cpu"


def available_memory() -> int | None:
    """Return the bytes that this process can still allocate, with swap; None if unknown.

    An upper bound: other processes may allocate meanwhile. The page cache counts as free, because it can be evicted.
    """
    memory = _numbers(_MEMINFO)
    if "MemAvailable:" not in memory:
        return None
    swap = 1024 * memory.get("SwapFree:", 0)
    return min([1024 * memory["MemAvailable:"] + swap, *_cgroup_limits(swap)])


class CpuLimits:
    """What limits the CPUs of this process."""

    def __init__(self, present: int, allowed: int, cores: int, quota: float | None, tasks: int | None) -> None:
        self.present = present
        """CPUs of the machine that are online."""
        self.allowed = allowed
        """Those that the process may run on (its affinity)."""
        self.cores = cores
        """Physical cores among those: hyper-threads of a core count once."""
        self.quota = quota
        """CPU time that control groups allow, in CPUs, as `docker --cpus=1.5` sets it; None without a quota."""
        self.tasks = tasks
        """Threads that the pids limit of control groups allows, with the present one; None without a limit."""

    @property
    def usable(self) -> int:
        """The number of CPUs that threads can be busy on all the time, at least 1."""
        limits = [self.cores, self.cores if self.quota is None else int(self.quota + 0.25)]
        return max(1, min(limits if self.tasks is None else [*limits, self.tasks]))

    @property
    def reason(self) -> str:
        """The limit that decides, in words."""
        n = self.usable
        if self.tasks is not None and n == self.tasks < self.cores:
            return f"the process may start {n - 1} more threads (pids.max of its control group)"
        if n < self.cores and self.quota is not None:
            return f"the control group allows {self.quota:.4g} CPUs"
        if n < self.allowed:
            return f"{n} physical cores; more threads than cores are slower"
        if n < self.present:
            return f"the process may run on {n} of the {self.present} CPUs (affinity)"
        return "all CPUs of the machine"


def cpu_limits() -> CpuLimits:
    """Return what limits the CPUs of this process now."""
    allowed = cpu_affinity()
    cores = {"".join(_lines(f"{_CPUS}/cpu{cpu}/topology/thread_siblings_list")) or str(cpu) for cpu in allowed}
    quota = min(_cgroup_quotas(), default=None)
    more = min(_group_threads(), default=None)
    tasks = None if more is None else more + 1
    return CpuLimits(max(os.cpu_count() or 1, len(allowed)), len(allowed), len(cores), quota, tasks)


def usable_cpus() -> int:
    """Return the number of threads that can compute at once. The default of contexts, the Engine, the Embedder, the
    RPC worker and the commands."""
    return cpu_limits().usable


def cpu_affinity() -> set[int]:
    """Return the numbers of the CPUs that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def startable() -> int | None:
    """Return the number of threads that this process can still start; None if there is no limit."""
    user = _user_limit()
    return min([*_group_threads(), *([] if user is None else [user])], default=None)


def check_threads(name: str, n: int) -> None:
    """Raise ValueError if this process cannot start `n` threads."""
    if n <= (os.cpu_count() or 1):  # common, and the check is slow
        return
    limit = startable()
    if limit is not None and n - 1 > limit:  # the calling thread is one of them
        raise ValueError(
            f"{name} must be at most {limit + 1}, got {n}: this process may start {limit} more threads. To use more, "
            "raise the limit (ulimit -u, or pids.max of its control group)"
        )


def _user_limit() -> int | None:
    """The threads that RLIMIT_NPROC still allows. It counts those of all processes of the user; root has no limit."""
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.geteuid() == 0 or not sys.platform.startswith("linux"):
        return None
    used, user = 0, os.getuid()
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == user:
                used += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:  # the process has ended meanwhile
            pass
    return max(limit - used, 0)


def _cgroups(controller: str) -> Iterator[tuple[str, bool]]:
    """The folders of this process's control groups for a controller; True with those of cgroup version 1."""
    for line in _lines(_PROCESS_CGROUPS):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):  # in a container, its own group is at the top, whatever the path is
            top = os.path.join(_CGROUPS, controller) if controllers else _CGROUPS
            yield os.path.join(top, *parts[:depth]), bool(controllers)


def _cgroup_limits(swap: int) -> Iterator[int]:
    """The bytes that each control group still allows."""
    for group, is_v1 in _cgroups("memory"):
        limit = _limit_v1(group, swap) if is_v1 else _limit_v2(group, swap)
        if limit is not None:
            yield max(0, limit)


def _limit_v1(group: str, swap: int) -> int | None:
    limit, used = _number(f"{group}/memory.limit_in_bytes"), _number(f"{group}/memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    cached = _numbers(f"{group}/memory.stat")
    return limit - used + cached.get("total_inactive_file", 0) + cached.get("total_active_file", 0) + swap


def _limit_v2(group: str, swap: int) -> int | None:
    limit, used = _number(f"{group}/memory.max"), _number(f"{group}/memory.current")
    if limit is None or used is None:
        return None
    cached = _numbers(f"{group}/memory.stat")
    swap_limit = _number(f"{group}/memory.swap.max")
    if swap_limit is not None:
        swap = min(swap, swap_limit - (_number(f"{group}/memory.swap.current") or 0))
    return limit - used + cached.get("inactive_file", 0) + cached.get("active_file", 0) + swap


def _group_threads() -> Iterator[int]:
    """The threads that each control group still allows to start."""
    for group, _ in _cgroups("pids"):
        limit, used = _number(f"{group}/pids.max"), _number(f"{group}/pids.current")
        if limit is not None and used is not None:
            yield max(0, limit - used)


def _cgroup_quotas() -> Iterator[float]:
    """The CPU time that each control group allows, in CPUs."""
    for group, is_v1 in _cgroups("cpu"):
        if is_v1:
            quota, period = _number(f"{group}/cpu.cfs_quota_us"), _number(f"{group}/cpu.cfs_period_us")
        else:
            words = "".join(_lines(f"{group}/cpu.max")).split()
            quota, period = (int(word) if word.isdigit() else None for word in (words + ["", ""])[:2])
        if quota and period:
            yield quota / period


def _number(path: str) -> int | None:
    """The number in a file; None if it contains "max" or does not exist."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _numbers(path: str) -> dict[str, int]:
    """The lines of a file that consist of a name and a number."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readlines()
    except OSError:
        return []
