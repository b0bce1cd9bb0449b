"""Outputs of a context: logits, embeddings, results of samplers on the device, and performance counters."""

from __future__ import annotations

from collections.abc import Callable

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.ffi import ffi, lib
from llama_cffi._core.ownership import exclusive
from llama_cffi._generated import enums
from llama_cffi._generated.structs import PerfContextDataFields
from llama_cffi.context.base import ContextBase
from llama_cffi.context.output_views import own_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


class PerfContextData(PerfContextDataFields):
    """Performance counters of a context: times and counts. Maps to `llama_perf_context_data`."""

    __slots__ = ()


class ContextOutputs(ContextBase):
    """The outputs of the last `decode` or `encode`.

    Arrays are memoryviews of floats over llama.cpp's own memory, which numpy and torch use without a copy. After the
    next `decode`, a memoryview raises ValueError; an array that numpy made of it stays valid and shows the new values.
    """

    def getLogitsIth(self, i: int = -1) -> memoryview[float]:
        """Return the logits of entry `i` of the last batch; a negative `i` counts outputs from the end.

        Shape (nTokens of the vocabulary,), no copy. Raises IndexError if that entry has no output.

        Maps to `llama_get_logits_ith`.
        """
        with exclusive(self) as context:
            pointer = lib.shim_logits(context, self._limits, i)
            if not pointer:
                raise IndexError(self._no_output(i))
            return self._views.export(pointer, self._nVocab)

    def getLogits(self) -> memoryview[float]:
        """Return the logits of all outputs of the last batch, in the order of their entries.

        Shape (outputs, nTokens of the vocabulary), no copy. Raises IndexError if there are no outputs.

        Maps to `llama_get_logits`.
        """
        self._require_logits()
        return self._rows(lib.llama_get_logits, self._nVocab)

    def getEmbeddingsIth(self, i: int = -1) -> memoryview[float]:
        """Return the embedding of entry `i` of the last batch; a negative `i` counts outputs from the end.

        Shape (nEmbdOut of the model,), no copy. Raises ValueError unless the context has embeddings=True and
        poolingType NONE, IndexError if that entry has no embedding.

        Maps to `llama_get_embeddings_ith`.
        """
        self._require_token_embeddings()
        return self._row(lib.llama_get_embeddings_ith, i, lib.llama_model_n_embd_out(self._model._c))

    def getEmbeddings(self) -> memoryview[float]:
        """Return the embeddings of all outputs of the last batch, in the order of their entries.

        Shape (outputs, nEmbdOut of the model), no copy. Raises ValueError unless the context has embeddings=True and
        poolingType NONE, IndexError if there are no outputs.

        Maps to `llama_get_embeddings`.
        """
        self._require_token_embeddings()
        return self._rows(lib.llama_get_embeddings, lib.llama_model_n_embd_out(self._model._c))

    def getEmbeddingsSeq(self, seqId: SeqId) -> memoryview[float]:
        """Return the pooled embedding of a sequence of the last batch, as a copy.

        Shape (nEmbdOut of the model,), or (nClsOut,) for the scores of poolingType RANK. Raises ValueError without
        pooling, IndexError for a sequence that was not in the batch.

        Maps to `llama_get_embeddings_seq`.
        """
        self._check_seq(seqId)
        pooling = enums.PoolingType(lib.llama_pooling_type(self._c))
        if pooling == enums.PoolingType.NONE:
            raise ValueError("this context does not pool: set Context.Params.poolingType, or use getEmbeddingsIth")
        model = self._model._c
        ranked = pooling == enums.PoolingType.RANK
        width = lib.llama_model_n_cls_out(model) if ranked else lib.llama_model_n_embd_out(model)
        with exclusive(self) as context:
            pointer = lib.llama_get_embeddings_seq(context, seqId) if self._limits.rows else ffi.NULL
            if pointer == ffi.NULL:
                raise IndexError(
                    f"sequence {seqId} has no embedding: it was not in the last batch, or embeddings is False"
                )
            return own_copy(pointer, width)

    def _require_logits(self) -> None:
        if self._limits.rows and not self._limits.logits:
            raise IndexError(self._no_output(-1))

    def _require_token_embeddings(self) -> None:
        if not self._limits.embeds:
            raise ValueError(
                "this context computes no embeddings: set Context.Params.embeddings, or call setEmbeddings(True)"
            )
        if lib.llama_pooling_type(self._c) != enums.PoolingType.NONE:
            raise ValueError("the embeddings of this context are pooled: use getEmbeddingsSeq")

    # The array is made before the context is released, so that no other call moves the memory in between.

    def _row(self, function: Any, i: int, width: int) -> memoryview[float]:
        with exclusive(self) as context:
            pointer = function(context, i) if self._limits.rows else ffi.NULL
            if pointer == ffi.NULL:
                raise IndexError(self._no_output(i))
            return self._views.export(pointer, width)

    def _rows(self, function: Any, width: int) -> memoryview[float]:
        with exclusive(self) as context:
            rows = self._limits.rows
            pointer = function(context) if rows else ffi.NULL
            if pointer == ffi.NULL:
                raise IndexError(self._no_output(-1))
            return self._views.export(pointer, rows * width, (rows, width))

    def _no_output(self, idx: int) -> str:
        if not self._limits.rows:
            return "there are no outputs: decode a batch first; a failed decode leaves none"
        if not self._limits.logits:
            return "the last outputs are embeddings without logits: use getEmbeddingsSeq or getEmbeddingsIth"
        return (
            f"entry {idx} of the last batch has no output: request it with batch.output[i] = 1 (getOne does so for the "
            "last token)"
        )

    # Results of samplers on the device

    def getSampledTokenIth(self, i: int = -1) -> Token:
        """Return the token that the sequence's own sampler picked on the device; TOKEN_NULL if there is none.

        Maps to `llama_get_sampled_token_ith`.
        """
        token: Token = self._run(lib.llama_get_sampled_token_ith, i)
        return token

    def getSampledProbsIth(self, i: int = -1) -> memoryview[float] | None:
        """Return the probabilities of the candidates that the device sampler kept, as a copy; None without any.

        Maps to `llama_get_sampled_probs_ith`.
        """
        return self._sampled(lib.llama_get_sampled_probs_ith, lib.llama_get_sampled_probs_count_ith, i, own_copy)

    def getSampledLogitsIth(self, i: int = -1) -> memoryview[float] | None:
        """Return the logits of the candidates that the device sampler kept, as a copy; None without any.

        Maps to `llama_get_sampled_logits_ith`.
        """
        return self._sampled(lib.llama_get_sampled_logits_ith, lib.llama_get_sampled_logits_count_ith, i, own_copy)

    def getSampledCandidatesIth(self, i: int = -1) -> list[Token] | None:
        """Return the candidates that the device sampler kept, in the order of `getSampledProbsIth`; None without any.

        Maps to `llama_get_sampled_candidates_ith`.
        """
        values, counts = lib.llama_get_sampled_candidates_ith, lib.llama_get_sampled_candidates_count_ith
        return self._sampled(values, counts, i, lambda pointer, count: list(ffi.unpack(pointer, count)))

    def getSampledProbsCountIth(self, i: int = -1) -> int:
        """Return the number of probabilities of `getSampledProbsIth`.

        Maps to `llama_get_sampled_probs_count_ith`.
        """
        count: int = self._run(lib.llama_get_sampled_probs_count_ith, i)
        return count

    def getSampledLogitsCountIth(self, i: int = -1) -> int:
        """Return the number of logits of `getSampledLogitsIth`.

        Maps to `llama_get_sampled_logits_count_ith`.
        """
        count: int = self._run(lib.llama_get_sampled_logits_count_ith, i)
        return count

    def getSampledCandidatesCountIth(self, i: int = -1) -> int:
        """Return the number of candidates of `getSampledCandidatesIth`.

        Maps to `llama_get_sampled_candidates_count_ith`.
        """
        count: int = self._run(lib.llama_get_sampled_candidates_count_ith, i)
        return count

    def _sampled(self, values: Any, counts: Any, i: int, copy: Callable[[Any, int], T]) -> T | None:
        with exclusive(self) as context:
            pointer, count = values(context, i), counts(context, i)
            return None if pointer == ffi.NULL or not count else copy(pointer, count)

    # Performance counters

    @property
    def perfContext(self) -> PerfContextData:
        """Times and counts since the context was made or they were reset; zeros with noPerf=True, the default.

        Maps to `llama_perf_context`.
        """
        data = PerfContextData()
        data._c[0] = self._run(lib.llama_perf_context)
        return data

    def perfContextPrint(self) -> None:
        """Write the performance counters to llama.cpp's log.

        Maps to `llama_perf_context_print`.
        """
        self._run(lib.llama_perf_context_print)

    def perfContextReset(self) -> None:
        """Reset the performance counters to 0.

        Maps to `llama_perf_context_reset`.
        """
        self._run(lib.llama_perf_context_reset)
