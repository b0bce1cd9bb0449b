"""The batch of an engine's step, filled by whole slices."""

from __future__ import annotations

from array import array

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi.context.batch import Batch


class StepBatch:
    """A batch with room for so many tokens, each in one sequence, that is filled anew for every step."""

    __slots__ = ("_capacity", "_output", "_pos", "_positions", "_quiet", "_seq", "_token", "batch", "n")

    def __init__(self, capacity: int) -> None:
        self.batch = batch = Batch.init(capacity)
        token, pos, seq, output = batch.token, batch.pos, batch._view("seq_ids", "i"), batch.output
        assert token is not None and pos is not None and seq is not None and output is not None
        self._token, self._pos, self._seq, self._output = token, pos, seq, output
        self._quiet = memoryview(bytes(capacity)).cast("b")
        self._positions = array("i")
        self._capacity = capacity
        self.n = 0

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        return self._capacity - self.n

    def clear(self) -> None:
        """Begin a new step."""
        self.n = 0

    def addToken(self, token: Token, pos: int, sequence: SeqId) -> int:
        """One token whose output is wanted. Returns its index in the batch."""
        n = self.n
        self._token[n] = token
        self._pos[n] = pos
        self._seq[n] = sequence
        self._output[n] = 1
        self.n = n + 1
        return n

    def addTokens(self, tokens: array[int], pos: int, sequence: SeqId, output: bool) -> int:
        """Tokens one after another, and whether the last one's output is wanted. Returns that one's index."""
        count = len(tokens)
        start, end = self.n, self.n + count
        if len(self._positions) < pos + count:
            self._positions = array("i", range(2 * (pos + count)))
        self._token[start:end] = memoryview(tokens)
        self._pos[start:end] = memoryview(self._positions)[pos : pos + count]
        self._seq[start:end] = memoryview(array("i", [sequence]) * count)
        self._output[start:end] = self._quiet[:count]
        self._output[end - 1] = output
        self.n = end
        return end - 1

    def ready(self) -> Batch:
        """The batch, to be decoded."""
        self.batch.nTokens = self.n
        return self.batch
