"""Contexts: a model's KV cache, and the calls that run the model on batches of tokens."""

from __future__ import annotations

import itertools

from llama_cffi._core import callbacks
from llama_cffi._core.base_types import SeqId
from llama_cffi._core.checks import expected
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.locks import listing, reading
from llama_cffi._core.native_log import native_log
from llama_cffi._core.ownership import Owned, exclusive, own
from llama_cffi._core.process import leave_if_ending, require_threads
from llama_cffi._generated import enums
from llama_cffi.context.batch import Batch
from llama_cffi.context.checks import check_params, has_causal_attention
from llama_cffi.context.memory import Memory
from llama_cffi.context.output_views import Views
from llama_cffi.context.outputs import ContextOutputs
from llama_cffi.context.params import ContextParams
from llama_cffi.context.samplers import attach, checked_configs, pass_samplers, set_sampler
from llama_cffi.context.state import ContextState
from llama_cffi.context.tuning import ContextTuning, adapting_threads
from llama_cffi.errors import ContextError
from llama_cffi.model.model import Model
from llama_cffi.sampling.sampler import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeAlias

    from llama_cffi._generated.enums import PoolingType, ProcessType
    from llama_cffi.context.batch_ext import BatchExt

_serials = itertools.count(1)

_NO_ENCODER = "this model has no encoder: use decode"


class Context(ContextOutputs, ContextState, ContextTuning):
    """A context runs a model: it has a KV cache, threads, and the outputs of the last batch.

    It serves one call at a time; calls from other threads meanwhile raise BusyError. It keeps its model alive.

    Maps to `llama_context`.
    """

    Params: TypeAlias = ContextParams

    @classmethod
    def getDefaultParams(cls) -> ContextParams:
        """Return the default parameters, to be changed and passed to `initFromModel`: those of llama.cpp, but with as
        many threads as this process can use CPUs.

        Maps to `llama_context_default_params`.
        """
        return cls.Params()

    @classmethod
    def initFromModel(cls, model: Model, params: ContextParams | None = None) -> Context:
        """Make a context for a model. Freeing the model frees the context.

        Raises ValueError for parameters out of range, NativeMemoryError for a context larger than the memory, and
        ContextError if llama.cpp cannot make it.

        Maps to `llama_init_from_model`.
        """
        chosen = cls.Params() if params is None else params
        if not isinstance(model, Model):
            raise expected("a Model", model, "Model.load(path) makes one")
        if not isinstance(chosen, ContextParams):
            raise expected("a Context.Params", params, "start from Context.getDefaultParams()", "params")
        check_params(model, chosen)
        require_threads()
        context = cls.__new__(cls)
        configs = checked_configs(chosen, model)
        # Some parameters make llama.cpp write to the model; and it must not be freed before the context refers to it.
        with exclusive(*(config.sampler for config in configs)), model._exclusive_waiting() as owner:
            struct, kept = chosen._for_c()
            struct.n_ctx = (chosen.nCtx or model.nCtxTrain) & 0xFFFFFFFF  # another context's YaRN changed C's default
            array = pass_samplers(configs, model, struct)
            with reading(), listing():
                owned = own(lib.llama_free, lib.llama_init_from_model, owner, struct[0])
            if owned.pointer is None:
                raise ContextError(
                    "llama.cpp could not make a context with these parameters",
                    operation="llama_init_from_model",
                    log=native_log(),
                )
            del array
            context._set_up(owned, model, chosen, kept)
            for config in configs:
                attach(config.sampler, context)
        return context

    def _set_up(self, owned: Owned, model: Model, params: ContextParams, kept: list[Any]) -> None:
        """Fill the state of a new context. `kept` comes from `params._for_c`: C may read it until the end."""
        pointer = owned.pointer
        owned.keep(kept)
        self._model, self._serial, self._samples = model, next(_serials), False
        self._views, self._chains, self._adapters, self._pools = Views(owned), [], {}, None
        self._kept, self._stop, self._abort, self._steered = kept, kept[-1], None, False
        self._nVocab, self._nSeqMax = model.vocab.nTokens, lib.llama_n_seq_max(pointer)
        self._open(owned, parent=model)
        self._memory = Memory(self, self._nSeqMax, params.kvUnified)
        decodes = self._memory._pointer != ffi.NULL
        if decodes:
            self._register_address(self._memory._pointer)
        self._encodes = not decodes or model.hasEncoder
        self._limits = self._new_limits(params, decodes)
        self._threads = adapting_threads(params)

    def _new_limits(self, params: ContextParams, decodes: bool) -> Any:
        """Make the struct that `shim_compute` checks batches against."""
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
                "n_pos_embd": 4 if model.ropeType.name in ("MROPE", "IMROPE", "VISION") else 1,
                "decodes": decodes,
                "causal": has_causal_attention(self._c, model, params),
                "embeds": params.embeddings,
                "diffuses": model.isDiffusion,
                "wants_encoder": model.hasEncoder and model.hasDecoder,
                "reserved": self._nSeqMax,
            },
        )

    def setSampler(self, seqId: SeqId, smpl: Sampler | None) -> bool:
        """Run a sampler chain for a sequence together with the model; None removes it.

        The chain belongs to this context from then on. Returns True if it runs on the device.

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
        """Return the model of the context.

        Maps to `llama_get_model`.
        """
        return self._model

    def getMemory(self) -> Memory:
        """Return the KV cache of the context.

        Maps to `llama_get_memory`.
        """
        if self._pointer is None:
            self._raise_closed()
        return self._memory

    @property
    def nCtxSeq(self) -> int:
        """Size of the context window in tokens, for each sequence.

        Maps to `llama_n_ctx_seq`.
        """
        return lib.llama_n_ctx_seq(self._c)

    @property
    def nRsSeq(self) -> int:
        """Number of earlier recurrent states that each sequence keeps, for going back.

        Maps to `llama_n_rs_seq`.
        """
        return lib.llama_n_rs_seq(self._c)

    @property
    def nCtx(self) -> int:
        """Size of the context window in tokens, for all sequences together.

        Maps to `llama_n_ctx`.
        """
        return lib.llama_n_ctx(self._c)

    @property
    def nBatch(self) -> int:
        """Maximum number of tokens in a batch for `decode`.

        Maps to `llama_n_batch`.
        """
        return lib.llama_n_batch(self._c)

    @property
    def nUbatch(self) -> int:
        """Maximum number of tokens that are computed at once: a batch is split into parts of this size.

        Maps to `llama_n_ubatch`.
        """
        return lib.llama_n_ubatch(self._c)

    @property
    def nSeqMax(self) -> int:
        """Maximum number of sequences in the context.

        Maps to `llama_n_seq_max`.
        """
        return lib.llama_n_seq_max(self._c)

    @property
    def poolingType(self) -> PoolingType:
        """How the embeddings of a sequence's tokens are pooled into one.

        Maps to `llama_pooling_type`.
        """
        return enums.PoolingType(lib.llama_pooling_type(self._c))

    # Computing

    def decode(self, batch: Batch) -> int:
        """Run the model on a batch and add its tokens to the KV cache. Returns 0.

        Works on a copy of the batch. Raises ValueError for a batch that does not fit the model or the context,
        ContextFullError if the KV cache is full, and DecodeError with llama.cpp's code for other failures. There are no
        outputs after ContextFullError or DecodeError.

        Maps to `llama_decode`.
        """
        return self._compute(batch, False)

    def encode(self, batch: Batch) -> int:
        """Run the encoder on a batch, for encoder-decoder and embedding models. Returns 0; raises like `decode`.

        Maps to `llama_encode`.
        """
        if not self._encodes:
            raise ValueError(_NO_ENCODER)
        return self._compute(batch, True)

    def _compute(self, batch: Batch, encode: bool) -> int:
        if not isinstance(batch, Batch):
            raise expected("a Batch", batch, "Batch.getOne(tokens) makes one")
        struct, memory = batch._c, batch._arrays  # keeps the memory alive even if the batch is freed meanwhile
        if struct is None:
            batch._alive  # noqa: B018  raises
        views = self._views
        with exclusive(self) as pointer:
            pinned = views.invalidate() if views.exported else views.owned.pins > 0
            outputs = lib.shim_compute(
                pointer, self._limits, self._threads, struct, batch._nSeqMax, batch._nEmbd, encode, pinned
            )
        del memory
        if callbacks.raised:
            callbacks.reraise()
        if outputs < 0:
            self._fail(outputs, "llama_encode" if encode else "llama_decode", batch._nSeqMax)
        return 0

    def _run_step(self, batch: Batch, step: Any, vocab: Any) -> BaseException | None:
        """Decode the batch of a `struct shim_step` as `decode` does, and sample for its rows, in one call.

        Returns the error of the last row that is done, if it failed; `_finish_step` samples for the rows after it.
        Raises like `decode`, before any row is done.
        """
        views = self._views
        step.done = 0
        with self._exclusive() as pointer:
            pinned = views.invalidate() if views.exported else views.owned.pins > 0
            try:
                outputs = lib.shim_step_run(pointer, self._limits, self._threads, batch._nSeqMax, pinned, vocab, step)
            except BaseException as error:
                if not step.done:
                    raise
                return error
        if callbacks.raised:
            step.done = 0
            callbacks.reraise()
        if outputs < 0:
            self._fail(outputs, "llama_decode", batch._nSeqMax)
        return None

    def _finish_step(self, step: Any, vocab: Any) -> BaseException | None:
        """Sample for the rows after those that are done. Returns the error of the last one, if it failed."""
        with self._exclusive():
            try:
                lib.shim_step_go_on(vocab, step)
            except BaseException as error:
                return error
        return None

    def process(self, type: ProcessType, batch: BatchExt) -> int:
        """Run the model on an extended batch. Returns 0; raises like `decode`.

        Maps to `llama_process`.
        """
        from llama_cffi.context.batch_ext import BatchExt

        encode = enums.ProcessType(type) == enums.ProcessType.ENCODE
        if not isinstance(batch, BatchExt):
            raise expected("a BatchExt", batch, "BatchExt.init(ctx) makes one")
        if batch._context is not self:
            raise ValueError("this batch was made for another context: make one with BatchExt.init for this one")
        if encode and not self._encodes:
            raise ValueError(_NO_ENCODER)
        limits = self._limits
        with batch._exclusive() as pointer:
            n, outputs, last = batch._require_complete()
            if limits.n_pos and last >= limits.n_pos:
                from llama_cffi.context.batch_errors import unknown_position

                raise unknown_position(last, limits)
            if encode or limits.embeds or not limits.decodes:
                outputs = n  # llama.cpp then computes the outputs of all tokens
            with exclusive(self) as context:
                reason = lib.shim_check_size(limits, n, outputs, encode, self._views.invalidate())
                if not reason and (threads := lib.shim_require_threads(context, n)):
                    limits.value, reason = threads, lib.SHIM_BATCH_THREADS
                if not reason:
                    limits.rows, limits.reserved = 0, max(limits.reserved, outputs)
                    limits.computed += 1
                    with reading():
                        limits.value = lib.llama_process(context, enums.ProcessType(type), pointer)
                    if limits.value:
                        limits.index, reason = n, lib.SHIM_BATCH_FAILED
                    else:
                        limits.rows, limits.logits = outputs, not encode if limits.decodes else limits.diffuses
                        limits.wants_encoder &= not encode
        callbacks.reraise()
        if reason:
            self._fail(reason, "llama_process", 1)
        return 0

    def _fail(self, reason: int, operation: str, width: int) -> NoReturn:
        leave_if_ending()
        from llama_cffi.context.batch_errors import batch_error

        raise batch_error(reason, self._limits, width, operation)
