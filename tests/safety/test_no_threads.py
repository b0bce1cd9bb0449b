"""Where no threads are left, a computation raises: OpenMP would end the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.safety.isolated import run

_BEGIN = """
import os, resource, threading, time
model = load()
def ready(n):
    return Context.initFromModel(model, Context.Params(nCtx=32, nThreads=n, nThreadsBatch=n))
def refused(ctx):
    try:
        ctx.decode(Batch.getOne([1, 2]))
    except NativeMemoryError as error:
        assert "threads" in str(error) and "nThreads" in str(error), error
        return True
    return False
def threads():
    return sum(len(os.listdir(f"/proc/{p}/task")) for p in os.listdir("/proc") if p.isdecimal() and own(p))
def own(p):
    try:
        return os.stat(f"/proc/{p}").st_uid == os.getuid()
    except OSError:
        return False
def limit_threads(more):
    if os.geteuid() == 0:
        os.setuid(100_000 + os.getpid())  # root has no limit; a user whom nothing else runs as
    resource.setrlimit(resource.RLIMIT_NPROC, (threads() + more, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
def limit_memory(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + more, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize("limit", ["limit_threads(0)", "limit_threads(3)", "limit_memory(30 << 20)"])
def test_after_the_context_was_made(folder: Path, limit: str) -> None:
    """Between making a context, where the number is checked, and its first computation."""
    ended = run(
        _BEGIN
        + f"""
ctx, other = ready(12), ready(1)
{limit}
assert refused(ctx) and refused(ctx) and not refused(other)
ctx.setNThreads(1)
assert not refused(ctx)
batch = Batch.getOne([1, 2])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ctx.free()
""",
        folder,
    )
    assert ended.passed, ended


def test_each_thread_that_computes_needs_its_own(folder: Path) -> None:
    ended = run(
        _BEGIN
        + """
contexts, results = [ready(3) for _ in range(50)], []
begin = threading.Barrier(51)
def compute(ctx):
    begin.wait()
    for _ in range(5):
        results.append(refused(ctx))
workers = [threading.Thread(target=compute, args=(ctx,)) for ctx in contexts]
for worker in workers:
    worker.start()
limit_threads(20)
begin.wait()
for worker in workers:
    worker.join()
assert len(results) == 250 and 0 < sum(results) < 250, sum(results)
""",
        folder,
    )
    assert ended.passed, ended


def test_threads_that_a_smaller_region_has_ended_are_checked_again(folder: Path) -> None:
    """Reading the logits of a context with 2 threads ends those that a context with 6 has started."""
    ended = run(
        _BEGIN
        + """
ctx, small = ready(6), ready(2)
batch = Batch.init(8)
batch.extend([1, 2, 3, 4, 5, 6, 7, 8], 0, (0,), "all")
assert small.decode(batch) == 0 and not refused(ctx)
before = len(os.listdir("/proc/self/task"))
tokens, log_probs = ffi.new("int32_t[8]"), ffi.new("double[8]")
assert lib.shim_score_rows(small._c, small._limits, 0, 8, tokens, log_probs, 0, ffi.NULL, ffi.NULL) == -1
end = time.monotonic() + 30
while len(os.listdir("/proc/self/task")) != before - 4:
    assert time.monotonic() < end
    time.sleep(0.001)
limit_threads(0)
assert refused(ctx) and not refused(small)
""",
        folder,
    )
    assert ended.passed, ended


def test_bound_threads_are_released_without_starting_others(folder: Path) -> None:
    """A trial binds threads to CPUs of their own; then another context computes with one."""
    ended = run(
        _BEGIN
        + """
if len(os.sched_getaffinity(0)) >= 2:
    ctx = ready(2)
    large = Context.initFromModel(model, Context.Params(nCtx=32, nThreads=2, nThreadsBatch=2, adaptThreads=True))
    large._threads.now, large._threads.trial.phase, large._threads.marked = 2, 2, time.monotonic()
    assert large.decode(Batch.getOne([1, 2])) == 0
    task = lambda: [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
    assert sum(len(cpus) < len(os.sched_getaffinity(0)) for cpus in task()) == 1
    limit_threads(0)
    ctx.setNThreads(1)
    assert ctx.decode(Batch.getOne([1, 2])) == 0
    assert all(cpus == os.sched_getaffinity(0) for cpus in task())
""",
        folder,
    )
    assert ended.passed, ended


def test_an_engine_whose_requests_cannot_be_computed(folder: Path) -> None:
    ended = run(
        _BEGIN
        + """
engine = Engine(model, nCtx=64, nThreads=12)
limit_threads(2)
try:
    engine.submit("a", maxTokens=2).result(30)
    raise SystemExit("computed")
except NativeMemoryError:
    pass
engine.close()
""",
        folder,
    )
    assert ended.passed, ended


def test_the_threads_of_a_thread_that_has_loaded_a_model(folder: Path) -> None:
    """Loading for AMX starts all threads of OpenMP's default and ends them: the next computation is checked again."""
    ended = run(
        _BEGIN
        + """
import ctypes, llama_cffi.model.model as module
module._uses_amx = lambda: True
runtime = ffi.new("char[]", 4096)
lib.shim_openmp(runtime, 4096)
ctypes.CDLL(ffi.string(runtime).decode()).omp_set_num_threads(12)
ctx, other = ready(12), ready(1)
assert not refused(ctx)
load()
count = len(os.listdir("/proc/self/task"))
assert count < 12, count
limit_memory(30 << 20)
assert refused(ctx) and not refused(other)
try:
    load()
    raise SystemExit("loaded")
except NativeMemoryError as error:
    assert "threads" in str(error) and "useExtraBufts" in str(error), error
load(useExtraBufts=False)
""",
        folder,
    )
    assert ended.passed, ended


def test_quantize(folder: Path) -> None:
    """C++ would end the process: it destroys threads that run where it cannot start one."""
    ended = run(
        _BEGIN
        + """
def quantize(n, source, target):
    Model.quantize(source, target, Model.QuantizeParams(ftype=ftype, nthread=n, allowRequantize=True))
source, ftype = scratch(), Ftype.MOSTLY_Q8_0
quantize(9, path(), source)
ftype = Ftype.MOSTLY_Q4_0  # from here on, C++ starts threads to read the weights
limit_memory(30 << 20)
try:
    quantize(9, source, scratch())
    raise SystemExit("quantized")
except NativeMemoryError as error:
    assert "threads" in str(error) and "nthread" in str(error), error
quantize(1, source, scratch())
quantize(3, source, scratch())
""",
        folder,
    )
    assert ended.passed, ended
