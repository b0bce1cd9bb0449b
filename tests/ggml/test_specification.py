"""Every row of the specification of `Ggml`, by a test that uses it. The last test compares them with the table."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from codegen.rules import spec
from llama_cffi import Ggml, NativeAssertionError, ffi, lib
from llama_cffi._core.compat import has

F = TypeVar("F", bound=Callable[..., Any])
TABLE = spec.load(spec.GGML)
ROWS = {row.name for row in TABLE}
COVERED: set[str] = set()


def covers(*names: str) -> Callable[[F], F]:
    """Say which rows a test uses."""

    def mark(function: F) -> F:
        for name in names:
            assert name in ROWS, name
            assert name not in COVERED, f"{name} is covered twice"
            COVERED.add(name)
        return function

    return mark


def below(*owners: str) -> list[str]:
    return [name for name in dict.fromkeys(row.name for row in TABLE) if name.rpartition(".")[0] in owners]


# The matrices of ggml's own example: 4 x 2 and 3 x 2.
A = [2, 8, 5, 1, 4, 2, 8, 6]
B = [10, 5, 9, 9, 5, 4]
PRODUCT = [60, 55, 50, 110, 90, 54, 54, 126, 42, 29, 28, 64]


# Enumerations

ENUMS = ("Status", "Type", "FType", "NumaStrategy")


@covers(*ENUMS, *below(*ENUMS), "ThreadPool.SchedPriority", *below("ThreadPool.SchedPriority"))
def test_enumerations_have_the_values_of_the_table() -> None:
    rows = [row for row in TABLE if row.kind == "enumerator"]
    assert len(rows) > 60
    for row in rows:
        owner, member = row.name.rsplit(".", 1)
        found: Any = Ggml
        for part in owner.split("."):
            found = getattr(found, part)
        assert found[member] == int(row.signature), row.name
        if has(row.c_name) and hasattr(lib, row.c_name):
            assert found[member] == getattr(lib, row.c_name), row.name


# Contexts and sizes


@covers("InitParams", *below("InitParams"), "Context", "init", "free", "getTensorOverhead", "getGraphOverhead")
def test_contexts_are_made_with_parameters_and_freed() -> None:
    size = 2 * Ggml.getTensorOverhead() + 1024 + Ggml.getGraphOverhead()
    assert size == 2 * lib.ggml_tensor_overhead() + 1024 + lib.ggml_graph_overhead()
    params = Ggml.InitParams(memSize=size, noAlloc=True)
    assert (params.memSize, params.noAlloc, params.memBuffer) == (size, True, None)
    ctx = Ggml.init(params)
    assert isinstance(ctx, Ggml.Context) and ctx.memSize == (size + 15) // 16 * 16 and ctx.noAlloc
    assert not ctx.newTensor(Ggml.Type.F32, 1000).isAllocated
    Ggml.free(ctx)
    Ggml.free(ctx)
    assert ctx.closed
    memory = np.zeros(1 << 16, np.uint8)
    params = Ggml.InitParams(memSize=1 << 15, memBuffer=memory)
    with Ggml.init(params) as own:
        own.newTensor(Ggml.Type.F32, 4).set([1, 2, 3, 4])
        assert memory[: 1 << 15].any() and not memory[1 << 15 :].any()


@covers("getTypeSize", "getRowSize", "fTypeToType", "statusToString")
def test_sizes_and_names() -> None:
    assert Ggml.getTypeSize(Ggml.Type.F32) == 4 and Ggml.getTypeSize(Ggml.Type.Q4_0) == 18
    assert Ggml.getRowSize(Ggml.Type.F16, 10) == 20 and Ggml.getRowSize(Ggml.Type.Q4_0, 64) == 36
    assert Ggml.fTypeToType(Ggml.FType.MOSTLY_Q4_K) is Ggml.Type.Q4_K
    assert Ggml.statusToString(Ggml.Status.SUCCESS) == "GGML status: success"
    with pytest.raises(ValueError, match=r"32.*Q4_0.*33"):
        Ggml.getRowSize(Ggml.Type.Q4_0, 33)
    for wrong in (4, 99, -1):  # removed, and not there
        with pytest.raises(ValueError):
            Ggml.getTypeSize(wrong)  # type: ignore[arg-type]


@covers("fp16ToFp32", "fp32ToFp16", "fp32ToBf16", "bf16ToFp32")
def test_half_precision_numbers_and_rows() -> None:
    values = np.array([1.0, -2.5, 0.1, 65504.0], np.float32)
    halves = values.astype(np.float16).view(np.uint16)
    assert [Ggml.fp32ToFp16(float(v)) for v in values] == halves.tolist()
    assert [Ggml.fp16ToFp32(int(h)) for h in halves] == values.astype(np.float16).astype(np.float32).tolist()
    brains = (values.view(np.uint32) + 0x7FFF + ((values.view(np.uint32) >> 16) & 1)) >> 16
    assert [Ggml.fp32ToBf16(float(v)) for v in values] == brains.tolist()
    short = array("H", [0] * 4)
    Ggml.fp32ToFp16(values, short, 4)
    assert list(short) == halves.tolist()
    Ggml.fp32ToBf16(values, short)
    assert list(short) == brains.tolist()
    back = np.zeros(4, np.float32)
    Ggml.bf16ToFp32(short, back, 4)
    assert back.tolist() == [Ggml.bf16ToFp32(int(b)) for b in brains]
    Ggml.fp16ToFp32(halves, back, 2)
    assert back[:2].tolist() == [1.0, -2.5]
    with pytest.raises(ValueError, match=r"len.*4.*5"):
        Ggml.fp16ToFp32(halves, back, 5)


@covers("numaInit", "isNuma", "getBuildDependencies")
def test_the_machine() -> None:
    Ggml.numaInit(Ggml.NumaStrategy.DISABLED)
    assert Ggml.isNuma() is False
    files = Ggml.getBuildDependencies()
    assert any("libggml-base" in name for name in files) and all(os.path.isfile(name) for name in files)


@covers("setAbortCallback", "abort")
def test_failed_assertions_are_seen_and_raised() -> None:
    seen: list[str] = []
    assert Ggml.setAbortCallback(seen.append) is None
    try:
        with Ggml.Context() as ctx, pytest.raises(NativeAssertionError, match="ggml_can_mul_mat"):
            ctx.mulMat(ctx.newTensor(Ggml.Type.F32, 3), ctx.newTensor(Ggml.Type.F32, 4))
        with pytest.raises(NativeAssertionError, match=r"here\.c:7: no 3 and x"):
            Ggml.abort("here.c", 7, "no %d and %s", 3, "x")
    finally:
        assert Ggml.setAbortCallback(None) == seen.append
    assert len(seen) == 2 and "ggml_can_mul_mat" in seen[0] and seen[1] == "here.c:7: no 3 and x"


# The two examples of the sister library, call for call


@covers(
    *("buildForwardExpand", "CGraph", "Tensor", "Tensor.data", "Tensor.dataF32", "Tensor.nBytes", "Tensor.nElements"),
    *("Context.newTensor", "Context.newGraph", "Context.mulMat", "Context.graphCompute"),
)
def test_the_example_with_a_context() -> None:
    ctx = Ggml.init(Ggml.InitParams(memSize=1024 * 1024, noAlloc=False))
    a = ctx.newTensor(Ggml.Type.F32, 2, 4)
    b = ctx.newTensor(Ggml.Type.F32, 2, 3)
    a.data[:] = array("f", A).tobytes()
    b.dataF32[:] = array("f", B)
    assert (a.nBytes, a.nElements) == (32, 8)
    graph = ctx.newGraph()
    assert isinstance(graph, Ggml.CGraph) and isinstance(a, Ggml.Tensor)
    Ggml.buildForwardExpand(graph, ctx.mulMat(a, b))
    assert ctx.graphCompute(graph, 1) is Ggml.Status.SUCCESS
    assert list(graph.node(-1).dataF32) == PRODUCT
    assert ctx.newTensor(Ggml.Type.F16, 2, [4, 5]).ne == (4, 5, 1, 1)
    assert ctx.newTensor(Ggml.Type.F16, 1, 2, 3, 4).shape == (4, 3, 2, 1)
    assert ctx.newGraph(32, True).size == 32
    Ggml.free(ctx)


@covers(
    *("Backend", "BackendBuffer", "BackendBufferType", "Gallocr", "Backend.cpuLoad", "Backend.cpuInit"),
    *("Backend.isCpu", "Backend.isVk", "Backend.cpuSetNThreads", "Backend.getDefaultBufferType"),
    *("Backend.graphCompute", "Backend.graphComputeAsync", "Backend.free", "BackendBuffer.free"),
    *("Gallocr.new", "Gallocr.allocGraph", "Gallocr.free", "Context.backendAllocTensors"),
    *("Tensor.backendSet", "Tensor.backendGet"),
)
def test_the_example_with_a_backend() -> None:
    Ggml.Backend.cpuLoad()
    backend = Ggml.Backend.cpuInit()
    assert isinstance(backend, Ggml.Backend) and backend.isCpu and not backend.isVk
    backend.cpuSetNThreads(2)
    ctx = Ggml.init(Ggml.InitParams(memSize=2 * Ggml.getTensorOverhead(), noAlloc=True))
    a = ctx.newTensor(Ggml.Type.F32, 2, 4)
    b = ctx.newTensor(Ggml.Type.F32, 2, 3)
    buffer = ctx.backendAllocTensors(backend)
    assert isinstance(buffer, Ggml.BackendBuffer) and buffer.isHost and buffer.size >= a.nBytes + b.nBytes
    assert ctx.backendAllocTensors(backend) is None
    a.backendSet(array("f", A), 0, a.nBytes)
    b.backendSet(array("f", B), 0, b.nBytes)
    size = Ggml.getTensorOverhead() * 4 + Ggml.getGraphOverhead()
    work = Ggml.init(Ggml.InitParams(memSize=size, noAlloc=True))
    graph = work.newGraph()
    result = work.mulMat(a, b)
    Ggml.buildForwardExpand(graph, result)
    kind = backend.getDefaultBufferType()
    assert isinstance(kind, Ggml.BackendBufferType)
    allocator = Ggml.Gallocr.new(kind)
    assert isinstance(allocator, Ggml.Gallocr)
    for compute in (backend.graphCompute, backend.graphComputeAsync):
        assert allocator.allocGraph(graph) is True
        assert compute(graph) is Ggml.Status.SUCCESS
        backend.synchronize()
        out = array("f", [0.0] * 12)
        result.backendGet(out, 0, result.nBytes)
        assert list(out) == PRODUCT
    for thing in (work, ctx, allocator, buffer, backend):
        thing.free()
        assert thing.closed


@covers("Backend.Reg", "Backend.load", "Backend.vkLoad")
def test_backends_are_loaded_by_name() -> None:
    Ggml.Backend.load("cpu")
    [cpu] = [reg for reg in Ggml.Backend.registrations() if reg.name == "CPU"]
    assert isinstance(cpu, Ggml.Backend.Reg) and Ggml.Backend.Reg is Ggml.BackendReg
    assert callable(Ggml.Backend.vkLoad)  # tests/vulkan loads it


@covers("Backend.vkInit")
def test_vulkan_devices_are_counted_before_one_is_used() -> None:
    loaded = [reg.name for reg in Ggml.Backend.registrations()]
    if "Vulkan" not in loaded and "vulkan" not in Ggml.Backend.available():
        with pytest.warns(RuntimeWarning), pytest.raises(IndexError, match=r"devNum.*0.*got 0"):
            Ggml.Backend.vkInit(0)
    else:
        with pytest.raises(TypeError):
            Ggml.Backend.vkInit("0")  # type: ignore[arg-type]


# Graphs and plans


@covers(*below("CPlan"), "CPlan", "CGraph.plan", "CGraph.compute", "CGraph.print")
def test_a_plan_says_what_the_cpu_needs() -> None:
    with Ggml.Context() as ctx, Ggml.Threadpool(2) as pool:
        a = ctx.tensor(np.ones((4, 64), np.float32), Ggml.Type.Q8_0)
        result = ctx.mulMat(a, ctx.tensor(np.ones((3, 64), np.float32)))
        graph = ctx.newGraph()
        Ggml.buildForwardExpand(graph, result)
        plan = graph.plan(2, pool)
        assert isinstance(plan, Ggml.CPlan)
        assert plan.workSize > 0 and plan.nThreads == 2 and plan.threadPool is pool and plan.workData is None
        plan.workData = bytearray(plan.workSize)
        assert graph.compute(plan) is Ggml.Status.SUCCESS
        np.testing.assert_allclose(result.numpy(), 64, rtol=0.01)
        plan.workData = bytearray(1)
        with pytest.raises(ValueError, match="workData"):
            graph.compute(plan)
        plan.workData, seen = None, []
        plan.abortCallback = lambda data: bool(seen.append(data)) or True
        plan.abortCallbackData = "data"
        assert graph.compute(plan) is Ggml.Status.ABORTED
        assert seen == ["data"]
        graph.print()


@covers("buildBackwardExpand", "CGraph.reset", "Tensor.setParam", "Tensor.setLoss")
def test_gradients_are_those_of_finite_differences() -> None:
    weights, data = np.array([[0.5, -1.0, 2.0]], np.float32), np.arange(6, dtype=np.float32).reshape(2, 3) / 5
    with Ggml.Context() as ctx:
        w = ctx.tensor(weights).setParam()
        loss = ctx.sum(ctx.sqr(ctx.mulMat(w, ctx.tensor(data)))).setLoss()
        graph = ctx.newGraph(256, grads=True)
        Ggml.buildForwardExpand(graph, loss)
        Ggml.buildBackwardExpand(ctx, graph)
        graph.reset()
        ctx.graphCompute(graph, 1)
        grad = graph.getGrad(w)
        assert grad is not None
        expected = 2 * (data @ weights.T).T @ data
        np.testing.assert_allclose(grad.numpy(), expected[0], rtol=1e-4)
        step = 1e-2
        for i in range(3):
            values = []
            for sign in (1, -1):
                moved = weights.copy()
                moved[0, i] += sign * step
                w.set(moved)
                ctx.graphCompute(graph, 1)
                values.append(float(loss.numpy()[0]))
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected[0, i], rel=1e-2)


# Tensors


@covers("Tensor.name", "Tensor.setInput", "Tensor.setOutput", "Tensor.nRows", "Tensor.nBytesPad")
def test_names_marks_and_counts() -> None:
    with Ggml.Context() as ctx:
        tensor = ctx.newTensor(Ggml.Type.F32, 3, 2, 2)
        assert tensor.name == ""
        tensor.name = "weight"
        assert tensor.name == "weight" and ctx.getTensor("weight") == tensor
        assert tensor.setInput() is tensor and tensor.setOutput() is tensor
        flags = lib.GGML_TENSOR_FLAG_INPUT | lib.GGML_TENSOR_FLAG_OUTPUT
        assert tensor._c.flags & flags == flags
        assert (tensor.nRows, tensor.nBytes, tensor.nBytesPad) == (4, 48, 48)
        assert ctx.newTensor(Ggml.Type.F32, 3).nBytesPad == 16
        with pytest.raises(ValueError, match=r"63.*64"):
            tensor.name = "x" * 64


# The operations of the sister's context, each beside numpy

OPERATIONS: dict[str, Callable[[Ggml.Context, Ggml.Tensor, Ggml.Tensor], tuple[Ggml.Tensor, Any]]] = {
    "add": lambda c, a, b: (c.add(a, b), a.numpy() + b.numpy()),
    "sub": lambda c, a, b: (c.sub(a, b), a.numpy() - b.numpy()),
    "mul": lambda c, a, b: (c.mul(a, b), a.numpy() * b.numpy()),
    "div": lambda c, a, b: (c.div(a, b), a.numpy() / b.numpy()),
    "log": lambda c, a, b: (c.log(a), np.log(a.numpy())),
    "sum": lambda c, a, b: (c.sum(a), [a.numpy().sum()]),
    "mean": lambda c, a, b: (c.mean(a), a.numpy().mean(1, keepdims=True)),
    "argmax": lambda c, a, b: (c.argmax(a), a.numpy().argmax(1)),
    "norm": lambda c, a, b: (
        c.norm(a, 0.0),
        (a.numpy() - a.numpy().mean(1, keepdims=True)) / a.numpy().std(1, keepdims=True),
    ),
    "rmsNorm": lambda c, a, b: (
        c.rmsNorm(a, 0.0),
        a.numpy() / np.sqrt((a.numpy() ** 2).mean(1, keepdims=True)),
    ),
    "scale": lambda c, a, b: (c.scale(a, 2.0), a.numpy() * 2),
    "set": lambda c, a, b: (c.set(a, b, a.nb[1], a.nb[2], a.nb[3], 0), b.numpy()),
    "cpy": lambda c, a, b: (c.cpy(a, b), a.numpy().copy()),
    "cont": lambda c, a, b: (c.cont(c.transpose(a)), a.numpy().T),
    "transpose": lambda c, a, b: (c.transpose(a), a.numpy().T),
    "permute": lambda c, a, b: (c.permute(a, 1, 0, 2, 3), a.numpy().T),
    "reshape": lambda c, a, b: (c.reshape(c.reshape(a, 12), c.reshape(a, 2, 6)), a.numpy().reshape(6, 2)),
    "view": lambda c, a, b: (c.view(a, 2, 3, 16, 4), a.numpy()[:, 1:3]),
    "getRows": lambda c, a, b: (c.getRows(a, c.tensor([2, 0], Ggml.Type.I32)), a.numpy()[[2, 0]]),
    "setRows": lambda c, a, b: (
        c.setRows(a, c.view(b, 4, 1, 16, 0), c.tensor([1], Ggml.Type.I64)),
        np.stack([a.numpy()[0], b.numpy()[0], a.numpy()[2]]),
    ),
    "diag": lambda c, a, b: (c.diag(c.view(a, 4, 0)), np.diag(a.numpy()[0])),
    "diagMaskInf": lambda c, a, b: (c.diagMaskInf(a, 0), masked(a.numpy(), -np.inf)),
    "diagMaskInfInplace": lambda c, a, b: (c.diagMaskInfInplace(a, 0), masked(a.numpy(), -np.inf)),
    "diagMaskZero": lambda c, a, b: (c.diagMaskZero(a, 0), masked(a.numpy(), 0.0)),
    "diagMaskZeroInplace": lambda c, a, b: (c.diagMaskZeroInplace(a, 0), masked(a.numpy(), 0.0)),
    "softMax": lambda c, a, b: (c.softMax(a), np.exp(a.numpy()) / np.exp(a.numpy()).sum(1, keepdims=True)),
    "rope": lambda c, a, b: (
        c.rope(c.reshape(a, 4, 1, 3), c.tensor([0, 0, 0], Ggml.Type.I32), 4, 0),
        a.numpy()[:, None],
    ),
    "pad": lambda c, a, b: (c.pad(a, 1, 0, 0, 0), np.pad(a.numpy(), ((0, 0), (0, 1)))),
    "roll": lambda c, a, b: (c.roll(a, 1, 0, 0, 0), np.roll(a.numpy(), 1, 1)),
}


def masked(values: Any, fill: float) -> Any:
    rows, columns = np.indices(values.shape)
    return np.where(columns > rows, np.float32(fill), values)


@covers(*(f"Context.{name}" for name in OPERATIONS))
def test_every_operation_is_listed() -> None:
    assert len(OPERATIONS) == 29


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_the_sister(name: str) -> None:
    with Ggml.Context() as ctx:
        a = ctx.tensor(np.random.default_rng(0).uniform(0.5, 2, (3, 4)).astype(np.float32))
        b = ctx.tensor(np.random.default_rng(1).uniform(0.5, 2, (3, 4)).astype(np.float32))
        result, expected = OPERATIONS[name](ctx, a, b)
        np.testing.assert_allclose(Ggml.compute(result), expected, rtol=1e-4)


@covers("Context.dup")
def test_copies_of_tensors_and_graphs() -> None:
    with Ggml.Context() as ctx:
        tensor = ctx.tensor(np.ones((2, 3), np.float16))
        copy = ctx.dup(tensor)
        assert (copy.type, copy.shape) == (tensor.type, tensor.shape) and copy != tensor
        graph = ctx.newGraph(16)
        Ggml.buildForwardExpand(graph, ctx.scale(ctx.tensor([1.0, 2.0]), 2.0))
        other = ctx.dup(graph, True)
        assert other.nodes == graph.nodes and other.size == 16 and other != graph


# Thread pools


@covers(
    *("ThreadPool", "ThreadPool.Params", *below("ThreadPool.Params")),
    *("ThreadPool.new", "ThreadPool.free", "ThreadPool.nThreads", "ThreadPool.pause", "ThreadPool.resume"),
)
def test_a_thread_pool_is_made_of_parameters() -> None:
    assert Ggml.ThreadPool is Ggml.Threadpool and Ggml.ThreadPool.SchedPriority is Ggml.SchedPriority
    params = Ggml.ThreadPool.Params.getDefault(2)
    assert (params.nThreads, params.poll, params.strictCpu, params.paused) == (2, 50, False, False)
    assert params.prio is Ggml.SchedPriority.NORMAL and len(params.cpuMask) == 512 and not any(params.cpuMask)
    other = Ggml.ThreadPool.Params()
    other.init(3)
    assert other.nThreads == 3 and not Ggml.ThreadPool.Params.match(params, other)
    other.nThreads = 2
    assert Ggml.ThreadPool.Params.match(params, other)
    params.cpuMask[min(os.sched_getaffinity(0))] = True
    assert not Ggml.ThreadPool.Params.match(params, other)
    pool = Ggml.ThreadPool.new(params)
    assert pool.nThreads == 2
    pool.pause()
    pool.resume()
    pool.free()
    assert pool.closed


# The table


def test_the_table_is_that_of_the_specification() -> None:
    assert len(TABLE) == 217
    assert Path(spec.GGML).read_text(encoding="utf-8").startswith("kind\tname\tsignature\tc_name\n")


def test_every_name_exists_with_its_kind() -> None:
    for row in TABLE:
        found: Any = Ggml
        for part in row.name.split("."):
            holder, found = found, getattr(found, part, None) if not isinstance(found, property) else None
        if row.kind == "field" and found is None:  # of objects with attributes of their own
            assert row.name.split(".")[1] in holder.__slots__ or row.name.split(".")[1] in holder.__annotations__, row
            continue
        assert found is not None, row.name
        if row.kind in ("class", "enum"):
            assert isinstance(found, type), row.name
        elif row.kind.startswith("property"):
            assert isinstance(found, property), row.name
        elif row.kind in ("function", "method", "static function"):
            assert callable(found), row.name


def test_every_row_is_covered() -> None:
    assert ROWS - COVERED == set()
    assert len(TABLE) == 217


def test_raw_functions_see_the_same() -> None:
    assert ffi.sizeof("struct ggml_tensor") == lib.GGML_TENSOR_SIZE
