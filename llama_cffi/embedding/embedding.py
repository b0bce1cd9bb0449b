"""Embeddings of texts, and scores of documents for a query: many texts in each decode, results as numpy arrays."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llama_cffi._core.arguments import StrOrBytes
from llama_cffi._core.base_types import TOKEN_NULL, Token
from llama_cffi._core.checks import expected, integer
from llama_cffi._core.ffi import lib
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

_LONGEST = 2048  # tokens of a text, where the caller does not say and the model was trained with more
_POOLINGS = (PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST)


class _Texts:
    """What embedding and reranking share: a context of its own, in use by one call at a time."""

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
        longest = min(most, _LONGEST) if n_ctx is None else integer(n_ctx, 1, 1 << 24, "nCtx")
        if model._nPositions and longest > model._nPositions:
            raise ValueError(f"nCtx is {longest}, but this model knows {model._nPositions} positions: lower it")
        threads = default_threads() if n_threads is None else integer(n_threads, 1, lib.GGML_MAX_N_THREADS, "nThreads")
        packed = default_batch(model, threads) if n_batch is None else integer(n_batch, 1, 1 << 24, "nBatch")
        self._model, self._longest = model, longest
        self._turns = threading.Lock()
        self._packer = Packer(model, pooling, longest, packed, threads, attention)

    @property
    def model(self) -> Model:
        """The model that computes."""
        return self._model

    @property
    def context(self) -> Context:
        """The context that computes, such as for `setAdapterLora`. What it remembers is erased with every call."""
        return self._packer.context

    @property
    def nCtx(self) -> int:
        """How many tokens a text may have."""
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
            raise ValueError(f"{what} has no tokens: it is empty, and this model adds none of its own")
        if len(tokens) <= self._longest:
            return tokens
        if truncate:
            closing = tokens[-1:] if self._model.vocab.isControl(tokens[-1]) else []  # the model wants it at the end
            return tokens[: self._longest - len(closing)] + closing
        raise ValueError(
            f"{what} has {len(tokens)} tokens, and the limit is {self._longest}: split it, pass truncate=True to use "
            f"its beginning, or pass a higher nCtx (the model was trained with {self._model.nCtxTrain})"
        )


class Embedder(_Texts):
    """Turns texts into vectors. Has a context of its own, which `close` frees; `with` does so too.

    `poolingType` says how the vectors of a text's tokens become one: MEAN, CLS (the first one's) or LAST. None takes
    what the model's file names; where it names nothing, MEAN, with a warning. Vectors have length 1 with
    `normalize=True`; a vector of zeros stays as it is.

    `nCtx` is how many tokens the longest text may have (None: what the model was trained with, at most 2,048), `nBatch`
    about how many one decode takes, which short texts share (None: 128 to 512, by the threads, devices and
    vocabulary). `nThreads` is the
    number of threads (None: as many as this process may use, at most 16). `attentionType` is for models that were
    trained in another way than their file says.

    Serves one call at a time: calls from several threads take turns. Needs numpy.
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
                "this model gives scores, no vectors: use Reranker"
                if self._pooling == PoolingType.RANK
                else f"poolingType is one of MEAN, CLS, LAST, or None for the model's own, not {self._pooling.name}"
            )
        self._normalize = bool(normalize)
        self._set_up(model, PoolingType.NONE, nCtx, nBatch, nThreads, attentionType)

    @property
    def poolingType(self) -> PoolingType:
        """How the vectors of a text's tokens become one."""
        return self._pooling

    @property
    def nEmbd(self) -> int:
        """How many numbers a vector has."""
        return self._model.nEmbdOut

    def embed(self, texts: StrOrBytes | Iterable[StrOrBytes], *, truncate: bool = False) -> npt.NDArray[np.float32]:
        """The vectors of texts: float32, shape (number of texts, nEmbd), in their order. One text gives (nEmbd,).

        An empty text is embedded as the tokens that the model adds to every text. A text with more tokens than `nCtx`
        raises ValueError, or loses its end with `truncate`. Raises ValueError also for an empty text to which the
        model adds nothing, ClosedError, and what `Context.decode` raises.
        """
        np = numpy_for("Embedder")
        if isinstance(texts, (str, bytes)):
            return self.embed([texts], truncate=truncate)[0]  # type: ignore[no-any-return]
        vocab = self._model.vocab
        found = [self._fit(tokenize(vocab, text), f"text {i}", truncate) for i, text in enumerate(texts)]
        flat = Texts(np, found)
        vectors = np.zeros((len(found), self.nEmbd), np.float32)
        with self._turns:
            self._packer.context._c  # noqa: B018  raises
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
        """Decode, and put sums, first or last rows of texts into `vectors`, which has the order of `flat`."""
        for begin, end, first, last in self._packer.runs(flat):
            rows = np.asarray(self._packer.context.getEmbeddings())
            starts = np.maximum(flat.starts[begin:end] - first, 0)
            if self._pooling == PoolingType.MEAN:
                vectors[begin:end] += np.add.reduceat(rows, starts, axis=0)
            elif self._pooling == PoolingType.LAST:
                vectors[begin:end] = rows[np.minimum(flat.ends[begin:end], last) - first - 1]
            elif first == flat.starts[begin]:
                vectors[begin:end] = rows[starts]
            del rows  # llama.cpp's own memory

    def __repr__(self) -> str:
        return f"<Embedder {self._pooling.name}, {self.nEmbd} numbers a text>"


class Reranker(_Texts):
    """Scores how well documents answer a query, with a model that was trained for that.

    The model's file names rank pooling (`poolingType` RANK) or labels of classes; ValueError for one that does not.
    The other parameters are those of `Embedder`; `nCtx` counts query and document together. Needs numpy.
    """

    def __init__(
        self, model: Model, *, nCtx: int | None = None, nBatch: int | None = None, nThreads: int | None = None
    ) -> None:
        numpy_for("Reranker")
        _require_model(model)
        if _declared(model) != PoolingType.RANK and model.clsLabel(0) is None:
            raise ValueError(
                "this model has no classification head: its file names neither rank pooling nor labels. Use a model "
                "that was trained to rerank, or compare vectors of Embedder"
            )
        template = model.chatTemplate("rerank")
        self._template = None if template is None else re.split(r"(\{query\}|\{document\})", template)
        self._set_up(model, PoolingType.RANK, nCtx, nBatch, nThreads, AttentionType.UNSPECIFIED)

    def rank(
        self, query: StrOrBytes, documents: Iterable[StrOrBytes], *, truncate: bool = False
    ) -> npt.NDArray[np.float32]:
        """The scores of documents for a query: float32, shape (number of documents,), in their order.

        What a score means is the model's: of most, any number, and more is better. Of a model with several classes it
        is the first one's. Query and document with more tokens than `nCtx` raise ValueError; `truncate` shortens the
        document. Raises ClosedError, and what `Context.decode` raises.
        """
        np = numpy_for("Reranker")
        if isinstance(documents, (str, bytes)):
            raise TypeError("documents is a list of texts: write [document] for one")
        found = [self._pair(query, document, i, truncate) for i, document in enumerate(documents)]
        flat = Texts(np, found)
        scores = np.zeros(len(found), np.float32)
        with self._turns:
            self._packer.context._c  # noqa: B018  raises
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
            low, high = 0, len(text)  # the longest beginning of the document that fits
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
        asked, told = (tokenize(vocab, text, addSpecial=False) for text in (query, document))
        return [*begin, *asked, *end, *between, *told, *end]

    def _fill_in(self, query: StrOrBytes, document: StrOrBytes) -> list[Token]:
        """The model's own form, which spells out control tokens. Those of other texts stay text."""
        vocab = self._model.vocab
        texts = {"{query}": _str(query), "{document}": _str(document)}
        parts = [texts.get(part, part) for part in self._template or ()]
        if not any(_spells_control(vocab, text) for text in texts.values()):
            return tokenize(vocab, "".join(parts), addSpecial=False, parseSpecial=True)
        tokens: list[Token] = []
        for part, text in zip(self._template or (), parts, strict=True):
            tokens += tokenize(vocab, text, addSpecial=False, parseSpecial=part not in texts)
        return tokens

    def __repr__(self) -> str:
        return f"<Reranker, {self._model.nClsOut} scores a document>"


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
    """What the model's file says about pooling; UNSPECIFIED where it says nothing."""
    value = model.metaValStr(f"{model.metaValStr('general.architecture')}.pooling_type")
    return PoolingType.UNSPECIFIED if value is None else PoolingType(int(value))


def _pooling_of(model: Model) -> PoolingType:
    declared = _declared(model)
    if declared not in (PoolingType.UNSPECIFIED, PoolingType.NONE):
        return declared
    warn(
        "this model's file does not say how to make one vector of a text's: MEAN is used. Pass poolingType=MEAN to "
        "agree, or CLS or LAST, as the model was trained",
        UserWarning,
    )
    return PoolingType.MEAN
