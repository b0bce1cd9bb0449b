"""Training: `Ggml.Opt`, its datasets and results, against the same steps by numpy."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest

from llama_cffi import BusyError, ClosedError, Ggml, NativeAssertionError

LOSS, BY = Ggml.OptLossType, Ggml.OptOptimizerType
RNG = np.random.default_rng(3)
X = RNG.normal(size=(32, 5)).astype(np.float32)
TRUE = RNG.normal(size=(3, 5)).astype(np.float32)
Y = X @ TRUE.T
CLASSES = np.eye(3, dtype=np.float32)[Y.argmax(1)]


class Net:
    """One layer without a bias."""

    def __init__(self, batch: int = 8, seed: int = 5) -> None:
        self.ctx = Ggml.Context(noAlloc=True)
        self.inputs = self.ctx.tensor(np.zeros((batch, 5), np.float32))
        self.start = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
        self.weights = self.ctx.tensor(self.start).setParam()
        self.outputs = self.ctx.mulMat(self.weights, self.inputs)

    def predict(self, points: np.ndarray) -> np.ndarray:
        batch = self.inputs.ne[1]
        parts = []
        for i in range(0, len(points), batch):
            self.inputs.set(points[i : i + batch])
            parts.append(Ggml.compute(self.outputs))
        return np.concatenate(parts)


def _sgd(start: np.ndarray, batch: int, alpha: float, epochs: int) -> tuple[np.ndarray, list[float]]:
    weights, losses = start.astype(np.float64), []
    for _ in range(epochs):
        total = []
        for i in range(0, len(X), batch):
            error = X[i : i + batch] @ weights.T - Y[i : i + batch]
            total.append((error**2).mean())
            weights -= alpha * 2 * error.T @ X[i : i + batch] / error.size
        losses.append(float(np.mean(total)))
    return weights, losses


def test_sgd_makes_the_steps_of_numpy() -> None:
    net = Net()
    with (
        Ggml.OptDataset(X, Y) as data,
        Ggml.Opt(
            net.inputs,
            net.outputs,
            LOSS.MEAN_SQUARED_ERROR,
            optimizer=BY.SGD,
            getOptPars=Ggml.OptOptimizerParams(alpha=0.1),
        ) as opt,
        Ggml.OptResult() as result,
    ):
        losses = []
        for _ in range(3):
            result.reset()
            opt.epoch(data, result)
            losses.append(result.loss)
            assert result.ndata == 32 and result.pred == [] and math.isnan(result.accuracy)
        expected, expected_losses = _sgd(net.start, 8, 0.1, 3)
        np.testing.assert_allclose(net.weights.numpy(), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
        assert opt.optimizer is BY.SGD and opt.lossType is LOSS.MEAN_SQUARED_ERROR
        assert opt.inputs is net.inputs and opt.outputs is net.outputs
    np.testing.assert_allclose(net.predict(X), X @ expected.T, rtol=1e-3, atol=1e-4)


def test_adamw_makes_the_steps_of_numpy() -> None:
    net, alpha, b1, b2, wd = Net(batch=32), 0.05, 0.8, 0.95, 0.01
    params = Ggml.OptOptimizerParams(alpha, b1, b2, 1e-8, wd)
    with Ggml.OptDataset(X, CLASSES) as data, Ggml.Opt(net.inputs, net.outputs, getOptPars=params) as opt:
        for _ in range(4):
            opt.epoch(data)
    weights = net.start.astype(np.float64)
    m = v = np.zeros_like(weights)
    for step in range(1, 5):
        logits = X @ weights.T
        powers = np.exp(logits - logits.max(1, keepdims=True))
        grad = (powers / powers.sum(1, keepdims=True) - CLASSES).T @ X / len(X)
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        weights = weights * (1 - alpha * wd) - alpha * (m / (1 - b1**step)) / (np.sqrt(v / (1 - b2**step)) + 1e-8)
    np.testing.assert_allclose(net.weights.numpy(), weights, rtol=2e-3, atol=1e-4)


def test_gradients_of_several_batches_are_added_up() -> None:
    once, twice = Net(batch=32), Net(batch=8)
    params = Ggml.OptOptimizerParams(alpha=0.2)
    for net, period in ((once, 1), (twice, 4)):
        with (
            Ggml.OptDataset(X, Y) as data,
            Ggml.Opt(
                net.inputs,
                net.outputs,
                LOSS.MEAN_SQUARED_ERROR,
                optimizer=BY.SGD,
                getOptPars=params,
                optPeriod=period,
            ) as opt,
        ):
            for _ in range(3):
                opt.epoch(data)
    np.testing.assert_allclose(once.weights.numpy(), twice.weights.numpy(), rtol=1e-4)


@pytest.mark.parametrize("loss", [LOSS.MEAN, LOSS.SUM])
def test_losses_without_labels(loss: Ggml.OptLossType) -> None:
    net = Net()
    result = net.ctx.sqr(net.outputs)
    with Ggml.OptDataset(X) as data, Ggml.OptResult() as total:
        assert data.labels is None
        with Ggml.Opt(net.inputs, result, loss, optimizer=BY.SGD) as opt:
            opt.epoch(data, None, total, 0)  # evaluates
            first = total.loss
            expected = (X @ net.start.T) ** 2
            np.testing.assert_allclose(first, expected.mean() if loss == LOSS.MEAN else expected.sum(), rtol=1e-4)
            np.testing.assert_array_equal(net.weights.numpy(), net.start)
            for _ in range(3):
                opt.epoch(data)
            total.reset()
            opt.epoch(data, resultEval=total, idataSplit=0)
            assert total.loss < first


def test_fit_learns_and_reports_each_epoch() -> None:
    net, seen = Net(), []
    with Ggml.OptDataset(X, CLASSES, shard=4) as data:
        reached = Ggml.Opt.fit(
            net.inputs,
            net.outputs,
            data,
            getOptPars=lambda epoch: seen.append(epoch) or Ggml.OptOptimizerParams(alpha=0.3 / (1 + epoch / 30)),
            nEpoch=30,
            nBatchLogical=16,
            valSplit=0.5,
        )
    assert [one.epoch for one in reached] == list(range(1, 31)) == seen[1:] and seen[0] == 1
    assert reached[-1].loss < 0.5 * reached[0].loss and reached[-1].accuracy > 0.9
    assert 0.5 <= reached[-1].valAccuracy <= 1 and reached[-1].valLoss > 0


def test_fit_may_end_early_and_what_raises_ends_it() -> None:
    net = Net()
    with Ggml.OptDataset(X, CLASSES) as data:
        got = Ggml.Opt.fit(net.inputs, net.outputs, data, nEpoch=9, callback=lambda done: done.epoch == 2)
        assert len(got) == 2 and math.isnan(got[0].valLoss)
        for what in ({"callback": lambda done: 1 / 0}, {"getOptPars": lambda epoch: 1 // (2 - epoch)}):
            with pytest.raises((ZeroDivisionError, TypeError)):
                Ggml.Opt.fit(net.inputs, net.outputs, data, nEpoch=9, **what)
        with Ggml.Opt(net.inputs, net.outputs) as opt:
            done = []
            with pytest.raises(KeyError):
                opt.epoch(data, callback=lambda *args: done.append(args) or {}[1])
            assert done == [(True, 1, 4)]
            opt.epoch(data, idataSplit=16, callback=lambda *args: done.append(args))
            assert done[1:] == [(True, 1, 2), (True, 2, 2), (False, 1, 2), (False, 2, 2)]


def test_results_are_those_of_the_predictions() -> None:
    net = Net()
    with Ggml.OptDataset(X, CLASSES) as data, Ggml.Opt(net.inputs, net.outputs) as opt, Ggml.OptResult() as result:
        assert result.loss == 0 and result.ndata == 0 and result.pred == []
        opt.epoch(data, None, result, 0)
        classes = (X @ net.start.T).argmax(1)
        assert result.pred == classes.tolist()
        share = float((classes == CLASSES.argmax(1)).mean())
        assert result.accuracy == pytest.approx(share)
        assert result.accuracyUncertainty == pytest.approx(math.sqrt(share * (1 - share) / 31))
        assert result.lossUncertainty > 0


def test_a_dataset_has_views_that_outlive_it() -> None:
    data = Ggml.OptDataset([[1, 2], [3, 4]], [[0.5], [1.5]])
    assert data.data.dtype == np.int32 and data.ndata == len(data) == 2
    points, labels = data.data, data.labels
    assert labels is not None and labels.tolist() == [[0.5], [1.5]]
    points[0, 0] = 9
    assert data.data.tolist() == [[9, 2], [3, 4]]
    data.free()
    data.free()
    gc.collect()
    assert points.tolist() == [[9, 2], [3, 4]] and labels.tolist() == [[0.5], [1.5]]
    with pytest.raises(ClosedError):
        data.data  # noqa: B018
    made = Ggml.OptDataset.init(Ggml.Type.F16, Ggml.Type.F32, 4, 0, 6, 3)
    assert made.data.shape == (6, 4) and made.data.dtype == np.float16 and not made.data.any() and made.labels is None


def test_shuffling_keeps_shards_and_labels_together() -> None:
    net = Net(batch=4)
    numbers = np.arange(32, dtype=np.float32)
    data = Ggml.OptDataset(np.repeat(numbers[:, None], 5, 1), np.eye(3)[np.zeros(32, int)], shard=2)
    orders = []
    with Ggml.Opt(net.inputs, net.outputs) as opt:
        for shuffled in (False, True, True):
            if shuffled:
                opt.shuffle(data)
            order: list[float] = []

            def note(*_: int, order: list[float] = order) -> None:
                order.extend(net.inputs.numpy()[:, 0].tolist())

            opt.epoch(data, idataSplit=0, callback=note)
            orders.append(order)
    assert orders[0] == numbers.tolist() and orders[0] != orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == orders[0] and all(b == a + 1 for a, b in zip(order[::2], order[1::2], strict=True))


def test_reset_starts_the_optimizer_again() -> None:
    net = Net(batch=32)
    with Ggml.OptDataset(X, CLASSES) as data, Ggml.Opt(net.inputs, net.outputs) as opt:
        opt.epoch(data)
        first = net.weights.numpy().copy()
        opt.epoch(data)
        net.weights.set(net.start)
        opt.reset(optimizer=True)
        opt.reset()
        opt.epoch(data)
        np.testing.assert_array_equal(net.weights.numpy(), first)


def test_lifetimes() -> None:
    for order in ("ctx opt data", "data opt ctx", "opt ctx data", "ctx data opt"):
        net, data = Net(), Ggml.OptDataset(X, CLASSES)
        opt = Ggml.Opt(net.inputs, net.outputs)
        opt.epoch(data)
        things = {"ctx": net.ctx, "opt": opt, "data": data}
        for name in order.split():
            things[name].free()
            with pytest.raises(ClosedError):
                opt.epoch(data)
    net = Net()
    opt, gone = Ggml.Opt(net.inputs, net.outputs), weakref.ref(net.ctx)
    del net
    gc.collect()
    assert gone() is not None
    opt.epoch(Ggml.OptDataset(X, CLASSES))
    del opt
    gc.collect()
    assert gone() is None


def test_an_operation_without_a_gradient_is_refused() -> None:
    net = Net()
    with pytest.raises(NativeAssertionError):
        Ggml.Opt(net.inputs, net.ctx.mapCustom1(net.outputs, lambda a: a))
    with Ggml.Opt(net.inputs, net.outputs) as opt:
        opt.epoch(Ggml.OptDataset(X, CLASSES))


def test_a_training_is_busy_in_its_callbacks_of_c() -> None:
    net = Net()
    data = Ggml.OptDataset(X, CLASSES)
    opts: list[Ggml.Opt] = []
    acts = iter((lambda: opts[0].free(), lambda: data.free(), lambda: net.ctx.free(), lambda: opts[0].epoch(data)))
    spied = net.ctx.mapCustom1(net.inputs, lambda a: next(acts)() or a)
    opts.append(Ggml.Opt(net.inputs, net.ctx.mulMat(net.weights, spied)))
    for _ in range(4):
        with pytest.raises(BusyError):
            opts[0].epoch(data)
    with pytest.raises(StopIteration):
        opts[0].epoch(data)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no parameter", "setParam"),
        ("a parameter of F16", "F32.*F16"),
        ("memory of the context", "buffer"),
        ("results with memory", "buffer|noAlloc"),
        ("outputs that are data", "result of an operation"),
        ("inputs that are a result", "data of type"),
        ("outputs without inputs", "depend"),
        ("another number of rows", "rows.*8.*4"),
        ("a loss", "setLoss"),
        ("a sort", "sort"),
        ("three dimensions", "row for each"),
        ("inputs that are trained", "parameter"),
    ],
)
def test_nets_that_cannot_be_trained(case: str, words: str) -> None:
    net = Net()
    ctx, inputs, outputs = net.ctx, net.inputs, net.outputs
    if case == "no parameter":
        outputs = ctx.mulMat(ctx.tensor(net.start), inputs)
    elif case == "a parameter of F16":
        outputs = ctx.mulMat(ctx.tensor(net.start, Ggml.Type.F16).setParam(), inputs)
    elif case in ("memory of the context", "results with memory"):
        plain = Ggml.Context()
        weights = plain.tensor(net.start).setParam() if case[0] == "m" else net.weights
        outputs = plain.mulMat(weights, inputs)
    elif case == "outputs that are data":
        outputs = ctx.tensor(np.zeros((8, 3), np.float32))
    elif case == "inputs that are a result":
        inputs = ctx.sqr(inputs)
    elif case == "outputs without inputs":
        outputs = ctx.mulMat(net.weights, ctx.tensor(np.zeros((8, 5), np.float32)))
    elif case == "another number of rows":
        outputs = ctx.view(net.outputs, 3, 4, 12, 0)
    elif case == "a loss":
        ctx.sum(outputs)
        loss = ctx.sum(ctx.sqr(outputs)).setLoss()
        outputs = ctx.add(outputs, loss)
    elif case == "a sort":
        outputs = ctx.add(outputs, ctx.cast(ctx.argsort(outputs, Ggml.SortOrder.ASC), Ggml.Type.F32))
    elif case == "three dimensions":
        outputs = ctx.reshape(outputs, 3, 4, 2)
    elif case == "inputs that are trained":
        inputs.setParam()
    with pytest.raises(ValueError, match=words):
        Ggml.Opt(inputs, outputs)


def test_memory_of_an_allocator_is_refused() -> None:
    backend = Ggml.Backend.cpuInit()
    ctx = Ggml.Context(noAlloc=True)
    inputs = ctx.tensor(np.zeros((8, 5), np.float32))
    weights = ctx.newTensor(Ggml.Type.F32, 5, 3).setParam()
    outputs = ctx.mulMat(weights, inputs)
    with pytest.raises(ValueError, match="buffer"):
        Ggml.Opt(inputs, outputs)
    graph = ctx.newGraph(8)
    graph.expand(weights)
    with Ggml.Gallocr(backend.getDefaultBufferType()) as allocator:
        allocator.allocGraph(graph)
        if weights.isAllocated:
            with pytest.raises(ValueError, match="allocator"):
                Ggml.Opt(inputs, outputs)


def test_an_allocator_cannot_take_memory_from_a_training() -> None:
    backend, net = Ggml.Backend.cpuInit(), Net()
    data = Ggml.OptDataset(X, Y)
    start = net.weights.numpy().copy()
    ends = []
    for allocates in (False, True):
        net.weights.set(start)
        graph = Ggml.Context(noAlloc=True).newGraph(8)
        graph.expand(net.outputs)
        with Ggml.Opt(net.inputs, net.outputs, LOSS.MEAN_SQUARED_ERROR) as opt:
            allocator = Ggml.Gallocr(backend.getDefaultBufferType())
            if allocates:
                allocator.allocGraph(graph)
                assert net.outputs.isAllocated
            opt.epoch(data)
            allocator.free()
            kept = [np.full(1000, np.nan, np.float32) for _ in range(100)]  # what uses the memory next
            opt.epoch(data)
            assert len(kept) == 100
        ends.append(net.weights.numpy().copy())
    np.testing.assert_array_equal(*ends)


def test_a_net_that_is_too_large() -> None:
    net = Net()
    for n, words in ((1100, "room"), (3000, "room")):
        outputs = net.outputs
        for _ in range(n):
            outputs = net.ctx.scale(outputs, 1.0)
        with pytest.raises(ValueError, match=words):
            Ggml.Opt(net.inputs, outputs)


def test_datasets_that_do_not_fit() -> None:
    net = Net()
    with Ggml.Opt(net.inputs, net.outputs) as opt, Ggml.OptResult() as result:
        for data, words in (
            (Ggml.OptDataset(X[:, :4], CLASSES), "5 numbers.*got 4"),
            (Ggml.OptDataset(X.astype(int), CLASSES), "F32.*I32"),
            (Ggml.OptDataset(X), "3 numbers.*got 0"),
            (Ggml.OptDataset(X, CLASSES[:, :2]), "3 numbers.*got 2"),
            (Ggml.OptDataset(X[:12], CLASSES[:12]), "divide 12"),
            (Ggml.OptDataset(X, CLASSES, 16), "multiple of 16"),
            (Ggml.OptDataset.init(Ggml.Type.F32, Ggml.Type.F16, 5, 3, 32), "F32.*F16"),
        ):
            with pytest.raises(ValueError, match=words):
                opt.epoch(data, result)
            with pytest.raises(ValueError, match="nBatchLogical|" + words):
                Ggml.Opt.fit(net.inputs, net.outputs, data)
        data = Ggml.OptDataset(X, CLASSES)
        for split in (3, 33, -2):
            with pytest.raises(ValueError, match=f"idataSplit.*{split}"):
                opt.epoch(data, idataSplit=split)
        opt.epoch(data, result)
        other = Net(batch=4)
        with Ggml.Opt(other.inputs, other.outputs) as smaller, pytest.raises(ValueError, match="reset"):
            smaller.epoch(data, result)
        with pytest.raises(ValueError, match="idata.*33"):
            opt.shuffle(data, 33)
        with pytest.raises(ValueError, match="valSplit.*1.0"):
            Ggml.Opt.fit(net.inputs, net.outputs, data, valSplit=1.0)
        for logical in (0, 4, 24):
            with pytest.raises(ValueError, match=f"nBatchLogical.*{logical}"):
                Ggml.Opt.fit(net.inputs, net.outputs, data, nBatchLogical=logical)
    with pytest.raises(ValueError, match="labels.*32"):
        Ggml.OptDataset(X, CLASSES[:3])
    with pytest.raises(ValueError, match="shard.*32.*got 5"):
        Ggml.OptDataset(X, CLASSES, 5)
    with pytest.raises(ValueError, match="32 bits"):
        Ggml.OptDataset([[1 << 40]])
    with pytest.raises(ValueError, match="at least 1"):
        Ggml.OptDataset([])


@pytest.mark.parametrize(("name", "value"), [("alpha", 0), ("alpha", float("nan")), ("beta1", 1.5), ("wd", -1)])
def test_numbers_of_the_optimizer_have_ranges(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}.*between"):
        Ggml.OptOptimizerParams(**{name: value})
    params = Ggml.OptOptimizerParams()
    with pytest.raises(ValueError, match=f"{name}.*between"):
        setattr(params, name, value)
    assert params == Ggml.OptOptimizerParams() and "alpha=0.001" in repr(params)
    with pytest.raises(TypeError, match="alpha"):
        Ggml.OptOptimizerParams("x")  # type: ignore[arg-type]
    net = Net()
    with pytest.raises(TypeError, match="getOptPars.*float"):
        Ggml.Opt(net.inputs, net.outputs, getOptPars=0.1)  # type: ignore[arg-type]


def test_other_arguments() -> None:
    net = Net()
    with pytest.raises(ValueError, match="lossType.*9"):
        Ggml.Opt(net.inputs, net.outputs, 9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer.*COUNT"):
        Ggml.Opt(net.inputs, net.outputs, optimizer=BY.COUNT)
    with pytest.raises(ValueError, match="optPeriod.*0"):
        Ggml.Opt(net.inputs, net.outputs, optPeriod=0)
    with pytest.raises(TypeError, match="inputs.*int"):
        Ggml.Opt(1, net.outputs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nope"):
        Ggml.Opt(net.inputs, net.outputs, backend="nope")
    with Ggml.Opt.init(net.inputs, net.outputs, backend=["cpu", "cpu"]) as opt:
        with pytest.raises(TypeError, match="dataset.*int"):
            opt.epoch(1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="resultEval.*int"):
            opt.epoch(Ggml.OptDataset(X, CLASSES), None, 1)  # type: ignore[arg-type]
        opt.epoch(Ggml.OptDataset(X, CLASSES))
