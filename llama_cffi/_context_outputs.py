"""What a context gives: logits, embeddings, and what samplers on the device picked."""

from __future__ import annotations

from typing import Any

from llama_cffi._context_base import ContextBase
from llama_cffi._ffi import ffi, lib
from llama_cffi._generated.enums import PoolingType
from llama_cffi._generated.structs import PerfContextDataFields
from llama_cffi._views import own_copy
from llama_cffi.tokens import SeqId, Token


class PerfContextData(PerfContextDataFields):
    """Times and counts of a context. Maps to `llama_perf_context_data`."""

    __slots__ = ()


class ContextOutputs(ContextBase):
    """The outputs of the last `decode` or `encode`.

    Arrays are memoryviews of floats over llama.cpp's own memory: numpy and torch read them without a copy. The next
    `decode` makes a memoryview raise ValueError; an array made of it by numpy stays valid and shows the new values.
    """

    def getLogitsIth(self, i: int = -1) -> memoryview[float]:
        """The logits of entry `i` of the last batch (negative: of the outputs, from the end): one float a token.

        Shape (nTokens of the vocabulary,), no copy. Raises IndexError where that entry gave no output.

        Maps to `llama_get_logits_ith`.
        """
        pointer = self._run(lib.llama_get_logits_ith, i)
        if pointer == ffi.NULL:
            raise IndexError(self._no_output(i))
        return self._views.give(pointer, self._nVocab)

    def getLogits(self) -> memoryview[float]:
        """The logits of all outputs of the last batch, in the order of their entries.

        Shape (outputs, nTokens of the vocabulary), no copy. Raises IndexError where there is no output.

        Maps to `llama_get_logits`.
        """
        rows = self._output_rows()
        pointer = self._run(lib.llama_get_logits)
        if pointer == ffi.NULL:
            raise IndexError(self._no_output(-1))
        return self._views.give(pointer, rows * self._nVocab, (rows, self._nVocab))

    def getEmbeddingsIth(self, i: int = -1) -> memoryview[float]:
        """The embedding of entry `i` of the last batch (negative: of the outputs, from the end).

        Shape (nEmbdOut of the model,), no copy. Needs embeddings=True and poolingType NONE. Raises IndexError where
        that entry gave no embedding.

        Maps to `llama_get_embeddings_ith`.
        """
        self._require_token_embeddings()
        pointer = self._run(lib.llama_get_embeddings_ith, i)
        if pointer == ffi.NULL:
            raise IndexError(self._no_output(i))
        return self._views.give(pointer, lib.llama_model_n_embd_out(self._model._c))

    def getEmbeddings(self) -> memoryview[float]:
        """The embeddings of all outputs of the last batch, in the order of their entries.

        Shape (outputs, nEmbdOut of the model), no copy. Needs embeddings=True and poolingType NONE.

        Maps to `llama_get_embeddings`.
        """
        self._require_token_embeddings()
        rows, width = self._output_rows(), lib.llama_model_n_embd_out(self._model._c)
        pointer = self._run(lib.llama_get_embeddings)
        if pointer == ffi.NULL:
            raise IndexError(self._no_output(-1))
        return self._views.give(pointer, rows * width, (rows, width))

    def getEmbeddingsSeq(self, seqId: SeqId) -> memoryview[float]:
        """The embedding of a whole sequence of the last batch, pooled; a copy.

        Shape (nEmbdOut of the model,), or (nClsOut,) scores where poolingType is RANK. Raises ValueError without
        pooling, IndexError for a sequence that was not in the batch.

        Maps to `llama_get_embeddings_seq`.
        """
        self._check_seq(seqId)
        pooling = PoolingType(lib.llama_pooling_type(self._c))
        if pooling == PoolingType.NONE:
            raise ValueError("nothing is pooled here: set Context.Params.poolingType, or use getEmbeddingsIth")
        pointer = self._run(lib.llama_get_embeddings_seq, seqId)
        if pointer == ffi.NULL:
            raise IndexError(f"sequence {seqId} has no embedding: it was not in the last batch, or embeddings is False")
        model = self._model._c
        ranked = pooling == PoolingType.RANK
        return own_copy(pointer, lib.llama_model_n_cls_out(model) if ranked else lib.llama_model_n_embd_out(model))

    def _require_token_embeddings(self) -> None:
        if not self._embeds:
            raise ValueError(
                "this context gives no embeddings: set Context.Params.embeddings, or call setEmbeddings(True)"
            )
        if lib.llama_pooling_type(self._c) != PoolingType.NONE:
            raise ValueError("the embeddings of this context are pooled: use getEmbeddingsSeq")

    def _output_rows(self) -> int:
        if not self._rows:
            raise IndexError(self._no_output(-1))
        return self._rows

    _rows: int  # outputs of the last batch

    def _no_output(self, idx: int) -> str:
        return (
            f"entry {idx} of the last batch gave no output: decode a batch first, and ask for its output "
            "(batch.output[i] = 1; getOne asks for the last token's)"
        )

    # Samplers that ran on the device

    def getSampledTokenIth(self, i: int = -1) -> Token:
        """The token that the sequence's own sampler picked on the device, or TOKEN_NULL.

        Maps to `llama_get_sampled_token_ith`.
        """
        token: Token = self._run(lib.llama_get_sampled_token_ith, i)
        return token

    def getSampledProbsIth(self, i: int = -1) -> memoryview[float] | None:
        """The probabilities of the candidates that the device sampler left, as a copy; None without any.

        Maps to `llama_get_sampled_probs_ith`.
        """
        return self._sampled(lib.llama_get_sampled_probs_ith, lib.llama_get_sampled_probs_count_ith, i)

    def getSampledLogitsIth(self, i: int = -1) -> memoryview[float] | None:
        """The logits of the candidates that the device sampler left, as a copy; None without any.

        Maps to `llama_get_sampled_logits_ith`.
        """
        return self._sampled(lib.llama_get_sampled_logits_ith, lib.llama_get_sampled_logits_count_ith, i)

    def getSampledCandidatesIth(self, i: int = -1) -> list[Token] | None:
        """The candidates that the device sampler left, in the order of their probabilities; None without any.

        Maps to `llama_get_sampled_candidates_ith`.
        """
        pointer = self._run(lib.llama_get_sampled_candidates_ith, i)
        count = self._run(lib.llama_get_sampled_candidates_count_ith, i)
        return None if pointer == ffi.NULL or not count else list(ffi.unpack(pointer, count))

    def getSampledProbsCountIth(self, i: int = -1) -> int:
        """How many probabilities `getSampledProbsIth` gives.

        Maps to `llama_get_sampled_probs_count_ith`.
        """
        count: int = self._run(lib.llama_get_sampled_probs_count_ith, i)
        return count

    def getSampledLogitsCountIth(self, i: int = -1) -> int:
        """How many logits `getSampledLogitsIth` gives.

        Maps to `llama_get_sampled_logits_count_ith`.
        """
        count: int = self._run(lib.llama_get_sampled_logits_count_ith, i)
        return count

    def getSampledCandidatesCountIth(self, i: int = -1) -> int:
        """How many candidates `getSampledCandidatesIth` gives.

        Maps to `llama_get_sampled_candidates_count_ith`.
        """
        count: int = self._run(lib.llama_get_sampled_candidates_count_ith, i)
        return count

    def _sampled(self, values: Any, counts: Any, i: int) -> memoryview[float] | None:
        pointer, count = self._run(values, i), self._run(counts, i)
        return None if pointer == ffi.NULL or not count else own_copy(pointer, count)

    # Times

    @property
    def perfContext(self) -> PerfContextData:
        """Times and counts since the context was made or they were reset; zeros with noPerf=True, the default.

        Maps to `llama_perf_context`.
        """
        data = PerfContextData()
        data._c[0] = self._run(lib.llama_perf_context)
        return data

    def perfContextPrint(self) -> None:
        """Write times and counts to the log.

        Maps to `llama_perf_context_print`.
        """
        self._run(lib.llama_perf_context_print)

    def perfContextReset(self) -> None:
        """Start times and counts anew.

        Maps to `llama_perf_context_reset`.
        """
        self._run(lib.llama_perf_context_reset)
