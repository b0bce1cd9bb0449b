"""The batch that an engine decodes in each step, filled by whole slices."""

from __future__ import annotations

from array import array

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi.context.batch import Batch


class StepBatch:
    """A batch of up to `capacity` tokens, each in one sequence, that is refilled for every step."""

    __slots__ = ("_capacity", "_no_output", "_output", "_pos", "_positions", "_seq", "_token", "batch", "n")

    def __init__(self, capacity: int) -> None:
        self.batch = batch = Batch.init(capacity)
        token, pos, seq, output = batch.token, batch.pos, batch._view("seq_ids", "i"), batch.output
        assert token is not None and pos is not None and seq is not None and output is not None
        self._token, self._pos, self._seq, self._output = token, pos, seq, output
        self._no_output = memoryview(bytes(capacity)).cast("b")
        self._positions = array("i")
        self._capacity = capacity
        self.n = 0

    @property
    def free(self) -> int:
        """The number of tokens that still fit."""
        return self._capacity - self.n

    def clear(self) -> None:
        """Start a new step."""
        self.n = 0

    def add_token(self, token: Token, pos: int, sequence: SeqId) -> int:
        """Add one token with an output. Returns its index in the batch."""
        n = self.n
        self._token[n] = token
        self._pos[n] = pos
        self._seq[n] = sequence
        self._output[n] = 1
        self.n = n + 1
        return n

    def add_tokens(self, tokens: array[int], pos: int, sequence: SeqId, output: bool) -> int:
        """Add consecutive tokens, the last one with or without an output. Returns the last one's index."""
        count = len(tokens)
        start, end = self.n, self.n + count
        if len(self._positions) < pos + count:
            self._positions = array("i", range(2 * (pos + count)))
        self._token[start:end] = memoryview(tokens)
        self._pos[start:end] = memoryview(self._positions)[pos : pos + count]
        self._seq[start:end] = memoryview(array("i", [sequence]) * count)
        self._output[start:end] = self._no_output[:count]
        self._output[end - 1] = output
        self.n = end
        return end - 1

    def ready(self) -> Batch:
        """The batch to decode."""
        self.batch.nTokens = self.n
        return self.batch
