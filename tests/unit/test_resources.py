"""The memory that is left, of the machine and of the control groups of a process; and the CPUs to use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llama_cffi
from llama_cffi._host import resources

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1000 MiB free and 100 MiB of swap, made of files."""
    for name, path in (("_MEMINFO", "meminfo"), ("_PROCESS_CGROUPS", "cgroup"), ("_CGROUPS", "groups")):
        monkeypatch.setattr(resources, name, str(tmp_path / path))
    (tmp_path / "meminfo").write_text("MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\nSwapFree: 102400 kB\n")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name.replace('__', '.')}").write_text(text)


def test_this_machine() -> None:
    available = resources.available_memory()
    assert available is not None and 0 < available < 1 << 50


def test_memory_and_swap(machine: Path) -> None:
    assert resources.available_memory() == 1100 * MIB


def test_where_the_system_does_not_say(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert resources.available_memory() is None


def test_control_groups_version_2(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/user/app\n")
    group = machine / "groups" / "user" / "app"
    write(group, max="max\n", current="1\n", stat="inactive_file 5\n")
    assert resources.available_memory() == 1100 * MIB
    write(group, max=f"{300 * MIB}\n", current=f"{250 * MIB}\n", stat=f"inactive_file {50 * MIB}\nanon 7\n")
    assert resources.available_memory() == 200 * MIB  # with the cache, and all of the swap
    write(group, swap__max=f"{30 * MIB}\n", swap__current=f"{10 * MIB}\n")
    assert resources.available_memory() == 120 * MIB
    write(machine / "groups" / "user", max=f"{300 * MIB}\n", current=f"{400 * MIB}\n", swap__max="0\n")
    assert resources.available_memory() == 0  # the group above has nothing left


def test_control_groups_version_1(machine: Path) -> None:
    (machine / "cgroup").write_text("5:cpu:/x\n4:memory:/not/seen/here\n0::/\n")
    stat = f"total_active_file {10 * MIB}\n"
    write(machine / "groups" / "memory", limit_in_bytes=f"{64 * MIB}\n", usage_in_bytes=f"{32 * MIB}\n", stat=stat)
    assert resources.available_memory() == 142 * MIB


def test_the_affinity_limits_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert resources.usable_cpus() == 2
    assert resources.cpu_affinity() == {3, 5}


@pytest.fixture
def cpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That machine, with eight CPUs, two on each core, all of which the process may use."""
    monkeypatch.setattr(resources, "_CPUS", str(machine / "cpu"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for cpu in range(8):
        folder = machine / "cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    return machine


def test_hyper_threads_count_once(cpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resources.cpu_limits()
    assert (limits.present, limits.allowed, limits.cores, limits.quota, limits.usable) == (8, 8, 4, None, 4)
    assert "4 physical cores" in limits.reason
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6})
    limits = resources.cpu_limits()
    assert (limits.allowed, limits.cores, limits.usable) == (3, 2, 2)


def test_without_a_topology_each_cpu_is_a_core(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_CPUS", str(machine / "none"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    limits = resources.cpu_limits()
    assert (limits.cores, limits.usable) == (3, 3)
    assert "3 of the 4 CPUs" in limits.reason


@pytest.mark.parametrize(
    ("quota", "usable"), [("150000", 1), ("50000", 1), ("190000", 2), ("200000", 2), ("380000", 4), ("900000", 4)]
)
def test_quota_of_control_groups_version_2(cpus: Path, quota: str, usable: int) -> None:
    (cpus / "cgroup").write_text("0::/user/app\n")
    group = cpus / "groups" / "user" / "app"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    assert resources.cpu_limits().quota is None and resources.usable_cpus() == 4
    (group / "cpu.max").write_text(f"{quota} 100000\n")
    limits = resources.cpu_limits()
    assert limits.quota == int(quota) / 100000 and limits.usable == usable
    assert ("control group" in limits.reason) == (usable < 4)
    (group.parent / "cpu.max").write_text("100000 100000\n")  # the group above allows less
    assert resources.usable_cpus() == 1


def test_quota_of_control_groups_version_1(cpus: Path) -> None:
    (cpus / "cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n")
    group = cpus / "groups" / "cpu" / "x"
    group.mkdir(parents=True)
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert resources.cpu_limits().quota is None
    (group / "cpu.cfs_quota_us").write_text("300000\n")
    assert resources.cpu_limits().quota == 3 and resources.usable_cpus() == 3


def test_the_default_never_starts_more_threads_than_the_group_allows(cpus: Path) -> None:
    """OpenMP ends a process that cannot start a thread."""
    (cpus / "cgroup").write_text("8:pids:/x\n")
    group = cpus / "groups" / "pids" / "x"
    group.mkdir(parents=True)
    (group / "pids.max").write_text("max\n")
    (group / "pids.current").write_text("5\n")
    assert resources.usable_cpus() == 4
    for limit, usable in (("100", 4), ("7", 3), ("6", 2), ("5", 1), ("3", 1)):
        (group / "pids.max").write_text(f"{limit}\n")
        limits = resources.cpu_limits()
        assert limits.usable == usable
        assert ("pids.max" in limits.reason) == (usable < 4)


def test_one_module_counts_the_cpus() -> None:
    package = Path(llama_cffi.__file__).parent
    counting = [
        str(file.relative_to(package))
        for file in sorted(package.rglob("*.py"))
        if any(name in file.read_text(encoding="utf-8") for name in ("sched_getaffinity", "cpu_count"))
    ]
    assert counting == ["_host/resources.py"]


def test_the_stack_per_byte_of_an_instrumented_build() -> None:
    code = "from llama_cffi._core import large_stack as s; print(s.TOKENIZER_STACK_PER_BYTE, s.TRIGGER_ANY_STACK)"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "LLAMA_CFFI_STACK_SCALE": scale},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.split()
        for scale in ("1", "16")
    ]
    (plain, text), (instrumented, less_text) = printed
    assert int(instrumented) == 16 * int(plain) and int(text) == 16 * int(less_text)
