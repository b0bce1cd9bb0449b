"""Competing load for benchmarks: busy programs beside the measured one, CPU quotas, and fewer CPUs.

Everything here ends with the benchmark: busy programs are killed at the end of their `with` block, end by themselves
after a time limit, and also when the benchmark's process is gone. The control group of a quota is removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

LIMIT_S = 300.0
"""The longest life of a busy program in seconds."""

# One busy program: it prints a line when it runs. Ctrl-C reaches the benchmark, which then ends this program.
_SPIN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
end, parent = time.monotonic() + float(sys.argv[1]), int(sys.argv[2])
print(flush=True)
while time.monotonic() < end and os.getppid() == parent:
    for _ in range(20_000):
        pass
"""

PERIOD_US = 100_000
"""The period of a quota in microseconds, as Docker sets it."""


class QuotaError(RuntimeError):
    """A CPU quota cannot be set here; the message says why."""


@contextmanager
def busy_programs(count: int, limit_s: float = LIMIT_S) -> Iterator[list[int]]:
    """Context manager: `count` programs that each keep one CPU busy. Yields their process IDs, when all of them run."""
    command = [sys.executable, "-I", "-S", "-c", _SPIN, str(limit_s), str(os.getpid())]
    with ExitStack() as stack:
        programs = []
        for _ in range(count):
            program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            stack.callback(_end, program)
            programs.append(program)
        for program in programs:
            assert program.stdout is not None
            program.stdout.readline()
        yield [program.pid for program in programs]


def _end(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.wait()
    assert program.stdout is not None
    program.stdout.close()


def restrict_cpus(count: int) -> None:
    """Restrict this process and its later children to `count` CPUs. Raises ValueError if there are fewer."""
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cpus):
        raise ValueError(f"the number of CPUs must be between 1 and {len(cpus)}, got {count}")
    os.sched_setaffinity(0, cpus[:count])


@contextmanager
def cpu_quota(cpus: float, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Path]:
    """Context manager: a control group of its own whose processes get this many CPUs, as in `docker run --cpus`.

    Yields the group's folder; `in_group` starts a command in it. All its processes must have ended when the block ends.
    Raises QuotaError if the group cannot be made.
    """
    reasons = []
    for mount, version in _hierarchies(mounts):
        folder = mount / f"llama-cffi-benchmark-{os.getpid()}"
        try:
            _make_group(folder, cpus, version)
        except OSError as error:
            _remove_group(folder)
            reasons.append(f"cgroup v{version}: {error}")
            continue
        try:
            yield folder
        finally:
            _remove_group(folder)
        return
    raise QuotaError("; ".join(reasons) or "no control groups are mounted here")


def _hierarchies(mounts: Path) -> list[tuple[Path, int]]:
    """Where groups with a CPU quota can be made: mount points, each with the version of its control groups."""
    found: list[tuple[Path, int]] = []
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            found.insert(0, (Path(mount), 1))
        elif kind == "cgroup2":
            found.append((Path(mount), 2))
    return found


def _make_group(folder: Path, cpus: float, version: int) -> None:
    quota = max(1000, round(cpus * PERIOD_US))  # the kernel accepts no less
    if version == 2:
        enabled = folder.parent / "cgroup.subtree_control"
        if "cpu" not in enabled.read_text(encoding="ascii").split():
            enabled.write_text("+cpu", encoding="ascii")
    folder.mkdir()
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}", encoding="ascii")
    else:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US), encoding="ascii")
        (folder / "cpu.cfs_quota_us").write_text(str(quota), encoding="ascii")


def _remove_group(folder: Path, patience_s: float = 5.0) -> None:
    """Remove a group. The kernel keeps one for a moment after its last process was waited for."""
    end = time.monotonic() + patience_s
    while folder.is_dir():
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > end:
                print(f"the control group {folder} could not be removed: {error}", file=sys.stderr, flush=True)
                return
            time.sleep(0.05)


def in_group(command: Sequence[str], group: Path | None) -> list[str]:
    """The command line that runs a command in a control group, or in this process's own, and without Ctrl-C."""
    join = "" if group is None else 'echo $$ >"$1/cgroup.procs" && '
    return ["sh", "-c", f"""trap "" INT; {join}shift && exec "$@\"""", "sh", str(group or "-"), *command]
