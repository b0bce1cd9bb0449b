"""What a training reads and reports: `Ggml.OptDataset`, the data points with labels, and `Ggml.OptResult`."""

from __future__ import annotations

from llama_cffi._core.checks import integer
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.handle import Handle
from llama_cffi._core.ownership import exclusive, own
from llama_cffi._host.resources import available_memory
from llama_cffi.errors import NativeMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    from llama_cffi._generated.enums import GgmlType

    Array = npt.NDArray[Any]

_LARGEST = 1 << 40


class OptDataset(Handle):
    """Data points, and a label for each. `OptDataset(images, labels)` copies them from arrays.

    Maps to `ggml_opt_dataset`.
    """

    __slots__ = ("_dataType", "_labelType", "_ndata", "_neDatapoint", "_neLabel", "_shard")

    _KIND = "dataset"

    def __init__(self, data: Any, labels: Any = None, shard: int = 1) -> None:
        """Copy data points and labels: the first axis of both is that of the data points.

        Floats become F32 and integers I32. Labels are F32: a row of the wanted outputs for each data point, such as a 1
        for the class among zeros. `shard` data points at a time are kept together when the data is shuffled.
        """
        import numpy as np

        from llama_cffi.ggml.convert import as_array

        points = as_array(data, "data")
        marks = None if labels is None else as_array(labels, "labels")
        if points.ndim == 0 or points.size == 0:
            raise ValueError(f"data must have at least 1 data point with 1 number, got the shape {points.shape}")
        if marks is not None and (marks.ndim == 0 or len(marks) != len(points) or marks.size == 0):
            raise ValueError(f"labels must have a row for each of the {len(points)} data points, got {marks.shape}")
        kind = lib.GGML_TYPE_F32 if points.dtype.kind == "f" else lib.GGML_TYPE_I32
        n = len(points)
        self._make(kind, lib.GGML_TYPE_F32, points.size // n, 0 if marks is None else marks.size // n, n, shard)
        with np.errstate(over="ignore"):
            self.data[...] = _integers(points) if kind == lib.GGML_TYPE_I32 else points.reshape(n, -1)
            if marks is not None:
                own_labels = self.labels
                assert own_labels is not None
                own_labels[...] = marks.reshape(n, -1)

    @classmethod
    def init(
        cls,
        typeData: GgmlType,
        typeLabel: GgmlType,
        neDatapoint: int,
        neLabel: int,
        ndata: int,
        ndataShard: int = 1,
    ) -> OptDataset:
        """Make a dataset of zeros: write to `data` and `labels`. `neLabel` 0: without labels.

        Raises ValueError for a type that numpy lacks.

        Maps to `ggml_opt_dataset_init`.
        """
        from llama_cffi.ggml.convert import DTYPES
        from llama_cffi.ggml.quantization import tensor_type

        types = tensor_type(typeData, "typeData"), tensor_type(typeLabel, "typeLabel")
        for name, kind in zip(("typeData", "typeLabel"), types, strict=True):
            if kind not in DTYPES:
                raise ValueError(f"{name} must be a type that numpy has, such as F32 or I32, got {kind.name}")
        dataset = cls.__new__(cls)
        dataset._make(*types, neDatapoint, neLabel, ndata, ndataShard)
        return dataset

    def _make(self, data: int, label: int, ne_datapoint: int, ne_label: int, n: int, shard: int) -> None:
        from llama_cffi.ggml.backend import Backend

        integer(ne_datapoint, 1, _LARGEST, "neDatapoint")
        integer(ne_label, 0, _LARGEST, "neLabel")
        integer(n, 1, _LARGEST, "ndata")
        integer(shard, 1, n, "shard", "the dataset has so many data points")
        if n % shard:
            raise ValueError(f"shard must divide {n}, the number of data points, got {shard}")
        size = n * (ne_datapoint * lib.ggml_type_size(data) + ne_label * lib.ggml_type_size(label))
        free = available_memory()
        if size > (1 << 46 if free is None else free):
            raise NativeMemoryError(
                f"a dataset of {size} bytes exceeds the free memory: use fewer data points at a time",
                operation="ggml_opt_dataset_init",
            )
        Backend.ensureCpu()
        self._dataType, self._labelType = data, label
        self._neDatapoint, self._neLabel, self._ndata, self._shard = ne_datapoint, ne_label, n, shard
        make = lib.ggml_opt_dataset_init
        owned = own(lib.ggml_opt_dataset_free, make, data, label, ne_datapoint, ne_label, n, shard)
        if owned.pointer is None:
            raise NativeMemoryError(f"out of memory for a dataset of {size} bytes", operation="ggml_opt_dataset_init")
        self._open(owned)
        for tensor in (lib.ggml_opt_dataset_data(self._c), lib.ggml_opt_dataset_labels(self._c)):
            if tensor != ffi.NULL:
                if tensor.data == ffi.NULL:
                    self.close()
                    raise NativeMemoryError(f"out of memory for {size} bytes", operation="ggml_opt_dataset_init")
                lib.ggml_set_zero(tensor)

    @property
    def ndata(self) -> int:
        """The number of data points.

        Maps to `ggml_opt_dataset_ndata`.
        """
        return lib.ggml_opt_dataset_ndata(self._c)

    @property
    def data(self) -> Array:
        """The data points, a row for each: a writable view. It stays valid after the dataset is freed.

        Maps to `ggml_opt_dataset_data`.
        """
        return self._view(lib.ggml_opt_dataset_data(self._c), self._dataType, self._neDatapoint)

    @property
    def labels(self) -> Array | None:
        """The labels, a row for each data point: a writable view. None: the dataset has none.

        Maps to `ggml_opt_dataset_labels`.
        """
        tensor = lib.ggml_opt_dataset_labels(self._c)
        return None if tensor == ffi.NULL else self._view(tensor, self._labelType, self._neLabel)

    def _view(self, tensor: Any, kind: int, columns: int) -> Array:
        import numpy as np

        from llama_cffi.ggml.convert import DTYPES

        owned = self._owned
        pin = None if owned is None else owned.pin()
        if pin is None:
            self._raise_closed()
        memory = ffi.buffer(ffi.gc(ffi.cast("char *", tensor.data), pin.finish), lib.ggml_nbytes(tensor))
        return np.frombuffer(memory, DTYPES[kind]).reshape(self._ndata, columns)

    def free(self) -> None:
        """Free the dataset. Freeing twice is harmless.

        Maps to `ggml_opt_dataset_free`.
        """
        OptDataset._require(self)
        self.close()

    def __len__(self) -> int:
        return self.ndata

    def _describe(self) -> str:
        return f"of {self._ndata} data points of {self._neDatapoint} numbers, {self._neLabel} for each label"


class OptResult(Handle):
    """What a training reports: losses, predictions and how many of these are right, added up until `reset`.

    Maps to `ggml_opt_result`.
    """

    __slots__ = ("_source",)

    _KIND = "result"

    _source: Any  # batch size, loss and period of what it has added up: they must not vary

    def __init__(self) -> None:
        """Make an empty result.

        Maps to `ggml_opt_result_init`.
        """
        self._source = None
        self._open(own(lib.ggml_opt_result_free, lib.ggml_opt_result_init))

    @classmethod
    def init(cls) -> OptResult:
        """Make an empty result.

        Maps to `ggml_opt_result_init`.
        """
        return cls()

    @property
    def ndata(self) -> int:
        """The number of data points that were evaluated.

        Maps to `ggml_opt_result_ndata`.
        """
        count = ffi.new("int64_t *")
        self._run(lib.ggml_opt_result_ndata, count)
        return int(count[0])

    @property
    def loss(self) -> float:
        """The mean loss of the data points; the sum for a loss that is one. 0 without data points.

        Maps to `ggml_opt_result_loss`.
        """
        return self._numbers(lib.ggml_opt_result_loss)[0]

    @property
    def lossUncertainty(self) -> float:
        """The standard deviation of `loss`; NaN with fewer than 2 batches."""
        return self._numbers(lib.ggml_opt_result_loss)[1]

    @property
    def accuracy(self) -> float:
        """The share of predictions that are right; NaN without labels of classes.

        Maps to `ggml_opt_result_accuracy`.
        """
        return self._numbers(lib.ggml_opt_result_accuracy)[0]

    @property
    def accuracyUncertainty(self) -> float:
        """The standard deviation of `accuracy`; NaN with fewer than 2 data points."""
        return self._numbers(lib.ggml_opt_result_accuracy)[1]

    def _numbers(self, function: Any) -> tuple[float, float]:
        value, uncertainty = ffi.new("double *"), ffi.new("double *")
        self._run(function, value, uncertainty)
        return value[0], uncertainty[0]

    @property
    def pred(self) -> list[int]:
        """The predicted class of each data point, in the order of evaluation. Empty without classes.

        Maps to `ggml_opt_result_pred`.
        """
        count, share = ffi.new("int64_t *"), ffi.new("double *")
        with exclusive(self) as pointer:
            lib.ggml_opt_result_ndata(pointer, count)
            lib.ggml_opt_result_accuracy(pointer, share, ffi.NULL)
            if share[0] != share[0]:  # NaN
                return []
            numbers = ffi.new("int32_t[]", count[0])
            lib.ggml_opt_result_pred(pointer, numbers)
        return list(numbers)

    def reset(self) -> None:
        """Forget everything.

        Maps to `ggml_opt_result_reset`.
        """
        self._run(lib.ggml_opt_result_reset)
        self._source = None

    def _admit(self, source: Any) -> None:
        """Raise ValueError if the batches of a training do not fit to those that were added up."""
        if self._source not in (None, source):
            raise ValueError("this result holds that of another training, or of batches of another size: call reset()")
        self._source = source

    def free(self) -> None:
        """Free the result. Freeing twice is harmless.

        Maps to `ggml_opt_result_free`.
        """
        OptResult._require(self)
        self.close()

    def _describe(self) -> str:
        return f"of {self.ndata} data points, loss {self.loss:.4g}, accuracy {self.accuracy:.3g}"


def _integers(points: Any) -> Any:
    if int(points.min()) < -(1 << 31) or int(points.max()) >= 1 << 31:
        raise ValueError("data must be integers of 32 bits, and has others: convert it to floats")
    return points.reshape(len(points), -1)
