"""Batches: the tokens or embeddings that a context computes in one call."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi._core.arguments import TokenSequence, token_array
from llama_cffi._core.base_types import Pos, SeqId, Token
from llama_cffi._core.checks import integer, out_of_range
from llama_cffi._core.ffi import ffi
from llama_cffi._core.uncopyable import Uncopyable
from llama_cffi.errors import ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

_CAPACITY_LIMIT = 1 << 24  # entries; 16 million tokens are more than any context has

_INT32_MAX = (1 << 31) - 1

_EMBEDDINGS = (
    "add and extend are for tokens, and this batch has embeddings: fill batch.embd, batch.pos, batch.nSeqId, "
    "batch.seqId and batch.output"
)

_BATCH, _TOKENS = ffi.typeof("struct llama_batch *"), ffi.typeof("int32_t[]")


class Batch(Uncopyable):
    """Tokens (or embeddings) to be computed together, each with its position, its sequences, and an output flag.

    `Batch.getOne(tokens)` makes a batch for sequence 0, whose positions continue those in the KV cache, and whose last
    token has output. `Batch.init` makes an empty batch of a fixed capacity, to be filled with `add` and `extend` or
    through the fields. The batch owns its memory; `free`, `with` and the garbage collector release it.

    Maps to `llama_batch`.
    """

    __slots__ = ("_arrays", "_c", "_capacity", "_nEmbd", "_nSeqMax")

    _KIND = "batch"
    _INSTEAD = "make a new one"

    _c: Any  # the struct; None after `free`
    _arrays: dict[str, Any]  # what its fields point to
    _capacity: int
    _nEmbd: int
    _nSeqMax: int  # 0 for a batch made by getOne

    _MADE_BY = "Batch.getOne(tokens) or Batch.init(nTokens, embd, nSeqMax) makes one"

    def __init__(self) -> None:
        raise TypeError(f"Batch objects are not made by calling the class: {self._MADE_BY}")

    @classmethod
    def getOne(cls, tokens: TokenSequence, nTokens: int | None = None) -> Batch:
        """Make a batch of the first `nTokens` tokens (None: all) for sequence 0. The tokens are copied.

        Maps to `llama_batch_get_one`.
        """
        own, n = token_array(tokens, nTokens)
        if n < 1:
            raise ValueError("a batch needs at least one token, got 0: the text is empty, or nTokens is 0")
        if type(tokens) is not list and type(tokens) is not tuple:  # else the array is a copy already
            array, own = own, ffi.new(_TOKENS, n)
            ffi.memmove(own, array, 4 * n)
        batch = cls.__new__(cls)
        struct = ffi.new(_BATCH)
        struct.n_tokens = n
        struct.token = own
        batch._c = struct
        batch._arrays = {"token": own}
        batch._capacity, batch._nEmbd, batch._nSeqMax = n, 0, 0
        return batch

    @classmethod
    def init(cls, nTokens: int, embd: int = 0, nSeqMax: int = 1) -> Batch:
        """Make an empty batch with a capacity of `nTokens` entries, each in at most `nSeqMax` sequences.

        `embd` is 0 for a batch of tokens, or the number of floats of an embedding for a batch of embeddings.

        Maps to `llama_batch_init`.
        """
        limits = (("nTokens", nTokens, 1, _CAPACITY_LIMIT), ("embd", embd, 0, 1 << 20), ("nSeqMax", nSeqMax, 1, 256))
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise out_of_range(name, value, low, high)
        arrays = {
            "pos": ffi.new("int32_t[]", nTokens),
            "n_seq_id": ffi.new("int32_t[]", [1] * nTokens),
            "seq_ids": ffi.new("int32_t[]", nTokens * nSeqMax),
            "logits": ffi.new("int8_t[]", nTokens),
        }
        arrays["embd" if embd else "token"] = (
            ffi.new("float[]", nTokens * embd) if embd else ffi.new("int32_t[]", nTokens)
        )
        rows = ffi.new("int32_t *[]", [arrays["seq_ids"] + i * nSeqMax for i in range(nTokens)])
        batch = cls.__new__(cls)
        struct = ffi.new("struct llama_batch *")
        for name in ("token", "embd", "pos", "n_seq_id", "logits"):
            setattr(struct, name, arrays.get(name, ffi.NULL))
        struct.seq_id = rows
        batch._c = struct
        batch._arrays = {**arrays, "seq_id": rows}
        batch._capacity, batch._nEmbd, batch._nSeqMax = nTokens, embd, nSeqMax
        return batch

    def add(self, token: Token, pos: Pos, seqIds: Sequence[SeqId] = (0,), output: bool = False) -> None:
        """Append a token at a position of one or more sequences; `output` requests its logits or embedding.

        Raises ValueError if the batch is full or there are more sequences than `nSeqMax`, TypeError for a batch of
        embeddings or one made by getOne.
        """
        index = self._next(seqIds)
        if "token" not in self._arrays:
            raise TypeError(_EMBEDDINGS)
        self._arrays["token"][index] = token
        self._arrays["pos"][index] = pos
        self._arrays["n_seq_id"][index] = len(seqIds)
        for place, seq in enumerate(seqIds):
            self._arrays["seq_ids"][index * self._nSeqMax + place] = seq
        self._arrays["logits"][index] = bool(output)
        self._c.n_tokens = index + 1

    def extend(
        self,
        tokens: TokenSequence,
        pos: Pos,
        seqIds: Sequence[SeqId] = (0,),
        output: Literal["none", "last", "all"] = "none",
    ) -> None:
        """Append tokens at positions `pos`, `pos + 1`, ... of one or more sequences: `add` for many at once.

        `tokens` is a sequence, or a buffer of 32-bit integers; it is copied. `output` requests the outputs of none of
        them, of the last one, or of all. Raises like `add`; the batch is unchanged then.
        """
        if output not in ("none", "last", "all"):
            raise ValueError(f'output must be "none", "last" or "all", got {output!r}')
        array, n = token_array(tokens, None)
        start = self._next(seqIds, n)
        if n == 0:
            return
        arrays, end = self._arrays, start + n
        if "token" not in arrays:
            raise TypeError(_EMBEDDINGS)
        if not 0 <= pos <= _INT32_MAX - n:
            raise out_of_range(f"pos of {n} tokens", pos, 0, _INT32_MAX - n)
        width, count = self._nSeqMax, len(seqIds)
        row = ffi.new(_TOKENS, [*seqIds, *[0] * (width - count)])
        ffi.memmove(arrays["token"] + start, array, 4 * n)
        arrays["pos"][start:end] = range(pos, pos + n)
        ffi.buffer(arrays["n_seq_id"])[4 * start : 4 * end] = bytes(ffi.buffer(ffi.new(_TOKENS, [count]))) * n
        ffi.buffer(arrays["seq_ids"])[4 * width * start : 4 * width * end] = bytes(ffi.buffer(row)) * n
        ffi.buffer(arrays["logits"])[start:end] = (b"\1" if output == "all" else b"\0") * n
        if output == "last":
            arrays["logits"][end - 1] = 1
        self._c.n_tokens = end

    def _next(self, seqIds: Sequence[SeqId], n: int = 1) -> int:
        """Return the index for the next `n` entries; raise if they do not fit."""
        if self._nSeqMax == 0:
            raise TypeError("a batch made by getOne cannot grow: use Batch.init")
        index: int = self._alive.n_tokens
        if index + n > self._capacity:
            free = self._capacity - index
            state = f"the batch has room for {free} more entries, got {n}" if free else "the batch is full"
            raise ValueError(f"{state}: its capacity is {self._capacity}, see nTokens in Batch.init")
        if not 1 <= len(seqIds) <= self._nSeqMax:
            raise out_of_range(
                "the number of sequences", len(seqIds), 1, self._nSeqMax, "raise nSeqMax in Batch.init for more"
            )
        return index

    def clear(self) -> None:
        """Remove all entries. Raises TypeError for a batch made by getOne."""
        if self._nSeqMax == 0:
            raise TypeError("a batch made by getOne cannot be refilled: use Batch.init")
        self._alive.n_tokens = 0

    # Fields

    @property
    def _alive(self) -> Any:
        if getattr(self, "_c", None) is None:
            raise ClosedError("this batch cannot be used: it was freed, or never initialized")
        return self._c

    @property
    def nTokens(self) -> int:
        """Number of entries. Maps to `n_tokens`."""
        n: int = self._alive.n_tokens
        return n

    @nTokens.setter
    def nTokens(self, value: int) -> None:
        self._alive.n_tokens = integer(value, 0, self._capacity, "nTokens", "the capacity is set in Batch.init")

    def _view(self, name: str, code: str) -> memoryview | None:
        self._alive  # noqa: B018
        array = self._arrays.get(name)
        return None if array is None else memoryview(ffi.buffer(array)).cast("B").cast(code)  # type: ignore[call-overload]

    @property
    def token(self) -> memoryview | None:
        """The tokens: 32-bit integers, writable. None in a batch of embeddings. Maps to `token`."""
        return self._view("token", "i")

    @property
    def embd(self) -> memoryview | None:
        """The embeddings: floats, entry after entry, writable. None in a batch of tokens. Maps to `embd`."""
        return self._view("embd", "f")

    @property
    def pos(self) -> memoryview | None:
        """The positions: 32-bit integers, writable. None in a batch made by getOne. Maps to `pos`."""
        return self._view("pos", "i")

    @property
    def nSeqId(self) -> memoryview | None:
        """The number of sequences of each entry: 32-bit integers, writable. Maps to `n_seq_id`."""
        return self._view("n_seq_id", "i")

    @property
    def seqId(self) -> list[memoryview] | None:
        """The sequences of each entry: a writable row of `nSeqMax` 32-bit integers per entry. Maps to `seq_id`."""
        flat = self._view("seq_ids", "i")
        width = self._nSeqMax
        return None if flat is None else [flat[i * width : (i + 1) * width] for i in range(self._capacity)]

    @property
    def output(self) -> memoryview | None:
        """The output flags: 8-bit integers, writable; 1 requests the output of an entry. Maps to `logits`."""
        return self._view("logits", "b")

    # End

    def free(self) -> None:
        """Release the memory. Freeing twice is harmless. Views of the fields stay valid.

        Maps to `llama_batch_free`.
        """
        self._c = None
        self._arrays = {}

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *error: object) -> None:
        self.free()

    def __len__(self) -> int:
        return self.nTokens

    def __repr__(self) -> str:
        if getattr(self, "_c", None) is None:
            return "<Batch freed>"
        what = f"embeddings of {self._nEmbd}" if self._nEmbd else "tokens"
        return f"<Batch {self.nTokens} of {self._capacity} {what}>"
