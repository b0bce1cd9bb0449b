"""Devices, types of memory, and thread pools."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest

from llama_cffi import Batch, BusyError, ClosedError, Context, Ggml, Model, ffi, lib

# Devices


def _cpu() -> Ggml.BackendDevice:
    device = Ggml.BackendDevice.byName("CPU")
    assert device is not None
    return device


def test_devices_equal_raw_c() -> None:
    devices = Ggml.Backend.devices()
    assert len(devices) == Ggml.BackendDevice.count() == lib.ggml_backend_dev_count() >= 1
    for i, device in enumerate(devices):
        assert isinstance(device, Ggml.BackendDevice)
        assert device._c == lib.ggml_backend_dev_get(i)
        assert device == Ggml.BackendDevice.get(i)
        assert device.name == ffi.string(lib.ggml_backend_dev_name(device._c)).decode()
        assert device.type is Ggml.BackendDevType(lib.ggml_backend_dev_type(device._c))


def test_the_cpu_is_a_device() -> None:
    cpu = _cpu()
    assert (cpu.name, cpu.type) == ("CPU", Ggml.BackendDevType.CPU)
    assert cpu == Ggml.BackendDevice.byType(Ggml.BackendDevType.CPU)
    assert cpu in Ggml.Backend.devices()
    assert cpu.description
    assert cpu.memory.total >= cpu.memory.free > 1 << 20
    assert repr(cpu).startswith("<BackendDevice CPU: ")
    assert Ggml.BackendDevice.byName("no such device") is None
    if "META" in Ggml.BackendDevType.__members__:
        assert Ggml.BackendDevice.byType(Ggml.BackendDevType.META) is None


def test_types_of_memory() -> None:
    cpu = _cpu()
    buft = cpu.bufferType()
    assert isinstance(buft, Ggml.BackendBufferType)
    assert (buft.name, buft.isHost, repr(buft)) == ("CPU", True, "<BackendBufferType CPU>")
    assert buft == cpu.bufferType() and hash(buft) == hash(cpu.bufferType())
    assert buft.getDevice() in (cpu, None)
    assert buft.getAlignment() >= 16 and buft.getMaxSize() > 1 << 30
    assert cpu.supportsBuft(buft)
    assert cpu.hostBufferType() is None


@pytest.mark.parametrize("index", [-1, 99, 1 << 40])
def test_devices_that_are_not_there(index: int) -> None:
    with pytest.raises(IndexError, match="number of devices, got"):
        Ggml.BackendDevice.get(index)


def test_devices_are_not_made_by_hand() -> None:
    for kind in (Ggml.BackendDevice, Ggml.BackendBufferType):
        with pytest.raises(TypeError, match=r"Ggml\.Backend\.devices\(\)"):
            kind("CPU")
    with pytest.raises(ValueError):
        Ggml.BackendDevice.byType(99)  # type: ignore[arg-type]


def test_there_are_none_before_a_backend_is_loaded() -> None:
    code = "from llama_cffi import Ggml; print(Ggml.Backend.devices(), Ggml.BackendDevice.byName('CPU'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.returncode) == ("[] None\n", 0), result.stderr


# Thread pools


def test_both_spellings() -> None:
    assert Ggml.ThreadPool is Ggml.Threadpool


def test_a_pool_loads_the_cpu_backend() -> None:
    code = (
        "from llama_cffi import Ggml; p = Ggml.Threadpool(2); print(p.nThreads, Ggml.Backend.cpuVariant() is not None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.returncode) == ("2 True\n", 0), result.stderr


def test_life_of_a_pool() -> None:
    with Ggml.Threadpool(2) as pool:
        assert pool.nThreads == 2
        assert repr(pool) == "<Threadpool of 2>"
        pool.pause()
        pool.resume()
    assert pool.closed
    pool.free()  # twice is harmless
    assert pool.nThreads == 2
    for call in (pool.pause, pool.resume, lambda: pool._c):
        with pytest.raises(ClosedError, match="thread pool"):
            call()
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(pool)


def test_a_pool_is_collected() -> None:
    pool = Ggml.Threadpool(3, Ggml.SchedPriority.NORMAL, 0, [min(os.sched_getaffinity(0))], strictCpu=True, paused=True)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0,), ValueError, "between 1 and 512"),
        ((-1,), ValueError, "between 1 and 512"),
        ((513,), ValueError, "between 1 and 512"),
        ((1 << 40,), ValueError, "between 1 and 512"),
        ((True,), TypeError, "an integer"),
        ((2.5,), TypeError, "an integer"),
        (("2",), TypeError, "an integer"),
        ((2, 99), ValueError, "SchedPriority"),
        ((2, 0, -1), ValueError, "between 0 and 100"),
        ((2, 0, 101), ValueError, "between 0 and 100"),
        ((2, 0, 50, [99_999]), ValueError, "got CPU 99999"),
        ((2, 0, 50, [-1]), ValueError, "got CPU -1"),
        ((2, 0, 50, [True]), TypeError, "numbers of CPUs"),
        ((2, 0, 50, "0"), TypeError, "numbers of CPUs"),
    ],
)
def test_pools_that_cannot_be(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Ggml.Threadpool(*arguments)


def test_a_pool_serves_one_context(tiny: Model) -> None:
    """What a context does with a pool; its own methods come on top of this."""
    pool = Ggml.Threadpool(2)
    first, second = (Context.initFromModel(tiny, Context.Params(nCtx=32)) for _ in range(2))
    pool._attach(first)
    pool._attach(first)
    with pytest.raises(BusyError, match="one pool for each context"):
        pool._attach(second)
    with pytest.raises(BusyError, match="detachThreadpool"):
        pool.free()
    assert not pool.closed
    pool._detach(first)
    pool._attach(second)
    second.free()
    pool.free()
    assert pool.closed
    with pytest.raises(ClosedError):
        pool._attach(first)


@pytest.mark.parametrize("openmp", [True, False])
def test_a_pool_that_was_detached_stays_where_ggml_remembers_it(
    tiny: Model, openmp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With threads of its own, ggml looks at the last pool when it gets another one."""
    monkeypatch.setattr("llama_cffi.ggml.threadpool.system_info", lambda: f"OPENMP = {openmp:d}")
    ctx = Context.initFromModel(tiny, Context.Params(nCtx=32, nThreads=2, nThreadsBatch=2))
    first, second = Ggml.Threadpool(2), Ggml.Threadpool(2)
    pools = [pool._owned for pool in (first, second) if pool._owned is not None]
    ctx.attachThreadpool(first)
    ctx.attachThreadpool(second)  # takes the place of the first, which may be freed
    first.free()
    ctx.detachThreadpool()
    ctx.detachThreadpool()
    second.free()
    assert first.closed and second.closed
    assert [pool.dependents for pool in pools] == [0 if openmp else 1] * 2
    assert [pool.pointer is None for pool in pools] == [openmp] * 2
    assert ctx.decode(Batch.getOne([5])) == 0
    ctx.free()
    assert [(pool.dependents, pool.pointer) for pool in pools] == [(0, None)] * 2


def test_a_pool_is_left_alone_while_its_context_computes(tiny: Model) -> None:
    def touch() -> bool:
        for call in (pool.pause, pool.resume, pool.free, ctx.detachThreadpool, lambda: ctx.attachThreadpool(pool)):
            with pytest.raises(BusyError):
                call()
        return False

    ctx = Context.initFromModel(tiny, Context.Params(nCtx=32, nThreads=2, nThreadsBatch=2, abortCb=touch))
    pool = Ggml.Threadpool(2)
    ctx.attachThreadpool(pool)
    assert ctx.decode(Batch.getOne([5])) == 0
    pool.pause()
    pool.resume()
    with pytest.raises(TypeError, match="Ggml.Threadpool"):
        ctx.attachThreadpool(None)  # type: ignore[arg-type]


def test_enumerations() -> None:
    assert Ggml.Type.F32 == lib.GGML_TYPE_F32
    assert Ggml.SchedPriority.HIGH == lib.GGML_SCHED_PRIO_HIGH
    assert Ggml.LogLevel.ERROR == lib.GGML_LOG_LEVEL_ERROR
    assert Ggml.Status.SUCCESS == lib.GGML_STATUS_SUCCESS
    assert Ggml.NumaStrategy.DISABLED == lib.GGML_NUMA_STRATEGY_DISABLED
    assert Ggml.Op.MUL_MAT == lib.GGML_OP_MUL_MAT
