"""How many threads a context computes with: the default, an explicit number, and adapting to what else runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Batch, Context, Embedder, Engine, Ggml, Model
from llama_cffi._core import openmp
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._host.resources import cpu_limits, usable_cpus

WINDOW = 0.02  # seconds between two decisions
QUIET, BUSY = 5.0, 300.0  # preemptions a second


class Machine:
    """A machine of `cpus` CPUs on which a context of `most` threads decides; time passes in windows."""

    def __init__(self, most: int, cpus: int) -> None:
        self.state = ffi.new("struct shim_threads *")
        lib.shim_threads_start(self.state, most, most, cpus)
        self.at = self.state.decided = 1000.0
        self.history: list[int] = []
        self.work = 0.0
        # What a number of threads computes in a second beside others, if one thread alone computes 1.
        self.speed = lambda n, others: n if n + others <= cpus else 0.5 / n

    def decide(
        self, share: float, preempted: float, cpus: float, running: float, work: float = 0, worked: float = 0
    ) -> int:
        """Decide after a window that ends at `self.at`."""
        window = ffi.new("struct shim_window *", [self.at, share, preempted, cpus, running, work, worked])
        self.history.append(lib.shim_threads_decide(self.state, window))
        return self.history[-1]

    def run(self, seconds: float, others: float, share: float = 1.0) -> int:
        """Compute for some time beside `others` running threads of other programs, on `cpus` CPUs."""
        for _ in range(round(seconds / WINDOW)):
            self.at += WINDOW
            n = self.state.now
            cpus = self.state.cpus or self.state.most
            preempted = BUSY if n + others > cpus else QUIET
            used = n * min(1.0, cpus / (n + others))
            work = self.speed(n, others) * WINDOW * share
            self.work += work
            self.decide(share, preempted, used, n + others, work, WINDOW * share)
        return self.state.now


def test_an_idle_machine_keeps_all_threads() -> None:
    machine = Machine(16, 16)
    machine.run(20, others=0)
    assert set(machine.history) == {16}


def test_false_alarms_change_nothing() -> None:
    machine = Machine(16, 16)
    for _ in range(100):
        machine.at += WINDOW
        machine.decide(1.0, 400.0, 15.0, 16.2)
    assert set(machine.history) == {16}


@pytest.mark.parametrize(("others", "fits"), [(1, 15), (4, 12), (15, 1), (16, 1), (40, 1)])
def test_one_thread_less_for_each_other(others: int, fits: int) -> None:
    machine = Machine(16, 16)
    assert machine.run(0.3, others) == fits
    machine.run(10, others)
    assert machine.history.count(fits) > 0.8 * len(machine.history)


def test_all_threads_again_when_it_is_calm() -> None:
    machine = Machine(4, 4)
    assert machine.run(2, others=3) == 1
    assert machine.run(1.2, others=0) == 4


def test_a_short_crowd_costs_less_than_a_second() -> None:
    machine = Machine(2, 2)
    for _ in range(5):
        assert machine.run(0.2, others=2) == 1
        assert machine.run(1.0, others=0) == 2


def test_attempts_become_rare_where_others_are_not_seen() -> None:
    """A process that may use 4 of the machine's CPUs does not know whose the others are: it can only try."""
    machine = Machine(4, 0)
    machine.run(60, others=2)
    attempts = sum(b > a for a, b in zip(machine.history, machine.history[1:], strict=False))
    too_many = sum(n > 2 for n in machine.history) * WINDOW
    assert attempts <= 14
    assert too_many < 3
    assert machine.run(10, others=0) == 4


def test_threads_that_sleep_at_barriers_are_few_preemptions_but_little_time() -> None:
    """Three processes with two threads each on two CPUs: 20 preemptions a second, a fifth of the time of two CPUs."""
    for cpus, running in ((2, 6), (0, -1)):
        machine = Machine(2, cpus)
        for _ in range(60):
            machine.at += 1 if machine.state.now == 2 else WINDOW
            used = 0.4 if machine.state.now == 2 else 0.67
            machine.decide(1.0, 18.0, used, running)
        assert sum(n == 2 for n in machine.history) <= 2


def test_a_gpu_that_computes_is_not_a_lack_of_time() -> None:
    machine = Machine(8, 0)
    for _ in range(100):
        machine.at += WINDOW
        machine.decide(1.0, 3.0, 0.3, -1)
    assert set(machine.history) == {8}


def test_other_cpus_of_the_machine_do_not_count() -> None:
    """30 running threads are not in the way of 4 of 64 CPUs, as in a container."""
    machine = Machine(4, 64)
    machine.run(5, others=30)
    assert set(machine.history) == {4}


def test_nothing_is_learnt_from_windows_without_computing() -> None:
    machine = Machine(4, 4)
    assert machine.run(2, others=8, share=0.1) == 4


def test_time_of_waiting_is_bounded() -> None:
    machine = Machine(8, 8)
    for _ in range(20):
        machine.run(0.5, others=8)
        machine.run(0.6, others=0)
    assert machine.state.patience <= 8
    assert machine.run(20, others=0) == 8


# Trials of more threads, where other programs use all CPUs


def test_more_threads_are_kept_while_they_compute_faster() -> None:
    """Two threads that get half of two CPUs, against one that gets two thirds of one."""
    machine = Machine(2, 2)
    machine.speed = lambda n, others: {1: 0.67, 2: 0.85}[n]
    machine.run(60, others=2)
    assert machine.history.count(2) > 0.95 * len(machine.history)
    assert machine.run(0.5, others=1) == 1  # a CPU is free now, and one thread has it to itself
    machine.run(10, others=1)
    assert 2 not in machine.history[-500:]


def test_they_are_given_up_when_they_become_slower() -> None:
    machine = Machine(2, 2)
    machine.speed = lambda n, others: {1: 0.67, 2: 0.85}[n]
    assert machine.run(5, others=2) == 2
    machine.speed = lambda n, others: {1: 0.67, 2: 0.4}[n]
    machine.run(3, others=2)
    machine.run(20, others=2)
    assert machine.history[-1000:].count(2) < 100


def test_trials_of_a_larger_machine_stop_at_what_is_fastest() -> None:
    machine = Machine(16, 16)
    machine.speed = lambda n, others: {1: 1, 2: 1.5, 4: 2, 8: 1.8, 16: 0.01}[n]
    machine.run(60, others=16)
    assert machine.history.count(4) > 0.8 * len(machine.history)
    assert 16 not in machine.history[200:]


@pytest.mark.parametrize("loss", [0.3, 0.9, 1.05])
def test_trials_that_fail_become_rare(loss: float) -> None:
    machine = Machine(16, 16)
    machine.speed = lambda n, others: 1 if n == 1 else loss
    machine.run(120, others=16)
    assert machine.work > 0.96 * 120 and machine.history.count(2) < 0.06 * len(machine.history)


def test_crowds_of_other_sizes_are_not_tried() -> None:
    for others in (1, 3, 6):
        machine = Machine(2, 2)
        machine.speed = lambda n, others: n
        machine.run(20, others=others)
        assert 2 not in machine.history[20:]


def test_without_computations_that_can_be_compared_nothing_is_tried() -> None:
    machine = Machine(2, 2)
    machine.speed = lambda n, others: 0
    machine.run(20, others=2)
    assert 2 not in machine.history[200:]


def test_computations_of_about_the_same_size_are_compared(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=2, adaptThreads=True)) as ctx:
        sizes = []
        for n in (8, 8, 10, 30, 8, 30, 30, 30, 30, 30, 9):
            ctx.getMemory().clear()
            ctx.decode(Batch.getOne([1] * n))
            sizes.append(ctx._threads.size)
        # A computation that takes long, on a busy machine, counts as several.
        assert set(sizes[:3]) == {8} and set(sizes[-2:]) == {30} and sizes == sorted(sizes)


def _allowed() -> list[set[int]]:
    """Where each thread of this process may run."""
    return [os.sched_getaffinity(int(entry.name)) for entry in Path("/proc/self/task").iterdir()]


def test_threads_of_a_trial_keep_to_cpus_of_their_own(tiny: Model) -> None:
    """And afterwards, they may run where they could before."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=2, nThreadsBatch=2, adaptThreads=True)) as ctx:
        ctx.decode(Batch.getOne([1]))
        ctx.setNThreads(2, adaptThreads=True)
        ctx._threads.now, ctx._threads.trial.phase, ctx._threads.marked = 2, 2, time.monotonic()
        ctx.decode(Batch.getOne([1]))
        assert os.sched_getaffinity(0) == set(cpus)
        assert sum(len(each) < len(cpus) for each in _allowed()) == 1
        ctx.setNThreads(1)
        ctx.decode(Batch.getOne([1]))
        assert all(len(each) == len(cpus) for each in _allowed())


def test_a_trial_within_a_trial_releases_the_calling_thread(tiny: Model) -> None:
    """A callback of one context computes with another: both bind the calling thread."""
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    seen = []

    def context(**fields: Any) -> Context:
        return Context.initFromModel(
            tiny, Context.Params(nCtx=64, nThreads=2, nThreadsBatch=2, adaptThreads=True, **fields)
        )

    def compute(tensor: Any, ask: bool) -> bool:
        if not seen:
            seen.append(os.sched_getaffinity(0))
            inner.decode(Batch.getOne([1]))
        return True

    with context() as inner, context(cbEval=compute) as outer:
        for ctx in (inner, outer):
            ctx._threads.now, ctx._threads.trial.phase, ctx._threads.marked = 2, 2, time.monotonic()
        outer.decode(Batch.getOne([1]))
    assert [len(each) for each in seen] == [len(cpus) // 2]
    assert os.sched_getaffinity(0) == cpus


# Parameters


def test_the_default_is_the_number_of_usable_cpus() -> None:
    params = Context.Params()
    assert params.nThreads == params.nThreadsBatch == usable_cpus()
    assert params.adaptThreads
    assert Context.getDefaultParams().nThreads == usable_cpus()


def test_an_explicit_number_is_used_as_it_is() -> None:
    assert not Context.Params(nThreads=3).adaptThreads
    assert not Context.Params(nThreadsBatch=3).adaptThreads
    assert Context.Params(nThreads=3, adaptThreads=True).adaptThreads
    assert Context.Params(adaptThreads=True, nThreads=3).adaptThreads
    assert not Context.Params(adaptThreads=False).adaptThreads
    with pytest.raises(TypeError, match=r"adaptThreads must be True or False, got 2"):
        Context.Params(adaptThreads=2)  # type: ignore[arg-type]


def test_contexts(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64)) as ctx:
        assert ctx.adaptThreads and ctx.nThreads == ctx.nThreadsBatch == usable_cpus()
        ctx.setNThreads(2, 3)
        assert not ctx.adaptThreads and (ctx.nThreads, ctx.nThreadsBatch) == (2, 3)
        ctx.setNThreads(2, adaptThreads=True)
        assert ctx.adaptThreads
        with Ggml.Threadpool(2) as pool:
            ctx.attachThreadpool(pool)
            assert not ctx.adaptThreads
            ctx.detachThreadpool()
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=1)) as ctx:
        assert not ctx.adaptThreads


def test_a_thread_pool_serves_all_threads_of_a_context_that_uses_fewer_at_present(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=2, nThreadsBatch=3, adaptThreads=True)) as ctx:
        ctx._threads.now = 1
        lib.llama_set_n_threads(ctx._c, 1, 1)
        with Ggml.Threadpool(2) as small, pytest.raises(ValueError, match=r"3 threads \(nThreadsBatch\), got 2"):
            ctx.attachThreadpool(small)
        assert ctx.adaptThreads and ctx.nThreads == 1
        with Ggml.Threadpool(3) as pool:
            ctx.attachThreadpool(pool)
            assert not ctx.adaptThreads and (ctx.nThreads, ctx.nThreadsBatch) == (2, 3)
            ctx.detachThreadpool()


def test_a_wrong_argument_changes_nothing(tiny: Model) -> None:
    with Context.initFromModel(tiny, Context.Params(nCtx=64, nThreads=1, nThreadsBatch=1)) as ctx:
        with pytest.raises(TypeError, match=r"adaptThreads must be True or False, got 'yes'"):
            ctx.setNThreads(2, adaptThreads="yes")  # type: ignore[arg-type]
        assert not ctx.adaptThreads and (ctx.nThreads, ctx.nThreadsBatch) == (1, 1)


def test_engine_and_embedder(tiny: Model) -> None:
    with Engine(tiny, nCtx=64, nSeqMax=1) as engine:
        assert engine._scheduler._context.adaptThreads
    with Engine(tiny, nCtx=64, nSeqMax=1, nThreads=1) as engine:
        assert not engine._scheduler._context.adaptThreads
    with Engine(tiny, nCtx=64, nSeqMax=1, params=Context.Params(nThreads=1, nThreadsBatch=2)) as engine:
        ctx = engine._scheduler._context
        assert (ctx.nThreads, ctx.nThreadsBatch, ctx.adaptThreads) == (1, 2, False)
    with Embedder(tiny, nCtx=64, nThreads=1) as embedder:
        assert not embedder.context.adaptThreads
    with Embedder(tiny, nCtx=64) as embedder:
        assert embedder.context.adaptThreads


# On this machine


@pytest.fixture
def crowd() -> Iterator[None]:
    """Two busy programs for each CPU."""
    spin = [sys.executable, "-c", "import time; end = time.time() + 120\nwhile time.time() < end: pass"]
    programs = [subprocess.Popen(spin) for _ in range(2 * (cpu_limits().present))]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _decode_until(ctx: Context, done: Any, seconds: float = 60) -> bool:
    """Decode single tokens until a condition holds. False if it does not hold in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pos in range(ctx.nCtx):
            ctx.decode(Batch.getOne([pos % 7 + 1]))
        ctx.getMemory().clear()
        if done():
            return True
    return False


@pytest.mark.slow
def test_a_context_makes_room(tiny: Model, crowd: None) -> None:
    most = max(2, usable_cpus())
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=most, adaptThreads=True)) as ctx:
        assert _decode_until(ctx, lambda: ctx.nThreads < most)
    with Context.initFromModel(tiny, Context.Params(nCtx=256, nThreads=most)) as ctx:
        assert not _decode_until(ctx, lambda: ctx.nThreads < most, 1)


# Spinning


def test_spinning_is_bounded_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert openmp.spin_environment() == {"GOMP_SPINCOUNT": "30000", "OMP_WAIT_POLICY": "active"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert openmp.spin_environment() == {}


def test_the_environment_is_as_before() -> None:
    code = (
        "import os; before = dict(os.environ)\n"
        "import llama_cffi; llama_cffi.Ggml.Backend.cpuLoad(); assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_foreign_runtime_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(openmp, "_LIB", tmp_path)
    assert openmp.foreign_runtime("/usr/lib/libgomp.so.1") is None  # a build that has none of its own
    (tmp_path / "libgomp.so.1").touch()
    assert openmp.foreign_runtime(str(tmp_path / "libgomp.so.1")) is None
    warning = openmp.foreign_runtime("/usr/lib/libgomp.so.1")
    assert warning is not None and "/usr/lib/libgomp.so.1" in warning and "GOMP_SPINCOUNT=30000" in warning
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert openmp.foreign_runtime("/usr/lib/libgomp.so.1") is None


def test_another_package_loaded_openmp_first(tmp_path: Any) -> None:
    """What torch does: the same library, from another folder."""
    ours = Path(openmp._LIB) / "libgomp.so.1"
    if not ours.is_file():
        pytest.skip("this build has no OpenMP")
    (tmp_path / "libgomp.so.1").write_bytes(ours.read_bytes())
    other = f"import ctypes; ctypes.CDLL({str(tmp_path / 'libgomp.so.1')!r}, mode=ctypes.RTLD_GLOBAL)\n"
    code = (
        "import logging; logging.basicConfig(level='WARNING')\n"
        "from llama_cffi import Ggml\n"
        "for _ in range(2): Ggml.Backend.cpuLoad()"
    )

    def warnings(code: str, **variables: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in openmp._CHOICES}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True).stderr

    found = warnings(other + code)
    assert found.count("another package loaded OpenMP") == 1 and str(tmp_path) in found
    assert "another package" in warnings("import llama_cffi\n" + other + code)  # which loads nothing
    assert warnings(other + code, GOMP_SPINCOUNT="30000") == ""
    assert warnings("from llama_cffi import Model\n" + other + code) == ""
