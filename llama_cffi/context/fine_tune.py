"""Fine-tuning: `fineTune` trains the weights of a loaded model on a text, in memory. `Model.save` writes them."""

from __future__ import annotations

from llama_cffi._core.checks import enum_member, expected, integer, no_such_token, number, out_of_range
from llama_cffi._core.compat import require
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._generated import enums
from llama_cffi._host.resources import available_memory
from llama_cffi.context.context import Context
from llama_cffi.context.params import ContextParams
from llama_cffi.errors import NativeError, NativeMemoryError
from llama_cffi.ggml.computation import finish
from llama_cffi.ggml.opt import OptEpoch, reached
from llama_cffi.ggml.opt_dataset import OptDataset, OptResult
from llama_cffi.ggml.opt_params import optimizer_params
from llama_cffi.model.model import Model
from llama_cffi.model.placement import uses_cpu_alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import numpy.typing as npt

    from llama_cffi._generated.enums import GgmlOptOptimizerType
    from llama_cffi.ggml.opt import Parameters

_CELLS = 256  # llama.cpp rounds context windows up to a multiple
_MOST = (1 << 31) - 1
_ROPE_IN_PARTS = ("MROPE", "IMROPE", "VISION")


def fineTune(
    model: Model,
    tokens: Sequence[int],
    *,
    nCtx: int = _CELLS,
    stride: int | None = None,
    nEpoch: int = 1,
    optimizer: GgmlOptOptimizerType = enums.GgmlOptOptimizerType.ADAMW,
    getOptPars: Parameters = None,
    valSplit: float = 0.0,
    callback: Callable[[OptEpoch], bool | None] | None = None,
) -> list[OptEpoch]:
    """Train a model to continue a text as it goes on. Changes its weights of type F32; returns what each epoch reached.

    The text is cut into windows of `nCtx` tokens, a multiple of 256; one begins every `stride` tokens (None: `nCtx`).
    The share `valSplit` of the windows, at the end of the text, is evaluated, and not trained on. `getOptPars` are
    `Ggml.OptOptimizerParams`, or a function that returns them for the number of an epoch. `callback` is called after
    each epoch, and ends the training by returning True.

    Load the model with `useMmap=False`, and with `useExtraBufts=False` unless all weights are F32. The CPU must run all
    of it, and does so on one thread. Make contexts afterwards: what is in the KV cache of others was computed with the
    old weights. Raises ValueError for a text that is too short, NativeAssertionError for an architecture with an
    operation that has no gradient, such as NORM of GPT-2 and SSM_SCAN of Mamba: Llama and Qwen are among the others.
    UnavailableError with llama.cpp before that of llama-cpp-python 0.3.36, with which it was not made to work.

    Maps to `llama_opt_init` and `llama_opt_epoch`.
    """
    require("llama_model_ftype")  # training fails with older llama.cpp
    _check_model(model)
    n = integer(nCtx, _CELLS, 1 << 20, "nCtx")
    if n % _CELLS:
        raise ValueError(f"nCtx must be a multiple of {_CELLS}, got {n}")
    step = integer(n if stride is None else stride, 1, n, "stride", "nCtx tokens are a window")
    epochs = integer(nEpoch, 0, _MOST, "nEpoch")
    kind = enum_member(enums.GgmlOptOptimizerType, optimizer, "optimizer")
    optimizer_params(getOptPars, 1)
    share = number(valSplit, "valSplit")
    if not 0.0 <= share < 1.0:
        raise out_of_range("valSplit", valSplit, 0.0, 1.0, "1.0 itself leaves nothing to train on")
    windows = _windows(model, tokens, n, step)
    n_train = max(1, round(len(windows) * (1.0 - share)))
    numbers = ffi.new("struct ggml_opt_optimizer_params *")
    done = []
    with Context.initFromModel(model, _params(n)) as ctx, OptDataset.init(*_KINDS, n, n, 1) as window:
        _require_cache(ctx)
        try:
            _start(model, ctx, numbers, kind, 0)
            with OptResult() as trained, OptResult() as validated:
                for index in range(1, epochs + 1):
                    optimizer_params(getOptPars, index)._write(numbers)
                    trained.reset()
                    validated.reset()
                    for i, (data, labels) in enumerate(windows):
                        window.data[0], window.labels[0] = data, labels  # type: ignore[index]
                        _train(ctx, window, trained if i < n_train else validated, i < n_train)
                    done.append(reached(index, trained, validated))
                    if callback is not None and callback(done[-1]) is True:
                        break
        finally:
            _restore(model, numbers)
    return done


_KINDS = enums.GgmlType.I32, enums.GgmlType.I32


def _check_model(model: Model) -> None:
    if not isinstance(model, Model):
        raise expected("a Model", model, "Model.load(path, Model.Params(useMmap=False)) makes one", "model")
    model._c  # noqa: B018  # raises if it is freed
    params = model._params
    if params.vocabOnly or params.noAlloc:
        raise ValueError("a model loaded with vocabOnly or noAlloc has no weights to train: load it whole")
    if params.useMmap:
        raise ValueError("the weights are mapped from the file, and cannot be changed: load it with useMmap=False")
    if not uses_cpu_alone(params):
        raise ValueError("the model may use other devices than the CPU: load it with devices=[]")
    if params.useExtraBufts and model.ftype != enums.Ftype.ALL_F32:
        raise ValueError("the weights may be repacked in memory: load the model with useExtraBufts=False to train it")
    if model.hasEncoder or not model.hasDecoder or model.ropeType.name in _ROPE_IN_PARTS:
        raise ValueError("llama.cpp trains decoders of text only, and this model is another kind")
    need, free = 16 * model.nParams, available_memory()
    if free is not None and need > free:
        raise NativeMemoryError(
            f"gradients and momenta take up to {need} bytes, and {free} are free: train a smaller model",
            operation="llama_opt_init",
        )


def _windows(model: Model, tokens: Sequence[int], n: int, step: int) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Return the windows of a text, each with what comes next at each of its tokens."""
    if isinstance(tokens, (str, bytes)):
        raise expected("tokens", tokens, "tokenize(model.vocab, text) makes some", "tokens")
    import numpy as np

    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"tokens must be a sequence of integers, got {array.dtype} of shape {array.shape}")
    n_vocab = model.vocab.nTokens
    wrong = array[(array < 0) | (array >= n_vocab)] if array.size else array
    if wrong.size:
        raise no_such_token(int(wrong[0]), n_vocab)
    if len(array) <= n:
        raise ValueError(f"tokens must be more than {n}, the length of a window (nCtx), got {len(array)}")
    return [(array[i : i + n], array[i + 1 : i + n + 1]) for i in range(0, len(array) - n, step)]


def _params(n: int, batch: int | None = None) -> ContextParams:
    size = n if batch is None else batch
    return ContextParams(
        nCtx=n,
        nBatch=size,
        nUbatch=size,
        nSeqMax=1,
        nThreads=1,  # an assertion on another thread ends the process
        nThreadsBatch=1,
        typeK=enums.GgmlType.F32,
        typeV=enums.GgmlType.F32,
        flashAttnType=enums.FlashAttnType.DISABLED,
        offloadKqv=False,
        opOffload=False,
    )


def _require_cache(ctx: Context) -> None:
    if lib.llama_get_memory(ctx._c) == ffi.NULL or ctx.nUbatch != ctx.nCtx:
        raise ValueError("llama.cpp trains models with a KV cache only, and this one has none")


def _start(model: Model, ctx: Context, numbers: Any, optimizer: int, n_ctx_train: int) -> None:
    params = ffi.new(
        "struct llama_opt_params *",
        {
            "n_ctx_train": n_ctx_train,
            "param_filter": ffi.addressof(lib, "llama_opt_param_filter_all"),
            "get_opt_pars": ffi.addressof(lib, "ggml_opt_get_constant_optimizer_params"),
            "get_opt_pars_ud": numbers,
            "optimizer_type": optimizer,
        },
    )
    with exclusive(ctx) as pointer:
        owned = ctx._owned
        if owned is None or not owned.keep(numbers):
            ctx._raise_closed()
        lib.llama_opt_init(pointer, model._c, params[0])


def _train(ctx: Context, window: OptDataset, result: OptResult, train: bool) -> None:
    with exclusive(ctx, window, result) as pointer:
        lib.llama_opt_epoch(pointer, window._c, result._c, result._c, 1 if train else 0, ffi.NULL, ffi.NULL)
    finish(lib.GGML_STATUS_SUCCESS)


def _restore(model: Model, numbers: Any) -> None:
    """Set the context length of the model back, which `llama_opt_init` has changed: by a call of another context."""
    if model.closed or lib.llama_model_n_ctx_train(model._c) == model._nCtxTrain:
        return
    with Context.initFromModel(model, _params(_CELLS, 1)) as ctx:
        _start(model, ctx, numbers, lib.GGML_OPT_OPTIMIZER_TYPE_SGD, model._nCtxTrain)
    if lib.llama_model_n_ctx_train(model._c) != model._nCtxTrain:
        raise NativeError("the context length of the model could not be restored: load it again")
