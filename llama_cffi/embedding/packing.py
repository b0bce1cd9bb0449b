"""Packs many texts into each decode for embeddings, and skips the computation of logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from llama_cffi._core.compat import has
from llama_cffi._core.ffi import ffi
from llama_cffi._generated.enums import AttentionType, PoolingType
from llama_cffi._host.resources import usable_cpus
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.context.params import ContextParams
from llama_cffi.model.model import Model
from llama_cffi.model.placement import is_on_cpu

MAX_TEXTS = 64  # in one decode; llama.cpp's pooling requires a batch size that is a multiple of it
_MAX_STATES = 8  # ... of recurrent models, whose states may be large
_PACKED_TOKENS = (128, 512)  # in one decode, least and most: with short texts, more only compute masked attention
_TOKENS_PER_THREAD = 64
_MAX_LOGITS_BYTES = 128 << 20  # llama.cpp allocates logits for every token that has an embedding
_MAX_THREADS = 16  # more do not make batches of this size faster
_POOLED = "result_embd_pooled"  # llama.cpp's name of the tensor with the embeddings


def numpy_for(what: str) -> Any:
    """Import numpy, which only embeddings need."""
    try:
        import numpy
    except ImportError as error:
        raise ImportError(f"{what} needs numpy: pip install numpy") from error
    return numpy


def default_threads() -> int:
    """The number of CPUs that this process may use, up to a limit."""
    return min(_MAX_THREADS, usable_cpus())


def default_batch(model: Model, n_threads: int) -> int:
    """The number of tokens to pack into one decode: fewer with a large vocabulary, to save memory."""
    least, most = _PACKED_TOKENS
    affordable = _MAX_LOGITS_BYTES // (4 * model.vocab.nTokens)
    useful = _TOKENS_PER_THREAD * n_threads if is_on_cpu(model._params) else most
    return max(least, min(useful, most, affordable)) // MAX_TEXTS * MAX_TEXTS


class Shortcut:
    """Stops the computation of a decode when the embeddings are there.

    After them a decoder computes logits, which embeddings do not need and which can take more time than all the rest.
    The first decode computes the whole graph, to check that it has only one tensor with embeddings.
    """

    def __init__(self) -> None:
        self.explored = self.useful = False
        self.nodes = 0  # of the graph, as llama.cpp asks about them
        self.ends: list[int] = []  # the nodes with embeddings, in the first decode

    def ask(self, tensor: Any, ask: bool) -> bool:
        """The eval callback: with `ask`, return True to see the node's data; then return False to stop."""
        if not ask:
            return False
        self.nodes += 1
        if self.explored:
            return self.useful and tensor.name == _POOLED
        if tensor.name == _POOLED:
            self.ends.append(self.nodes)
        return False


class Packer:
    """A context and a batch for whole texts, each in its own sequence."""

    def __init__(
        self,
        model: Model,
        pooling: PoolingType,
        n_ctx: int,
        n_batch: int,
        n_threads: int,
        adapt: bool,
        attention: AttentionType,
    ) -> None:
        """`n_ctx` is the most tokens of a text, `n_batch` about how many tokens one decode takes. `adapt` is
        `Context.Params.adaptThreads`.
        """
        self._numpy = np = numpy_for("Embedder and Reranker")
        self.n_batch = n_batch
        stateful = model.isRecurrent or (has("llama_model_is_hybrid") and model.isHybrid)
        self._encodes = model.hasEncoder
        self.n_seq = 1 if model.hasEncoder and model.hasDecoder else _MAX_STATES if stateful else MAX_TEXTS
        params = Context.Params(
            embeddings=True,
            poolingType=pooling,
            attentionType=attention,
            nSeqMax=self.n_seq,
            kvUnified=True,
            nThreads=n_threads,
            nThreadsBatch=n_threads,
            adaptThreads=adapt,
        )
        self._shortcut = Shortcut() if pooling == PoolingType.NONE and not model.hasEncoder else None
        if self._shortcut is not None:
            params.cbEval = self._shortcut.ask
        # If tokens attend to later ones, or llama.cpp does the pooling, each text must be decoded in one batch.
        whole = model.hasEncoder or pooling != PoolingType.NONE
        self.context = self._open(model, params, n_ctx, max(n_ctx, n_batch) if whole else n_batch)
        if not whole and not self.context.getCausalAttn() and n_ctx > n_batch:
            self.context.close()
            self.context = self._open(model, params, n_ctx, n_ctx)
        self._batch = Batch.init(self.capacity)
        arrays = self._batch._arrays
        self._token, self._pos, self._seq = (
            np.frombuffer(ffi.buffer(arrays[name]), np.int32) for name in ("token", "pos", "seq_ids")
        )
        np.frombuffer(ffi.buffer(arrays["logits"]), np.int8)[:] = 1

    def _open(self, model: Model, params: ContextParams, n_ctx: int, capacity: int) -> Context:
        params.nUbatch = params.nBatch = self.capacity = -(-capacity // MAX_TEXTS) * MAX_TEXTS
        params.nCtx = max(n_ctx, self.capacity)
        return Context.initFromModel(model, params)

    def close(self) -> None:
        self.context.close()

    def _compute(self, first: int, last: int, flat: Texts, seq: Any) -> None:
        n = last - first
        self._token[:n] = flat.tokens[first:last]
        self._pos[:n] = flat.positions[first:last]
        self._seq[:n] = seq
        self._batch.nTokens = n
        if self._encodes:
            self.context.encode(self._batch)
        else:
            self.context.decode(self._batch)

    def _explore(self, flat: Texts) -> None:
        """Before the first decode: decode one token, to learn the nodes of the graph."""
        shortcut = self._shortcut
        if shortcut is not None and not shortcut.explored and len(flat.tokens):
            shortcut.nodes = 0
            shortcut.ends.clear()
            self._clear_memory()
            self._compute(0, 1, flat, 0)
            shortcut.explored, shortcut.useful = True, len(shortcut.ends) == 1 and shortcut.ends[0] < shortcut.nodes

    def runs(self, flat: Texts) -> Iterator[tuple[int, int, int, int]]:
        """Decode all texts. After each decode, yields the range of its texts and the range of its tokens in `flat`.

        A text longer than a batch is decoded alone, in several decodes.
        """
        np, begin = self._numpy, 0
        self._explore(flat)
        while begin < len(flat.lengths):
            start = int(flat.starts[begin])
            end = int(np.searchsorted(flat.ends, start + self.n_batch, side="right"))
            end = max(begin + 1, min(end, begin + self.n_seq))
            self._clear_memory()
            last = int(flat.ends[end - 1])
            for first in range(start, last, self.capacity):
                piece = min(first + self.capacity, last)
                seq = 0 if end == begin + 1 else np.repeat(np.arange(end - begin), flat.lengths[begin:end])
                self._compute(first, piece, flat, seq)
                yield begin, end, first, piece
            begin = end

    def _clear_memory(self) -> None:
        if self.context._memory._pointer != ffi.NULL:
            self.context.getMemory().clear(False)


class Texts:
    """The tokens of several texts in one array, sorted by length, the shortest text first."""

    def __init__(self, np: Any, texts: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.order = np.argsort(lengths, kind="stable")
        self.lengths = lengths[self.order]
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        total = int(self.ends[-1]) if len(texts) else 0
        self.tokens = np.fromiter(chain.from_iterable([texts[i] for i in self.order]), np.int32, total)
        self.positions = np.arange(total, dtype=np.int32) - np.repeat(self.starts, self.lengths).astype(np.int32)
