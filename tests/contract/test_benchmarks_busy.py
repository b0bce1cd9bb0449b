"""The benchmark of a busy machine: its load ends in any case, and its processes measure at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import busy, busy_load, busy_sides
from benchmarks.busy_load import QuotaError, busy_programs, cpu_quota, in_group
from benchmarks.busy_sides import Case, LlamaBench, Measured, Side, measure
from benchmarks.llama_bench import MeasurementError

ROOT = Path(__file__).resolve().parents[2]

FAKE_LLAMA_BENCH = """
import sys, time
for number in range(int(sys.argv[1])):
    time.sleep(0.05)
    print('{"samples_ns": [50000000]}', flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def has_ended(pid: int, patience: float = 10) -> bool:
    end = time.monotonic() + patience
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_running(pid)


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11])


def test_busy_programs_compute_and_are_ended() -> None:
    with busy_programs(2) as pids:
        assert len({*pids}) == 2
        end = time.monotonic() + 10
        while not all(cpu_ticks(pid) > 3 for pid in pids) and time.monotonic() < end:
            time.sleep(0.02)
        assert all(cpu_ticks(pid) > 3 for pid in pids)
    assert not any(map(is_running, pids))
    with busy_programs(0) as pids:
        assert pids == []


def test_an_error_ends_busy_programs() -> None:
    with pytest.raises(KeyboardInterrupt):
        with busy_programs(1) as pids:
            raise KeyboardInterrupt
    assert not is_running(pids[0])


def test_busy_programs_end_by_themselves() -> None:
    with busy_programs(1, limit_s=0.2) as pids:
        assert has_ended(pids[0])


def test_ctrl_c_leaves_busy_programs_to_the_benchmark() -> None:
    with busy_programs(1) as pids:
        os.kill(pids[0], signal.SIGINT)
        time.sleep(0.2)
        assert is_running(pids[0])


def test_busy_programs_end_with_a_killed_benchmark() -> None:
    code = """
import os, signal
from benchmarks.busy_load import busy_programs
with busy_programs(1) as pids:
    print(pids[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL
    assert has_ended(int(killed.stdout))


def test_a_command_keeps_its_words_and_ignores_ctrl_c() -> None:
    code = "import signal, sys; print(sys.argv[1:], signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    command = in_group([sys.executable, "-c", code, "a b", "$x", ""], None)
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "['a b', '$x', ''] True"


def test_the_files_of_a_quota(tmp_path: Path) -> None:
    first = tmp_path / "first"
    busy_load._make_group(first, 0.5, version=1)
    assert {file.name: file.read_text() for file in first.iterdir()} == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
    }
    (tmp_path / "cgroup.subtree_control").write_text("memory pids", encoding="ascii")
    second = tmp_path / "second"
    busy_load._make_group(second, 1.25, version=2)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert (second / "cpu.max").read_text() == "125000 100000"


def test_where_quotas_can_be_made(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n"
        "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n",
        encoding="utf-8",
    )
    assert busy_load._hierarchies(mounts) == [
        (Path("/sys/fs/cgroup/cpu,cpuacct"), 1),
        (Path("/sys/fs/cgroup/unified"), 2),
    ]


def test_a_quota_that_cannot_be_set_has_a_reason(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\n", encoding="utf-8")
    with pytest.raises(QuotaError, match="no control groups"), cpu_quota(1, mounts):
        pytest.fail("there is no group")
    mounts.write_text(f"cgroup2 {tmp_path}/missing cgroup2 rw 0 0\n", encoding="utf-8")
    with pytest.raises(QuotaError, match=r"v2.*missing"), cpu_quota(1, mounts):
        pytest.fail("there is no group")


def test_a_quota_holds_its_processes_and_is_removed() -> None:
    try:
        with cpu_quota(0.5) as group:
            command = in_group(["cat", "/proc/self/cgroup"], group)
            assert group.name in subprocess.run(command, capture_output=True, text=True).stdout
            assert group.is_dir()
    except QuotaError as why:
        pytest.skip(f"needs root and control groups: {why}")
    assert not group.exists()


def test_the_number_of_cpus_is_checked() -> None:
    n = len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match=rf"1 and {n}, got {n + 1}"):
        busy_load.restrict_cpus(n + 1)
    code = "import os; from benchmarks.busy_load import *; restrict_cpus(1); print(len(os.sched_getaffinity(0)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout == "1\n"


def facade(case: str, model: Path, **words: object) -> Side:
    given = busy._parse(["--seconds", "0.3", "--margin", "0.1"])
    return busy.facade(case, case, model, given, words)


@pytest.mark.parametrize("case", ["greedy", "engine"])
def test_processes_generate_for_the_same_seconds(case: str, tiny_path: Path) -> None:
    found = measure(facade(case, tiny_path, threads=1, seqs=2), Case("two", processes=2, busy=1), 0.3, 0.1)
    assert len(found.tokens) == len(found.seconds) == 2
    assert all(count > 0 for count in found.tokens) and all(0.3 <= seconds < 10 for seconds in found.seconds)
    assert found.speed == pytest.approx(sum(t / s for t, s in zip(found.tokens, found.seconds, strict=True)))
    assert found.about.get("threads") == (1 if case == "greedy" else None)


def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="greedy"):
        measure(facade("greedy", tmp_path / "missing.gguf", threads=1), Case("idle"), 0.1, 0.0)
    with pytest.raises(MeasurementError, match="ended with status 3"):
        measure(Side("broken", [sys.executable, "-c", "raise SystemExit(3)"]), Case("idle"), 0.1, 0.0)


def test_llama_bench_counts_the_tests_inside(tmp_path: Path) -> None:
    program = tmp_path / "fake.py"
    program.write_text(FAKE_LLAMA_BENCH, encoding="utf-8")
    side = Side("llama-bench", [sys.executable, str(program), "1000"], llama_bench=True)
    found = measure(side, Case("two", processes=2), 0.5, 0.1)
    for tokens, seconds in zip(found.tokens, found.seconds, strict=True):
        tests = tokens // LlamaBench.TOKENS
        assert 1 <= tests <= 10 and tokens % LlamaBench.TOKENS == 0
        assert seconds == pytest.approx(0.05 * tests)


def test_llama_bench_that_ends_early_counts_nothing(tmp_path: Path) -> None:
    program = tmp_path / "fake.py"
    program.write_text(FAKE_LLAMA_BENCH.replace("time.sleep(60)", ""), encoding="utf-8")
    side = Side("llama-bench", [sys.executable, str(program), "1"], llama_bench=True)
    found = measure(side, Case("idle"), 0.2, 0.1)
    assert found.tokens == [0] and found.speed == 0


def test_all_cases_and_sides_take_turns() -> None:
    cases = [Case("idle"), Case("busy", busy=1)]
    sides = [Side(name, []) for name in "abc"]
    found = [(number, case.name, side.name) for number, case, side in busy.turns(cases, sides, 3)]
    assert len(found) == len({*found}) == 18
    firsts = [next(f[1:] for f in found if f[0] == number) for number in (1, 2, 3)]
    assert firsts == [("idle", "a"), ("busy", "b"), ("idle", "c")]


def test_the_cases_of_a_command_line() -> None:
    given = busy._parse(["--at-once", "2", "--busy", "1", "cpus", "5", "--quota", "0.5"])
    assert busy.cases(given, cpus=2) == [
        Case("idle"),
        Case("2 at once", processes=2),
        Case("1 busy program", busy=1),
        Case("2 busy programs", busy=2),
        Case("5 busy programs", busy=5),
        Case("quota of 0.5", quota=0.5),
    ]
    assert [case.name for case in busy.cases(given, cpus=1)].count("1 busy program") == 1


def test_ratios_compare_the_same_round() -> None:
    fast = [Measured([100 * n], [1.0], {}, n) for n in (1, 2, 3)]
    slow = [Measured([10 * n, 10 * n], [1.0, 1.0], {}, n) for n in (2, 3)]
    assert busy.ratio(slow, fast) == pytest.approx(0.2)
    assert busy.ratio([], fast) is None and busy.median([]) is None
    assert busy.ratio(fast, [replace(each, tokens=[0]) for each in fast]) is None
    lines = busy.tables({"idle": {"default": fast, "one": fast}, "busy": {"default": slow, "one": []}})
    text = "\n".join(lines)
    assert "0.200" in text and "200.0" in text and "20.0 + 20.0; 30.0 + 30.0" in text


def test_what_is_measured_so_far_survives_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Measured([5], [1.0], {})])

    def one_answer(*given: object) -> Measured:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(busy, "measure", one_answer)
    given = busy._parse(["--rounds", "2"])
    results, reasons = busy.run([Case("idle")], [Side("default", []), Side("one", [])], given)
    assert [each.tokens for each in results["idle"]["default"]] == [[5]] and results["idle"]["one"] == []
    assert reasons == {"the rest": "interrupted"}


def test_a_quota_without_root_leaves_out_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(side: Side, case: Case, seconds: float, margin: float) -> Measured:
        if case.quota:
            raise QuotaError("not allowed")
        return Measured([1], [1.0], {})

    monkeypatch.setattr(busy, "measure", refuse)
    given = busy._parse(["--rounds", "2"])
    results, reasons = busy.run([Case("idle"), Case("quota", quota=1)], [Side("default", [])], given)
    assert [*results] == ["idle"] and len(results["idle"]["default"]) == 2
    assert reasons == {"quota": "not allowed"}


def test_patience_is_longer_than_a_measurement() -> None:
    assert busy_sides.PATIENCE_S > 2 * busy._parse([]).seconds
    assert busy_load.LIMIT_S > busy._parse([]).seconds
