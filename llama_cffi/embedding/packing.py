"""Many texts in one decode: how they are packed, how the batch is filled, and where the computation may end."""

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

SEQUENCES = 64  # texts in one decode; the size of a batch is a multiple of it, as llama.cpp's pooling wants
_STATES = 8  # ... of models that keep a state for each, which may be large
_PACKED = (128, 512)  # tokens in one decode, least and most: of short texts, more only cost attention that is masked
_EACH = 64  # ... for each thread, and a device counts as many
_LOGITS = 128 << 20  # bytes: llama.cpp has room for the logits of every token whose embedding is wanted
_THREADS = 16  # more cost more than they give in batches of this size
_POOLED = "result_embd_pooled"  # llama.cpp's name for what becomes the embeddings


def numpy_for(what: str) -> Any:
    """The module numpy, which only these classes need."""
    try:
        import numpy
    except ImportError as error:
        raise ImportError(f"{what} needs numpy: pip install 'llama-cffi[numpy]'") from error
    return numpy


def default_threads() -> int:
    """As many as this process may use, within reason."""
    return min(_THREADS, usable_cpus())


def default_batch(model: Model, n_threads: int) -> int:
    """How many tokens one decode packs: fewer with a large vocabulary, for the memory's sake."""
    room = _LOGITS // (4 * model.vocab.nTokens)
    wanted = _EACH * n_threads if is_on_cpu(model._params) else _PACKED[1]
    return max(_PACKED[0], min(wanted, _PACKED[1], room)) // SEQUENCES * SEQUENCES


class Shortcut:
    """Ends a decode where the embeddings are there.

    What a decoder computes after them are logits, which nobody reads here and which may cost more than all that went
    before. The first decode computes everything, to see that no other embeddings follow.
    """

    def __init__(self) -> None:
        self.explored = self.useful = False
        self.nodes = 0  # that llama.cpp asked about
        self.ends: list[int] = []  # those of them that are embeddings, in the first decode

    def ask(self, tensor: Any, ask: bool) -> bool:
        """What llama.cpp calls for each node: first whether its data is wanted, then whether to go on."""
        if not ask:
            return False
        self.nodes += 1
        if self.explored:
            return self.useful and tensor.name == _POOLED
        if tensor.name == _POOLED:
            self.ends.append(self.nodes)
        return False


class Packer:
    """A context for whole texts, each in a sequence of its own, and the batch that takes them there."""

    def __init__(
        self,
        model: Model,
        pooling: PoolingType,
        n_ctx: int,
        n_batch: int,
        n_threads: int,
        attention: AttentionType,
    ) -> None:
        """For texts of up to `n_ctx` tokens, of which one decode takes about `n_batch`."""
        self._numpy = np = numpy_for("Embedder and Reranker")
        self.n_batch = n_batch
        stateful = model.isRecurrent or (has("llama_model_is_hybrid") and model.isHybrid)
        self._encodes = model.hasEncoder
        self.n_seq = 1 if model.hasEncoder and model.hasDecoder else _STATES if stateful else SEQUENCES
        params = Context.Params(
            embeddings=True,
            poolingType=pooling,
            attentionType=attention,
            nSeqMax=self.n_seq,
            kvUnified=True,
            nThreads=n_threads,
            nThreadsBatch=n_threads,
        )
        self._shortcut = Shortcut() if pooling == PoolingType.NONE and not model.hasEncoder else None
        if self._shortcut is not None:
            params.cbEval = self._shortcut.ask
        # Where tokens see those after them, or llama.cpp pools, a text is computed in one piece.
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
        params.nUbatch = params.nBatch = self.capacity = -(-capacity // SEQUENCES) * SEQUENCES
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
        """Before the first decode: let a single token show what the graph is made of."""
        shortcut = self._shortcut
        if shortcut is not None and not shortcut.explored and len(flat.tokens):
            shortcut.nodes = 0
            shortcut.ends.clear()
            self._forget()
            self._compute(0, 1, flat, 0)
            shortcut.explored, shortcut.useful = True, len(shortcut.ends) == 1 and shortcut.ends[0] < shortcut.nodes

    def runs(self, flat: Texts) -> Iterator[tuple[int, int, int, int]]:
        """Decode all texts: yields after each decode the texts that it held, and its tokens, as ranges of `flat`.

        A text that is longer than a batch comes alone, in several decodes.
        """
        np, begin = self._numpy, 0
        self._explore(flat)
        while begin < len(flat.lengths):
            start = int(flat.starts[begin])
            end = int(np.searchsorted(flat.ends, start + self.n_batch, side="right"))
            end = max(begin + 1, min(end, begin + self.n_seq))
            self._forget()
            last = int(flat.ends[end - 1])
            for first in range(start, last, self.capacity):
                piece = min(first + self.capacity, last)
                seq = 0 if end == begin + 1 else np.repeat(np.arange(end - begin), flat.lengths[begin:end])
                self._compute(first, piece, flat, seq)
                yield begin, end, first, piece
            begin = end

    def _forget(self) -> None:
        if self.context._memory._pointer != ffi.NULL:
            self.context.getMemory().clear(False)


class Texts:
    """Tokens of several texts, end to end, the shortest text first."""

    def __init__(self, np: Any, texts: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.order = np.argsort(lengths, kind="stable")
        self.lengths = lengths[self.order]
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        total = int(self.ends[-1]) if len(texts) else 0
        self.tokens = np.fromiter(chain.from_iterable(texts[i] for i in self.order), np.int32, total)
        self.positions = np.arange(total, dtype=np.int32) - np.repeat(self.starts, self.lengths).astype(np.int32)
