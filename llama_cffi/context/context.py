"""Contexts: where a model runs."""

from __future__ import annotations

import itertools
from threading import get_ident
from typing import TYPE_CHECKING, Any, NoReturn

from llama_cffi._core import callbacks
from llama_cffi._core.base_types import SeqId
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing, reading
from llama_cffi._core.native_log import native_log
from llama_cffi._core.process import leave_if_ending, require_threads
from llama_cffi._generated.enums import PoolingType, ProcessType, RopeType
from llama_cffi.context.batch import Batch
from llama_cffi.context.batch_errors import batch_error
from llama_cffi.context.batch_ext import BatchExt
from llama_cffi.context.checks import check_params, sees_only_before
from llama_cffi.context.memory import Memory
from llama_cffi.context.output_views import Views
from llama_cffi.context.outputs import ContextOutputs
from llama_cffi.context.params import ContextParams
from llama_cffi.context.samplers import attach_samplers, release_samplers, set_sampler
from llama_cffi.context.state import ContextState
from llama_cffi.context.tuning import ContextTuning
from llama_cffi.errors import ContextError
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler

if TYPE_CHECKING:
    from typing import TypeAlias

_serials = itertools.count(1)

# Models whose embeddings stand at a place of several dimensions.
_PLACED = [kind for kind in RopeType if kind.name in ("MROPE", "IMROPE", "VISION")]

_NO_ENCODER = "this model has no encoder: use decode"


class Context(ContextOutputs, ContextState, ContextTuning):
    """A model at work: its memory, its threads, its outputs. Serves one call at a time. Keeps its model alive.

    Maps to `llama_context`.
    """

    Params: TypeAlias = ContextParams

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
            raise expected("a Model", model, "Model.load(path) makes one")
        if not isinstance(chosen, ContextParams):
            raise TypeError(
                f"params is a Context.Params, not {type(params).__name__}: start from Context.getDefaultParams()"
            )
        check_params(model, chosen)
        require_threads()
        context = cls.__new__(cls)
        context._model, context._serial, context._samples = model, next(_serials), False
        context._views, context._adapters, context._pools, context._chains = Views(), {}, None, []
        # Some parameters make llama.cpp write to the model; and it must not be freed before the context holds it.
        with attach_samplers(chosen, model) as attach, model._exclusive_waiting() as owner:
            struct, context._kept = chosen._for_c()
            context._stop = context._kept[-1]
            with reading(), listing():
                pointer = lib.llama_init_from_model(owner, struct[0])
            if pointer == ffi.NULL:
                raise ContextError(
                    "llama.cpp could not make a context with these parameters",
                    operation="llama_init_from_model",
                    log=native_log(),
                )
            context._open(pointer, parent=model)
            attach(context)
            context._prepare(chosen)
        return context

    def _prepare(self, params: ContextParams) -> None:
        """Note what does not change any more."""
        pointer, model = self._c, self._model
        self._nVocab = model.vocab.nTokens
        self._nSeqMax = lib.llama_n_seq_max(pointer)
        self._memory = Memory(self, self._nSeqMax, params.kvUnified)
        decodes = self._memory._pointer != ffi.NULL
        if decodes:
            self._register_address(self._memory._pointer)
        self._encodes = not decodes or model.hasEncoder
        self._limits = self._limits_of(params, decodes)

    def _limits_of(self, params: ContextParams, decodes: bool) -> Any:
        """What `shim_compute` checks batches against."""
        model = self._model
        n_batch = lib.llama_n_batch(self._c)  # llama.cpp may have lowered it
        return ffi.new(
            "struct shim_limits *",
            {
                "n_vocab": self._nVocab,
                "n_seq": self._nSeqMax,
                "n_batch": n_batch,
                "n_ubatch": lib.llama_n_ubatch(self._c),
                "n_outputs": params.nOutputsMax or n_batch,
                "n_embd": lib.llama_model_n_embd_inp(model._c),
                "n_pos": model._nPositions,
                "n_pos_embd": 4 if model.ropeType in _PLACED else 1,
                "decodes": decodes,
                "causal": sees_only_before(self._c, model, params),
                "embeds": params.embeddings,
                "diffuses": model.isDiffusion,
                "wants_encoder": model.hasEncoder and model.hasDecoder,
                "reserved": self._nSeqMax,
            },
        )

    def _destroy(self, pointer: Any) -> None:
        super()._destroy(pointer)
        release_samplers(self)

    def setSampler(self, seqId: SeqId, smpl: Sampler | None) -> bool:
        """Run a chain of samplers for a sequence together with the model; None takes it away.

        Returns whether the chain runs on the device. The chain belongs to this context from now on.

        Maps to `llama_set_sampler`.
        """
        return set_sampler(self, seqId, smpl)

    def free(self) -> None:
        """Free the context. Freeing twice is harmless.

        Maps to `llama_free`.
        """
        Context._require(self)
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
            self._raise_closed()
        return self._memory

    @property
    def nCtxSeq(self) -> int:
        """The size of the context in tokens for each sequence.

        Maps to `llama_n_ctx_seq`.
        """
        return lib.llama_n_ctx_seq(self._c)

    @property
    def nRsSeq(self) -> int:
        """How many earlier recurrent states each sequence keeps for going back.

        Maps to `llama_n_rs_seq`.
        """
        return lib.llama_n_rs_seq(self._c)

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

        Works on a copy of the batch. Raises ValueError for a batch that does not fit the model or the context,
        ContextFullError where the memory has no room for it, DecodeError with llama.cpp's code for the rest. After
        those two there are no outputs.

        Maps to `llama_decode`.
        """
        return self._compute(batch, False)

    def encode(self, batch: Batch) -> int:
        """Run the encoder over a batch: for encoder-decoder and embedding models. Returns 0. Raises like `decode`.

        Maps to `llama_encode`.
        """
        if not self._encodes:
            raise ValueError(_NO_ENCODER)
        return self._compute(batch, True)

    def _compute(self, batch: Batch, encode: bool) -> int:
        if not isinstance(batch, Batch):
            raise expected("a batch", batch, "Batch.getOne(tokens) makes one")
        struct, memory = batch._c, batch._arrays  # the memory stays, whoever frees the batch meanwhile
        if struct is None:
            batch._alive  # noqa: B018  raises
        views = self._views
        # What `_exclusive` does, written out: this is every token's way.
        if not self._busy.acquire(False):
            self._raise_busy()
        try:
            self._owner = get_ident()
            pointer = self._pointer
            if pointer is None or self._closing:
                self._raise_closed()
            pinned = views.invalidate() if views.given else views.count > 0
            outputs = lib.shim_compute(pointer, self._limits, struct, batch._nSeqMax, batch._nEmbd, encode, pinned)
        finally:
            self._owner = 0
            self._busy.release()
        del memory
        if callbacks.raised:
            callbacks.reraise()
        if outputs < 0:
            self._fail(outputs, "llama_encode" if encode else "llama_decode", batch._nSeqMax)
        return 0

    def process(self, type: ProcessType, batch: BatchExt) -> int:
        """Run the model over an extended batch. Returns 0; raises like `decode`.

        Maps to `llama_process`.
        """
        encode = ProcessType(type) == ProcessType.ENCODE
        if not isinstance(batch, BatchExt):
            raise expected("a BatchExt", batch, "BatchExt.init(ctx) makes one")
        if batch._context is not self:
            raise ValueError("this batch was made for another context: make one with BatchExt.init for this one")
        if encode and not self._encodes:
            raise ValueError(_NO_ENCODER)
        limits = self._limits
        with batch._exclusive() as pointer:
            n, outputs, last = batch._ready()
            if limits.n_pos and last >= limits.n_pos:
                raise ValueError(
                    f"the batch has position {last}, but this model knows positions from 0 to {limits.n_pos - 1}: "
                    "shorten the text, or split it"
                )
            if encode or limits.embeds or not limits.decodes:
                outputs = n  # llama.cpp then computes every token's
            context = self._acquire()
            try:
                reason = lib.shim_check_size(limits, n, outputs, encode, self._views.invalidate())
                if not reason:
                    limits.rows, limits.reserved = 0, max(limits.reserved, outputs)
                    with reading():
                        limits.value = lib.llama_process(context, ProcessType(type), pointer)
                    if limits.value:
                        limits.index, reason = n, lib.SHIM_BATCH_FAILED
                    else:
                        limits.rows, limits.logits = outputs, not encode if limits.decodes else limits.diffuses
                        limits.wants_encoder &= not encode
            finally:
                self._release()
        callbacks.reraise()
        if reason:
            self._fail(reason, "llama_encode" if encode else "llama_decode", 1)
        return 0

    def _fail(self, reason: int, operation: str, width: int) -> NoReturn:
        leave_if_ending()
        raise batch_error(reason, self._limits, width, operation)
