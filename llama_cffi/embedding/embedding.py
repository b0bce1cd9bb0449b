"""Text embeddings and reranking: many texts in each decode, results as numpy arrays."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import StrOrBytes
from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected, integer, out_of_range
from llama_cffi._core.ffi import lib
from llama_cffi._core.ownership import locked
from llama_cffi._core.user_warnings import warn
from llama_cffi._generated.enums import AttentionType, PoolingType
from llama_cffi.context.context import Context
from llama_cffi.embedding.packing import Packer, Texts, default_batch, default_threads, numpy_for
from llama_cffi.model.model import Model
from llama_cffi.vocab.tokenize import tokenize
from llama_cffi.vocab.vocab import Vocab

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self

_DEFAULT_N_CTX = 2048  # at most: a larger context costs memory that few texts need
_POOLINGS = (PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST)


class _TextComputer:
    """The common part of Embedder and Reranker: a context, which one call uses at a time."""

    _packer: Packer

    def _set_up(
        self,
        model: Model,
        pooling: PoolingType,
        n_ctx: int | None,
        n_batch: int | None,
        n_threads: int | None,
        attention: AttentionType,
    ) -> None:
        most = model._nPositions or model.nCtxTrain
        longest = min(most, _DEFAULT_N_CTX) if n_ctx is None else integer(n_ctx, 1, 1 << 24, "nCtx")
        if model._nPositions and longest > model._nPositions:
            raise out_of_range("nCtx", longest, 1, model._nPositions, "the model has no more positions")
        threads = default_threads() if n_threads is None else integer(n_threads, 1, lib.GGML_MAX_N_THREADS, "nThreads")
        packed = default_batch(model, threads) if n_batch is None else integer(n_batch, 1, 1 << 24, "nBatch")
        self._model, self._longest = model, longest
        self._lock = threading.Lock()
        self._packer = Packer(model, pooling, longest, packed, threads, n_threads is None, attention)

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    @property
    def context(self) -> Context:
        """The context, for example for `setAdapterLora`. Every call clears its memory."""
        return self._packer.context

    @property
    def nCtx(self) -> int:
        """The most tokens that a text may have."""
        return self._longest

    def close(self) -> None:
        """Free the context. Closing twice is harmless; the model stays."""
        self._packer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fit(self, tokens: list[Token], what: str, truncate: bool) -> list[Token]:
        if not tokens:
            raise ValueError(f"{what} has no tokens: it is empty, and this model adds no special tokens")
        if len(tokens) <= self._longest:
            return tokens
        if truncate:
            closing = tokens[-1:] if self._model.vocab.isControl(tokens[-1]) else []  # models expect it at the end
            return tokens[: self._longest - len(closing)] + closing
        raise ValueError(
            f"{what} has {len(tokens)} tokens, but the limit is {self._longest}: split it, pass truncate=True to cut "
            f"it off, or pass a higher nCtx (the model was trained with {self._model.nCtxTrain})"
        )


class Embedder(_TextComputer):
    """Computes embedding vectors of texts, in its own context. `close` or a `with` block frees the context.

    `poolingType` is how the vectors of a text's tokens become one: MEAN, CLS (the first token) or LAST. None uses what
    the model's file names; if it names nothing, MEAN, with a warning. `normalize=True` scales vectors to length 1,
    except zero vectors.

    `nCtx` is the most tokens that a text may have (None: what the model was trained with, at most 2,048). `nBatch` is
    about how many tokens one decode takes, so that short texts share it (None: 128 to 512, depending on threads,
    devices and vocabulary). `nThreads` None uses as many threads as the process can use CPUs, at most 16, and fewer
    while other programs need them. `attentionType` is for models that were trained in a different way than their file
    says.

    Thread-safe: calls from several threads wait for each other. Needs numpy.
    """

    def __init__(
        self,
        model: Model,
        poolingType: PoolingType | None = None,
        *,
        nCtx: int | None = None,
        nBatch: int | None = None,
        nThreads: int | None = None,
        attentionType: AttentionType = AttentionType.UNSPECIFIED,
        normalize: bool = True,
    ) -> None:
        numpy_for("Embedder")
        _require_model(model)
        self._pooling = _pooling_of(model) if poolingType is None else PoolingType(poolingType)
        if self._pooling not in _POOLINGS:
            raise ValueError(
                "this model computes scores, not vectors: use Reranker"
                if self._pooling == PoolingType.RANK
                else f"poolingType must be one of MEAN, CLS, LAST, or None for the model's, got {self._pooling.name}"
            )
        self._normalize = bool(normalize)
        self._set_up(model, PoolingType.NONE, nCtx, nBatch, nThreads, attentionType)

    @property
    def poolingType(self) -> PoolingType:
        """How the vectors of a text's tokens are combined."""
        return self._pooling

    @property
    def nEmbd(self) -> int:
        """The number of dimensions of a vector."""
        return self._model.nEmbdOut

    def embed(self, texts: StrOrBytes | Iterable[StrOrBytes], *, truncate: bool = False) -> npt.NDArray[np.float32]:
        """Compute the vectors of texts: float32, shape (number of texts, nEmbd), in the same order.

        A single text returns shape (nEmbd,). An empty text is embedded as the special tokens that the model adds to
        every text. A text with more tokens than `nCtx` raises ValueError; `truncate` cuts it off instead. Raises
        ValueError also for an empty text if the model adds nothing, ClosedError, and what `Context.decode` raises.
        """
        if isinstance(texts, (str, bytes)):
            return self.embed([texts], truncate=truncate)[0]  # type: ignore[no-any-return]
        vocab = self._model.vocab
        return self._embed([tokenize(vocab, text) for text in texts], truncate)

    def _embed(self, texts: Iterable[list[Token]], truncate: bool = False) -> npt.NDArray[np.float32]:
        """Compute the vectors of texts that are tokens already, with the special ones."""
        np = numpy_for("Embedder")
        found = [self._fit(text, f"text {i}", truncate) for i, text in enumerate(texts)]
        flat = Texts(np, found)
        vectors = np.zeros((len(found), self.nEmbd), np.float32)
        with locked(self._lock):
            self._packer.context._c  # noqa: B018  raises ClosedError
            self._fill(np, flat, vectors)
        if self._pooling == PoolingType.MEAN:
            vectors /= flat.lengths[:, None].astype(np.float32)
        if self._normalize:
            lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            lengths[lengths == 0] = 1
            vectors /= lengths[:, None]
        ordered = np.empty_like(vectors)
        ordered[flat.order] = vectors
        return ordered  # type: ignore[no-any-return]

    def _fill(self, np: Any, flat: Texts, vectors: Any) -> None:
        """Decode the texts, and put the sum, first or last row of each into `vectors`, in the order of `flat`."""
        for begin, end, first, last in self._packer.runs(flat):
            rows = np.asarray(self._packer.context.getEmbeddings())
            starts = np.maximum(flat.starts[begin:end] - first, 0)
            if self._pooling == PoolingType.MEAN:
                vectors[begin:end] += np.add.reduceat(rows, starts, axis=0)
            elif self._pooling == PoolingType.LAST:
                vectors[begin:end] = rows[np.minimum(flat.ends[begin:end], last) - first - 1]
            elif first == flat.starts[begin]:
                vectors[begin:end] = rows[starts]
            del rows  # a view of llama.cpp's memory, which the next decode overwrites

    def __repr__(self) -> str:
        return f"<Embedder {self._pooling.name}, nCtx={self._longest}, {self._model!r}>"


class Reranker(_TextComputer):
    """Scores how well documents answer a query, with a model that was trained for it (a cross-encoder).

    The model's file must name rank pooling (`poolingType` RANK) or class labels; else ValueError. The parameters are
    those of `Embedder`; `nCtx` counts query and document together. Needs numpy.
    """

    def __init__(
        self, model: Model, *, nCtx: int | None = None, nBatch: int | None = None, nThreads: int | None = None
    ) -> None:
        numpy_for("Reranker")
        _require_model(model)
        if _declared(model) != PoolingType.RANK and model.clsLabel(0) is None:
            raise ValueError(
                "this model has no classification head: its file names neither rank pooling nor class labels. Use a "
                "model that was trained to rerank, or compare vectors of Embedder"
            )
        template = model.chatTemplate("rerank")
        self._template = None if template is None else re.split(r"(\{query\}|\{document\})", template)
        self._set_up(model, PoolingType.RANK, nCtx, nBatch, nThreads, AttentionType.UNSPECIFIED)

    def rank(
        self, query: StrOrBytes, documents: Iterable[StrOrBytes], *, truncate: bool = False
    ) -> npt.NDArray[np.float32]:
        """Compute the scores of documents for a query: float32, shape (number of documents,), in the same order.

        The scale depends on the model: usually any number, and higher is better. If the model has several classes, it
        is the score of the first one. If query and document together have more tokens than `nCtx`, raises ValueError;
        `truncate` cuts off the document instead. Raises ClosedError, and what `Context.decode` raises.
        """
        np = numpy_for("Reranker")
        if isinstance(documents, (str, bytes)):
            raise expected("a list of texts", documents, "write [document] for one", "documents")
        found = [self._pair(query, document, i, truncate) for i, document in enumerate(documents)]
        flat = Texts(np, found)
        scores = np.zeros(len(found), np.float32)
        with locked(self._lock):
            self._packer.context._c  # noqa: B018  raises ClosedError
            for begin, end, _, _ in self._packer.runs(flat):
                scores[flat.order[begin:end]] = self._scores(end - begin)
        return scores  # type: ignore[no-any-return]

    def _scores(self, n: int) -> list[float]:
        context = self._packer.context
        with context._exclusive() as pointer:
            found = [lib.llama_get_embeddings_seq(pointer, seq) for seq in range(n)]
            return [row[0] for row in found]

    def _pair(self, query: StrOrBytes, document: StrOrBytes, index: int, truncate: bool) -> list[Token]:
        what = f"document {index} with its query"
        tokens = self._tokens(query, document)
        if len(tokens) > self._longest and truncate:
            text = _str(document)
            low, high = 0, len(text)  # the longest prefix of the document that fits
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self._fits(query, text[:middle]) else (low, middle - 1)
            tokens = self._tokens(query, text[:low])
        return self._fit(tokens, what, False)

    def _fits(self, query: StrOrBytes, document: str) -> bool:
        return len(self._tokens(query, document)) <= self._longest

    def _tokens(self, query: StrOrBytes, document: StrOrBytes) -> list[Token]:
        vocab = self._model.vocab
        if self._template is not None:
            return self._fill_in(query, document)
        begin = [vocab.bos] if vocab.getAddBos() and vocab.bos != TOKEN_NULL else []
        end = [token for token in (vocab.eos, vocab.sep) if token != TOKEN_NULL][:1] if vocab.getAddEos() else []
        between = [vocab.sep] if vocab.getAddSep() and vocab.sep != TOKEN_NULL else []
        first, second = (tokenize(vocab, text, addSpecial=False) for text in (query, document))
        return [*begin, *first, *end, *between, *second, *end]

    def _fill_in(self, query: StrOrBytes, document: StrOrBytes) -> list[Token]:
        """Fill in the model's own template. Control tokens are parsed in the template, not in query and document."""
        vocab = self._model.vocab
        texts = {"{query}": _str(query), "{document}": _str(document)}
        parts = [texts.get(part, part) for part in self._template or ()]
        if not any([_spells_control(vocab, text) for text in texts.values()]):
            return tokenize(vocab, "".join(parts), addSpecial=False, parseSpecial=True)
        tokens: list[Token] = []
        for part, text in zip(self._template or (), parts, strict=True):
            tokens += tokenize(vocab, text, addSpecial=False, parseSpecial=part not in texts)
        return tokens

    def __repr__(self) -> str:
        scores = "" if self._model.closed else f"{self._model.nClsOut} scores per document, "
        return f"<Reranker, {scores}nCtx={self._longest}, {self._model!r}>"


def _require_model(model: Model) -> None:
    if not isinstance(model, Model):
        raise expected("a Model", model, "Model.load(path) makes one")
    if model._params.vocabOnly or model._params.noAlloc:
        raise ValueError("a model loaded with vocabOnly or noAlloc has no weights to run: load it whole")


def _str(text: StrOrBytes) -> str:
    return text if isinstance(text, str) else text.decode()


def _spells_control(vocab: Vocab, text: str) -> bool:
    plain = tokenize(vocab, text, addSpecial=False)
    return plain != tokenize(vocab, text, addSpecial=False, parseSpecial=True)


def _declared(model: Model) -> PoolingType:
    """The pooling that the model's file names; UNSPECIFIED if it names none."""
    value = model.metaValStr(f"{model.metaValStr('general.architecture')}.pooling_type")
    return PoolingType.UNSPECIFIED if value is None else PoolingType(int(value))


def _pooling_of(model: Model) -> PoolingType:
    declared = _declared(model)
    if declared not in (PoolingType.UNSPECIFIED, PoolingType.NONE):
        return declared
    warn(
        "this model's file does not name a pooling type: MEAN is used. Pass poolingType=MEAN to confirm it, or CLS or "
        "LAST if the model was trained with that",
        UserWarning,
    )
    return PoolingType.MEAN
