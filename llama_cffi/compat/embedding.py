"""Embeddings in llama-cpp-python's spelling: `Llama.embed` and `Llama.create_embedding`."""

from __future__ import annotations

from typing import Any, cast

from llama_cffi._core.base_types import Token
from llama_cffi._generated.enums import AttentionType, PoolingType
from llama_cffi.compat.decoding import DecodingMethods
from llama_cffi.compat.parameters import pooling
from llama_cffi.compat.unsupported import unsupported
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.embedding.embedding import Embedder, _declared
from llama_cffi.vocab.tokenize import tokenize


class EmbeddingMethods(DecodingMethods):
    """What a `Llama(embedding=True)` does."""

    _embedder: Embedder | None = None
    _token_context: Context | None = None

    def pooling_type(self) -> int:
        """Return how the vectors of a text's tokens become one, as a number of `PoolingType`; 0 is not at all."""
        return int(self._pooling())

    def _pooling(self) -> PoolingType:
        chosen = pooling(self._options)
        if chosen == PoolingType.UNSPECIFIED:
            chosen = _declared(self._model)
        return PoolingType.NONE if chosen == PoolingType.UNSPECIFIED else chosen

    def create_embedding(self, input: str | list[str], model: str | None = None) -> dict[str, Any]:
        """Compute the vectors of texts, as a dict in OpenAI's form. They are not normalized."""
        texts = input if isinstance(input, list) else [input]
        vectors, count = self.embed(texts, return_count=True)
        return {
            "object": "list",
            "data": [{"object": "embedding", "embedding": row, "index": i} for i, row in enumerate(vectors)],
            "model": self.model_path if model is None else model,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }

    def embed(
        self, input: str | list[str], normalize: bool = False, truncate: bool = True, return_count: bool = False
    ) -> Any:
        """Compute the vector of a text, or a list of them. Without pooling, a text has one vector for each token.

        `truncate` cuts off texts that exceed `n_ctx`; otherwise they raise ValueError. With `return_count`, returns
        the number of tokens as well. Raises RuntimeError without `embedding=True`.
        """
        if not self._embedding:
            raise RuntimeError("this Llama computes no embeddings: pass embedding=True to Llama(), or use Embedder")
        single = isinstance(input, str)
        texts = [input] if isinstance(input, str) else list(input)
        limit = min(self.n_ctx(), self._model._nPositions or self.n_ctx())
        counts = [min(len(tokenize(self._model.vocab, text)), limit) for text in texts]
        found: list[Any]
        if self._pooling() == PoolingType.NONE:
            found = [self._embed_tokens(text, limit, normalize, truncate) for text in texts]
        else:
            found = self._embed_texts(texts, limit, normalize, truncate)
        result = found[0] if single else found
        return (result, sum(counts)) if return_count else result

    def _embed_texts(self, texts: list[str], limit: int, normalize: bool, truncate: bool) -> list[list[float]]:
        kind = self._pooling()
        if kind == PoolingType.RANK:
            raise unsupported("embeddings with pooling_type RANK", "Reranker scores documents")
        if self._embedder is None:
            attention = AttentionType(self._options["attention_type"])
            threads = self._options["n_threads"]
            made = Embedder(self._model, kind, nCtx=limit, nThreads=threads, attentionType=attention, normalize=False)
            self._embedder = self._stack.enter_context(made)
            if self._adapter is not None:
                made.context.setAdapterLora(self._adapter, self.lora_scale)
        vectors = self._embedder.embed(texts, truncate=truncate)
        rows: list[list[float]] = vectors.tolist()
        return [_normalized(row) for row in rows] if normalize else rows

    def _embed_tokens(self, text: str, limit: int, normalize: bool, truncate: bool) -> list[list[float]]:
        """Compute a vector for each token of a text."""
        tokens: list[Token] = tokenize(self._model.vocab, text)
        if len(tokens) > limit and not truncate:
            raise ValueError(f"a text has {len(tokens)} tokens, which exceed n_ctx={limit}: pass truncate=True")
        if self._token_context is None:
            params = Context.Params(nCtx=limit, nBatch=limit, nUbatch=limit, embeddings=True)
            params.poolingType, params.attentionType = PoolingType.NONE, self._params.attentionType
            params.nThreads, params.nThreadsBatch = self._params.nThreads, self._params.nThreadsBatch
            self._token_context = self._stack.enter_context(Context.initFromModel(self._model, params))
            if self._adapter is not None:
                self._token_context.setAdapterLora(self._adapter, self.lora_scale)
        ctx, batch = self._token_context, Batch.init(limit)
        batch.extend(tokens[:limit], 0, (0,), "all")
        if self._model.hasEncoder:
            ctx.encode(batch)
        else:
            ctx.getMemory().clear()
            ctx.decode(batch)
        rows = cast("list[list[float]]", ctx.getEmbeddings().tolist())
        return [_normalized(row) for row in rows] if normalize else rows


def _normalized(row: list[float]) -> list[float]:
    length = sum(value * value for value in row) ** 0.5
    return [value / length for value in row] if length else row
