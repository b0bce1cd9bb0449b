"""Contexts: where a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_cffi._context_outputs import ContextOutputs
from llama_cffi._context_params import ContextParams, check_params
from llama_cffi._context_state import ContextState
from llama_cffi._context_tuning import ContextTuning
from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import PoolingType, ProcessType
from llama_cffi._handle import native_log
from llama_cffi._views import Views
from llama_cffi.batch import Batch, check_batch
from llama_cffi.batch_ext import BatchExt
from llama_cffi.errors import ContextError, ContextFullError, DecodeError
from llama_cffi.memory import Memory
from llama_cffi.model import Model
from llama_cffi.sampler import Sampler
from llama_cffi.sampler_config import give_samplers, release_samplers, set_sampler
from llama_cffi.tokens import SeqId

if TYPE_CHECKING:
    from typing import TypeAlias


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
            raise TypeError(f"a Model is wanted, not {type(model).__name__}: Model.load(path) makes one")
        if not isinstance(chosen, ContextParams):
            raise TypeError(
                f"params is a Context.Params, not {type(params).__name__}: start from Context.getDefaultParams()"
            )
        check_params(model, chosen)
        # Some parameters make llama.cpp write to the model.
        with give_samplers(chosen, model) as settle_in, model._busy:
            struct, kept = chosen._for_c()
            pointer = lib.llama_init_from_model(model._c, struct[0])
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
        context._embeds = chosen.embeddings
        context._nOutputsMax = chosen.nOutputsMax or context._nBatch
        context._reserved, context._rows = context._nSeqMax, 0
        context._views, context._kept, context._adapters, context._pools = Views(), kept, {}, None
        return context

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
        outputs = check_batch(batch, self._nVocab, self._nSeqMax)
        struct = batch._c
        if batch._nEmbd:
            self._check_width(batch._nEmbd)
        if self._embeds and struct.logits == ffi.NULL:
            outputs = struct.n_tokens
        return self._execute(function, (struct[0],), operation, struct.n_tokens, outputs)

    def process(self, type: ProcessType, batch: BatchExt) -> int:
        """Run the model over an extended batch. Returns 0; raises like `decode`.

        Maps to `llama_process`.
        """
        kind = ProcessType(type)
        if not isinstance(batch, BatchExt):
            raise TypeError(f"a BatchExt is wanted, not {batch.__class__.__name__}: BatchExt.init(ctx) makes one")
        if batch._context is not self:
            raise ValueError("this batch was made for another context: make one with BatchExt.init for this one")
        n, outputs = batch._ready()
        if kind == ProcessType.ENCODE and not self._encodes:
            raise ValueError("this model has no encoder: use ProcessType.DECODE")
        operation = "llama_encode" if kind == ProcessType.ENCODE else "llama_decode"
        return self._execute(lib.llama_process, (kind, batch._c), operation, n, outputs)

    def _execute(self, function: Any, arguments: tuple[Any, ...], operation: str, n: int, outputs: int) -> int:
        self._check_size(n, operation)
        if operation == "llama_encode" or (self._embeds and self._pools_embeddings()):
            outputs = n  # llama.cpp then computes every token's
        if outputs > self._nOutputsMax:
            raise ValueError(
                f"the batch asks for {outputs} outputs, but nOutputsMax is {self._nOutputsMax}: ask for fewer"
            )
        self._make_room(outputs)
        self._rows = 0
        code: int = self._run(function, *arguments)
        if code != 0:
            self._fail(code, operation, n)
        self._rows = outputs
        return code

    def _pools_embeddings(self) -> bool:
        return not self._decodes or lib.llama_pooling_type(self._c) != PoolingType.NONE

    def _check_width(self, width: int) -> None:
        expected = lib.llama_model_n_embd_inp(self._model._c)
        if width != expected:
            raise ValueError(f"the batch has embeddings of {width} floats, but the model takes {expected}")

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

    def _fail(self, code: int, operation: str, n: int) -> None:
        log = native_log()
        if code == 1:
            raise ContextFullError(
                f"the context has no room for {n} more tokens (nCtx is {self.nCtx}): remove some with "
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
