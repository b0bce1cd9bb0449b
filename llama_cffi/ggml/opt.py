"""`Ggml.Opt`: trains the parameters of a small net, by AdamW or SGD. Fine-tuning a model is `llama_cffi.fineTune`."""

from __future__ import annotations

from typing import NamedTuple

from llama_cffi._core.checks import boolean, enum_member, expected, integer, number, out_of_range
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import exclusive, own
from llama_cffi._generated import enums
from llama_cffi.errors import NativeMemoryError
from llama_cffi.ggml.computation import finish
from llama_cffi.ggml.context import Context
from llama_cffi.ggml.evaluation import backend_of
from llama_cffi.ggml.opt_dataset import OptDataset, OptResult
from llama_cffi.ggml.opt_params import optimizer_params
from llama_cffi.ggml.opt_rehearsal import backends_of, rehearse
from llama_cffi.ggml.sched import BackendSched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from llama_cffi._generated.enums import GgmlOptLossType, GgmlOptOptimizerType
    from llama_cffi.ggml.backend import Backend
    from llama_cffi.ggml.device import BackendDevice
    from llama_cffi.ggml.opt_params import OptOptimizerParams
    from llama_cffi.ggml.tensor import Tensor

    Backends = str | BackendDevice | Backend | list[str | BackendDevice | Backend]
    Parameters = OptOptimizerParams | Callable[[int], OptOptimizerParams] | None

_MOST = (1 << 31) - 1


class OptEpoch(NamedTuple):
    """What an epoch of a training reached. NaN stands for what was not evaluated."""

    epoch: int
    """Its number, from 1 on."""
    loss: float
    """The mean loss of the data points that were trained on."""
    accuracy: float
    """The share of them that were predicted right."""
    valLoss: float
    """The mean loss of the data points that were kept for validation."""
    valAccuracy: float
    """The share of them that were predicted right."""


class Opt(Handle):
    """A training: changes the parameters of a net so that a loss becomes smaller. `Opt.fit` does all of it in one call.

    `inputs` has a row for each data point of a batch, and `outputs` is computed from it, with a row for each as well.
    Tensors marked by `setParam()` are trained; they and `inputs` lie in buffers, so make them in contexts with noAlloc.
    Afterwards, `inputs.set(batch)` and `Ggml.compute(outputs)` predict.

    Maps to `ggml_opt_context`.
    """

    __slots__ = (
        "_copy",
        "_epochs",
        "_getOptPars",
        "_inputs",
        "_lossType",
        "_numbers",
        "_optPeriod",
        "_optimizer",
        "_outputs",
        "_safe",
        "_sched",
        "_work",
    )

    _KIND = "training"

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        lossType: GgmlOptLossType = enums.GgmlOptLossType.CROSS_ENTROPY,
        *,
        optimizer: GgmlOptOptimizerType = enums.GgmlOptOptimizerType.ADAMW,
        getOptPars: Parameters = None,
        optPeriod: int = 1,
        backend: Backends = "cpu",
    ) -> None:
        """Prepare a training.

        `getOptPars` are `Ggml.OptOptimizerParams`, or a function that returns them for the number of an epoch. The
        gradients of `optPeriod` batches are added up for each step. `backend` is as for `Ggml.compute`,
        or a list in the order of preference; the CPU computes what they do not support. Raises ValueError for a net
        that cannot be trained, NativeAssertionError for an operation without a gradient.

        Maps to `ggml_opt_init`.
        """
        self._lossType = enum_member(enums.GgmlOptLossType, lossType, "lossType")
        self._optimizer = enum_member(enums.GgmlOptOptimizerType, optimizer, "optimizer")
        self._optPeriod = integer(optPeriod, 1, _MOST, "optPeriod")
        optimizer_params(getOptPars, 1)
        self._getOptPars = getOptPars
        self._inputs, self._outputs = inputs, outputs
        self._epochs = 0
        backends = [backend_of(one) for one in backends_of(backend)]
        if not backends[-1].isCpu:
            backends.append(backend_of("cpu"))
        plan = rehearse(inputs, outputs, self._lossType, self._optimizer, backends)
        self._safe = plan.safe
        self._numbers = ffi.new("struct ggml_opt_optimizer_params *")
        self._sched = BackendSched(backends, plan.tensors)
        self._work = Context(plan.memory, noAlloc=True)
        self._start()

    def _start(self) -> None:
        # The training gets copies of the tensors: an allocator may give memory to the originals, and take it back.
        copy = ffi.new("struct ggml_tensor **", self._inputs._c)
        with exclusive(self._work) as pointer:
            outputs = lib.shim_clone(pointer, self._outputs._c, copy)
        if outputs == ffi.NULL or copy[0] == ffi.NULL:
            raise NativeMemoryError("out of memory for a training", operation="ggml_opt_init")
        self._copy = copy[0]
        params = lib.ggml_opt_default_params(self._sched._c, self._lossType)
        params.ctx_compute = self._work._c
        params.inputs, params.outputs = self._copy, outputs
        params.opt_period, params.optimizer = self._optPeriod, self._optimizer
        params.get_opt_pars = ffi.addressof(lib, "ggml_opt_get_constant_optimizer_params")
        params.get_opt_pars_ud = self._numbers
        arenas = self._arenas()
        with exclusive(self._sched, *self._sched.backends, *arenas):
            owned = own(lib.ggml_opt_free, lib.ggml_opt_init, params)
            if owned.pointer is None:
                raise NativeMemoryError("out of memory for a training", operation="ggml_opt_init")
            owned.keep(self._numbers)
            for handle in (self._sched, self._work, *arenas):
                if handle._owned is None or not owned.keep(handle._owned):
                    handle._raise_closed()
        self._open(owned)

    @classmethod
    def init(
        cls,
        inputs: Tensor,
        outputs: Tensor,
        lossType: GgmlOptLossType = enums.GgmlOptLossType.CROSS_ENTROPY,
        *,
        optimizer: GgmlOptOptimizerType = enums.GgmlOptOptimizerType.ADAMW,
        getOptPars: Parameters = None,
        optPeriod: int = 1,
        backend: Backends = "cpu",
    ) -> Opt:
        """Prepare a training, as calling the class does.

        Maps to `ggml_opt_init`.
        """
        return cls(
            inputs,
            outputs,
            lossType,
            optimizer=optimizer,
            getOptPars=getOptPars,
            optPeriod=optPeriod,
            backend=backend,
        )

    @classmethod
    def fit(
        cls,
        inputs: Tensor,
        outputs: Tensor,
        dataset: OptDataset,
        lossType: GgmlOptLossType = enums.GgmlOptLossType.CROSS_ENTROPY,
        *,
        optimizer: GgmlOptOptimizerType = enums.GgmlOptOptimizerType.ADAMW,
        getOptPars: Parameters = None,
        nEpoch: int = 1,
        nBatchLogical: int | None = None,
        valSplit: float = 0.0,
        backend: Backends = "cpu",
        callback: Callable[[OptEpoch], bool | None] | None = None,
    ) -> list[OptEpoch]:
        """Train on a dataset `nEpoch` times, in another order each time. Returns what each epoch reached.

        The optimizer makes a step for `nBatchLogical` data points; None: for each batch, as many as `inputs` has rows.
        The share `valSplit` of the data points is evaluated, and not trained on. `callback` is called after each epoch,
        and ends the training by returning True. Raises ValueError for sizes that do not divide each other.

        Maps to `ggml_opt_fit`.
        """
        epochs = integer(nEpoch, 0, _MOST, "nEpoch")
        batch = inputs.ne[1] if hasattr(inputs, "ne") else 1
        _require_dataset(dataset)
        logical = integer(batch if nBatchLogical is None else nBatchLogical, 1, _MOST, "nBatchLogical")
        if logical % batch or dataset.ndata % logical:
            raise ValueError(
                f"nBatchLogical must be a multiple of {batch}, the rows of inputs, and divide {dataset.ndata}, the "
                f"number of data points, got {logical}"
            )
        share = number(valSplit, "valSplit")
        if not 0.0 <= share < 1.0:
            raise out_of_range("valSplit", valSplit, 0.0, 1.0, "1.0 itself leaves nothing to train on")
        split = int((1.0 - share) * (dataset.ndata // logical)) * logical
        training = cls(
            inputs,
            outputs,
            lossType,
            optimizer=optimizer,
            getOptPars=getOptPars,
            optPeriod=logical // batch,
            backend=backend,
        )
        with training, OptResult() as trained, OptResult() as validated:
            if logical < dataset.ndata:
                training.shuffle(dataset)
            return training._epochs_of(dataset, epochs, split, logical, trained, validated, callback)

    def _epochs_of(
        self,
        dataset: OptDataset,
        n: int,
        split: int,
        logical: int,
        trained: OptResult,
        validated: OptResult,
        callback: Callable[[OptEpoch], bool | None] | None,
    ) -> list[OptEpoch]:
        done = []
        for index in range(1, n + 1):
            if logical < split:
                self.shuffle(dataset, split)
            trained.reset()
            validated.reset()
            self.epoch(dataset, trained, validated, split)
            done.append(reached(index, trained, validated))
            if callback is not None and callback(done[-1]) is True:
                break
        return done

    def epoch(
        self,
        dataset: OptDataset,
        resultTrain: OptResult | None = None,
        resultEval: OptResult | None = None,
        idataSplit: int = -1,
        callback: Callable[[bool, int, int], object] | None = None,
    ) -> None:
        """Train on the data points before `idataSplit` (-1: all), and evaluate the others. Adds to the results.

        `callback(train, done, batches)` is called after each batch. Raises ValueError for a dataset whose rows or
        number do not fit. Ctrl-C and exceptions end it after a batch.

        Maps to `ggml_opt_epoch`.
        """
        _require_dataset(dataset)
        for name, result in (("resultTrain", resultTrain), ("resultEval", resultEval)):
            if result is not None and not isinstance(result, OptResult):
                raise expected("a Ggml.OptResult or None", result, "Ggml.OptResult() makes one", name)
        batch, n = self._check_dataset(dataset)
        split = n if idataSplit == -1 else integer(idataSplit, 0, n, "idataSplit", "the dataset ends there")
        if split % batch:
            raise ValueError(f"idataSplit must be a multiple of {batch}, the rows of inputs, got {split}")
        self._epochs += 1
        optimizer_params(self._getOptPars, self._epochs)._write(self._numbers)
        for index in range(n // batch):
            train = index * batch < split
            self._batch(dataset, index, train, resultTrain if train else resultEval)
            if callback is not None:
                first, last = (0, split) if train else (split, n)
                callback(train, index + 1 - first // batch, (last - first) // batch)

    def _batch(self, dataset: OptDataset, index: int, train: bool, result: OptResult | None) -> None:
        handles = [self._sched, *self._sched.backends, dataset, *self._arenas()]
        with exclusive(self, *handles, *([] if result is None else [result])) as pointer:
            if result is not None:
                result._admit((self._inputs.ne[1], self._lossType, self._optPeriod))
            self._sched._set_threads(self._safe)
            where = ffi.NULL if result is None else result._c
            lib.shim_opt_batch(pointer, dataset._c, self._copy, index, train, where)
        finish(lib.GGML_STATUS_SUCCESS)

    def _check_dataset(self, dataset: OptDataset) -> tuple[int, int]:
        """Return the size of a batch, and the number of data points."""
        n, batch = dataset.ndata, self._inputs.ne[1]
        if dataset._neDatapoint != self._inputs.ne[0] or dataset._dataType != self._inputs.type:
            raise ValueError(
                f"data points must be {self._inputs.ne[0]} numbers of type {self._inputs.type.name}, as inputs, got "
                f"{dataset._neDatapoint} of {enums.GgmlType(dataset._dataType).name}"
            )
        labelled = self._lossType in (enums.GgmlOptLossType.CROSS_ENTROPY, enums.GgmlOptLossType.MEAN_SQUARED_ERROR)
        wanted = self._outputs.ne[0] if labelled else 0
        if dataset._neLabel != wanted or (wanted and dataset._labelType != lib.GGML_TYPE_F32):
            raise ValueError(
                f"labels must be {wanted} numbers of type F32 for each data point, as outputs and the loss "
                f"{self._lossType.name} need, got {dataset._neLabel} of {enums.GgmlType(dataset._labelType).name}"
            )
        if n % batch or batch % dataset._shard:
            raise ValueError(
                f"a batch of {batch}, the rows of inputs, must divide {n}, the number of data points, and be a multiple"
                f" of {dataset._shard}, the shard"
            )
        return batch, n

    def shuffle(self, dataset: OptDataset, idata: int = -1) -> None:
        """Shuffle the first `idata` data points of a dataset, -1: all, for the next epochs.

        Maps to `ggml_opt_dataset_shuffle`.
        """
        _require_dataset(dataset)
        n = integer(idata, -1, dataset.ndata, "idata", "the dataset ends there")
        if n % dataset._shard and n != -1:
            raise ValueError(f"idata must be a multiple of {dataset._shard}, the shard, got {n}")
        with exclusive(self, dataset) as pointer:
            lib.ggml_opt_dataset_shuffle(pointer, dataset._c, n)

    def reset(self, optimizer: bool = False) -> None:
        """Set the gradients to zero; with `optimizer`, the momenta and the count of steps as well.

        Maps to `ggml_opt_reset`.
        """
        self._run(lib.ggml_opt_reset, boolean(optimizer, "optimizer"))

    @property
    def inputs(self) -> Tensor:
        """The tensor that batches of data points are copied to.

        Maps to `ggml_opt_inputs`.
        """
        self._c  # noqa: B018  # raises once it is freed
        return self._inputs

    @property
    def outputs(self) -> Tensor:
        """The result of the net.

        Maps to `ggml_opt_outputs`.
        """
        self._c  # noqa: B018  # raises once it is freed
        return self._outputs

    @property
    def lossType(self) -> GgmlOptLossType:
        """What is minimized."""
        return enums.GgmlOptLossType(self._lossType)

    @property
    def optimizer(self) -> GgmlOptOptimizerType:
        """How it is minimized.

        Maps to `ggml_opt_context_optimizer_type`.
        """
        return enums.GgmlOptOptimizerType(lib.ggml_opt_context_optimizer_type(self._c))

    def _arenas(self) -> list[Context]:
        found = {id(tensor._arena): tensor._arena for tensor in (self._inputs, self._outputs)}
        return list(found.values())  # type: ignore[arg-type]

    def free(self) -> None:
        """Free the training. The parameters stay as they are. Freeing twice is harmless.

        Maps to `ggml_opt_free`.
        """
        Opt._require(self)
        self.close()

    def _describe(self) -> str:
        return f"by {self.optimizer.name} for {self._lossType.name}, {self._epochs} epochs done"


def reached(epoch: int, trained: OptResult, validated: OptResult) -> OptEpoch:
    """Return what an epoch reached."""
    values = [
        value if result.ndata else float("nan")
        for result in (trained, validated)
        for value in (result.loss, result.accuracy)
    ]
    return OptEpoch(epoch, *values)


def _require_dataset(value: object) -> None:
    if not isinstance(value, OptDataset):
        raise expected("a Ggml.OptDataset", value, "Ggml.OptDataset(data, labels) makes one", "dataset")
