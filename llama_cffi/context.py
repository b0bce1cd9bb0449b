"""Contexts: where a model runs."""

from __future__ import annotations

from typing import Any

from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import GgmlType, PoolingType
from llama_cffi._handle import Handle, native_log
from llama_cffi.batch import Batch, check_batch
from llama_cffi.errors import ContextError, ContextFullError, DecodeError
from llama_cffi.memory import Memory
from llama_cffi.model import Model
from llama_cffi.sampler_config import SamplersParam, give_samplers, release_samplers

# What llama.cpp's attention kernels can read a cache in; any other type ends the process sooner or later.
_CACHE_TYPES = (
    GgmlType.F32,
    GgmlType.F16,
    GgmlType.BF16,
    GgmlType.Q8_0,
    GgmlType.Q4_0,
    GgmlType.Q4_1,
    GgmlType.IQ4_NL,
    GgmlType.Q5_0,
    GgmlType.Q5_1,
)


class ContextParams(SamplersParam):
    """How to set up a context. `Context.Params(nCtx=2048)` sets fields; the others keep llama.cpp's defaults.

    Maps to `llama_context_params`.
    """

    __slots__ = ()

    def _set_defaults(self) -> None:
        self._c[0] = lib.llama_context_default_params()


class Context(Handle):
    """A model at work: its memory, its threads, its outputs. Serves one call at a time. Keeps its model alive.

    Maps to `llama_context`.
    """

    _KIND = "context"
    Params = ContextParams

    _model: Model
    _memory: Memory
    _nVocab: int
    _nBatch: int
    _nUbatch: int
    _nSeqMax: int
    _decodes: bool  # has a memory to decode into
    _encodes: bool

    @classmethod
    def getDefaultParams(cls) -> ContextParams:
        """llama.cpp's default parameters, to be changed and given to `initFromModel`.

        Maps to `llama_context_default_params`.
        """
        return cls.Params()

    @classmethod
    def initFromModel(cls, model: Model, params: ContextParams | None = None) -> Context:
        """Make a context for a model. Raises ValueError for parameters that cannot be, ContextError.

        Maps to `llama_init_from_model`.
        """
        chosen = cls.Params() if params is None else params
        if not isinstance(model, Model):
            raise TypeError(f"a Model is wanted, not {type(model).__name__}: Model.load(path) makes one")
        if not isinstance(chosen, ContextParams):
            raise TypeError(
                f"params is a Context.Params, not {type(params).__name__}: start from Context.getDefaultParams()"
            )
        _check_params(model, chosen)
        with give_samplers(chosen, model) as settle_in:
            pointer = lib.llama_init_from_model(model._c, chosen._c[0])
        if pointer == ffi.NULL:
            raise ContextError(
                "llama.cpp could not make a context with these parameters",
                operation="llama_init_from_model",
                log=native_log(),
            )
        context = cls.__new__(cls)
        context._open(pointer, parent=model)
        settle_in(context)
        context._model = model
        context._nVocab = model.vocab.nTokens
        context._nBatch = lib.llama_n_batch(pointer)
        context._nUbatch = lib.llama_n_ubatch(pointer)
        context._nSeqMax = lib.llama_n_seq_max(pointer)
        context._memory = Memory(context, context._nSeqMax, chosen.kvUnified)
        if context._memory._pointer != ffi.NULL:
            context._answer_for(context._memory._pointer)
        context._decodes = context._memory._pointer != ffi.NULL
        context._encodes = not context._decodes or model.hasEncoder
        return context

    def _destroy(self, pointer: Any) -> None:
        lib.llama_free(pointer)
        release_samplers(self)

    def free(self) -> None:
        """Free the context. Freeing twice is harmless.

        Maps to `llama_free`.
        """
        self.close()

    def getModel(self) -> Model:
        """The model that the context was made for.

        Maps to `llama_get_model`.
        """
        return self._model

    def getMemory(self) -> Memory:
        """The memory: what the context has seen.

        Maps to `llama_get_memory`.
        """
        if self._pointer is None:
            self._refuse()
        return self._memory

    @property
    def nCtx(self) -> int:
        """The size of the context in tokens, all sequences together.

        Maps to `llama_n_ctx`.
        """
        return lib.llama_n_ctx(self._c)

    @property
    def nBatch(self) -> int:
        """How many tokens one `decode` takes.

        Maps to `llama_n_batch`.
        """
        return lib.llama_n_batch(self._c)

    @property
    def nUbatch(self) -> int:
        """How many tokens are computed at once.

        Maps to `llama_n_ubatch`.
        """
        return lib.llama_n_ubatch(self._c)

    @property
    def nSeqMax(self) -> int:
        """How many sequences the context holds.

        Maps to `llama_n_seq_max`.
        """
        return lib.llama_n_seq_max(self._c)

    @property
    def poolingType(self) -> PoolingType:
        """How embeddings of a sequence become one.

        Maps to `llama_pooling_type`.
        """
        return PoolingType(lib.llama_pooling_type(self._c))

    # Computing

    def decode(self, batch: Batch) -> int:
        """Run the model over a batch and remember it. Returns 0.

        Raises ValueError for a batch that does not fit the model or the context, ContextFullError where the memory
        has no room for it, DecodeError with llama.cpp's code for the rest.

        Maps to `llama_decode`.
        """
        return self._compute(batch, lib.llama_decode, "llama_decode")

    def encode(self, batch: Batch) -> int:
        """Run the encoder over a batch: for encoder-decoder and embedding models. Returns 0. Raises like `decode`.

        Maps to `llama_encode`.
        """
        if not self._encodes:
            raise ValueError("this model has no encoder: use decode")
        return self._compute(batch, lib.llama_encode, "llama_encode")

    def _compute(self, batch: Batch, function: Any, operation: str) -> int:
        if self._pointer is None:
            self._refuse()
        check_batch(batch, self._nVocab, self._nSeqMax)
        struct = batch._c
        self._check_size(struct.n_tokens, operation)
        if batch._nEmbd and batch._nEmbd != lib.llama_model_n_embd_inp(self._model._c):
            raise ValueError(
                f"the batch has embeddings of {batch._nEmbd} floats, but the model takes "
                f"{lib.llama_model_n_embd_inp(self._model._c)}"
            )
        if not self._busy.acquire(blocking=False):
            self._is_busy()
        try:
            code: int = function(self._c, struct[0])  # read under the lock: another thread may just have freed it
        finally:
            self._busy.release()
        if code != 0:
            self._fail(code, operation, batch)
        return code

    def _check_size(self, n: int, operation: str) -> None:
        if n > self._nBatch:
            raise ValueError(
                f"the batch has {n} tokens, but nBatch is {self._nBatch}: "
                "raise Context.Params.nBatch, or split the batch"
            )
        if n > self._nUbatch and (
            operation == "llama_encode" or not self._decodes or not lib.llama_get_causal_attn(self._c)
        ):
            raise ValueError(
                f"the batch has {n} tokens, but nUbatch is {self._nUbatch}, and a model that is not causal "
                "sees a batch at once: raise Context.Params.nUbatch, or split the batch"
            )

    def _fail(self, code: int, operation: str, batch: Batch) -> None:
        log = native_log()
        if code == 1:
            raise ContextFullError(
                f"the context has no room for {batch.nTokens} more tokens (nCtx is {self.nCtx}): remove some with "
                "ctx.getMemory().seqRemove, or raise Context.Params.nCtx",
                operation=operation,
                code=code,
                log=log,
            )
        reasons = {
            2: "it was aborted; what was computed until then stays in the memory",
            -1: "llama.cpp does not accept the batch: positions must go on where the sequence ends",
        }
        raise DecodeError(
            f"{operation} returned {code}: {reasons.get(code, 'the computation failed')}",
            operation=operation,
            code=code,
            log=log,
        )

    def _no_output(self, idx: int) -> str:
        return (
            f"entry {idx} of the last batch gave no logits: decode a batch first, and ask for its output "
            "(batch.output[i] = 1; getOne asks for the last token's)"
        )


def _check_params(model: Model, params: ContextParams) -> None:
    """Refuse what llama.cpp would answer with an abort or a crash."""
    if model._params.vocabOnly or model._params.noAlloc:
        raise ValueError("a model loaded with vocabOnly or noAlloc has no weights to run: load it whole")
    most = lib.llama_max_parallel_sequences()
    limits = (
        ("nSeqMax", params.nSeqMax, 1, most),
        ("nBatch", params.nBatch, max(1, params.nSeqMax), 1 << 31),
        ("nUbatch", params.nUbatch, 1, 1 << 31),
        ("nThreads", params.nThreads, 1, lib.GGML_MAX_N_THREADS),
        ("nThreadsBatch", params.nThreadsBatch, 1, lib.GGML_MAX_N_THREADS),
    )
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise ValueError(f"Context.Params.{name} goes from {low} to {high} here, and {value} does not fit")
    if params.nCtx and params.nCtx < params.nSeqMax:
        raise ValueError(f"nCtx {params.nCtx} is less than a token for each of {params.nSeqMax} sequences: raise nCtx")
    for name, kind in (("typeK", params.typeK), ("typeV", params.typeV)):
        if kind not in _CACHE_TYPES:
            choices = ", ".join(choice.name for choice in _CACHE_TYPES)
            raise ValueError(f"Context.Params.{name} is one of {choices}, not {kind.name}")
