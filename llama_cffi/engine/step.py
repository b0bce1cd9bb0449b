"""A step of the engine: the batch, and the requests to sample for, in C arrays that every step uses again."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from llama_cffi._core.ffi import ffi
from llama_cffi.context.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama_cffi._core.base_types import SeqId, Token
    from llama_cffi.context.context import Context
    from llama_cffi.engine.job import Job

_PIECE_BYTES = 64  # space for the text of a token; a longer text is looked up again


class Step:
    """A batch of up to `capacity` tokens, each in one sequence; and a row for each request whose sampler runs in C.

    The whole step is one call of C: it decodes the batch, and samples a token for each row, with its text. `index` is
    the entry of the batch that a row samples from.
    """

    __slots__ = (
        *("_arrays", "_c", "_context", "_ends", "_index", "_no_output", "_output", "_pos", "_positions"),
        *("_seq", "_size", "_special", "_text", "_token", "_tokens", "_vocab", "_wanted"),
        *("batch", "capacity", "n", "rows"),
    )

    def __init__(self, context: Context, capacity: int) -> None:
        self._context, self._vocab = context, context.getModel().vocab._c
        self.batch = batch = Batch.init(capacity)
        token, pos, seq, output = batch.token, batch.pos, batch._view("seq_ids", "i"), batch.output
        assert token is not None and pos is not None and seq is not None and output is not None
        self._token, self._pos, self._seq, self._output = token, pos, seq, output
        self._no_output = memoryview(bytes(capacity)).cast("b")
        self._positions = array("i")
        self.capacity = capacity
        self.n = 0
        self.rows: list[Job] = []
        self._make_rows(context.nSeqMax)

    def _make_rows(self, n: int) -> None:
        self._arrays = arrays = {
            "samplers": ffi.new("struct llama_sampler *[]", n),
            **{name: ffi.new("int32_t[]", n) for name in ("wanted", "index", "token", "size")},
            **{name: ffi.new("bool[]", n) for name in ("special", "ends")},
            "text": ffi.new("char[]", n * _PIECE_BYTES),
        }
        self._c = ffi.new("struct shim_step *", {**arrays, "batch": self.batch._c, "space": _PIECE_BYTES})
        self._wanted, self._index, self._tokens, self._size = (
            memoryview(ffi.buffer(arrays[name])).cast("B").cast("i") for name in ("wanted", "index", "token", "size")
        )
        self._special, self._ends = (memoryview(ffi.buffer(arrays[name])).cast("B") for name in ("special", "ends"))
        self._text = ffi.buffer(arrays["text"])

    # The batch

    def clear(self) -> None:
        """Start a new step."""
        self.n = 0
        self.rows.clear()

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

    def add_outputs(self, rows: range) -> None:
        """Let these entries have outputs."""
        for index in rows:
            self._output[index] = 1

    # The rows

    def add_row(self, job: Job, index: int) -> None:
        """Sample for a job, whose sampler is lent."""
        row = len(self.rows)
        sampler = job.sampler
        self._arrays["samplers"][row] = sampler._pointer
        self._wanted[row] = sampler._top_n
        self._index[row] = index
        self._special[row] = job.special
        self.rows.append(job)

    def run(self) -> dict[int, BaseException]:
        """Decode the batch, and sample for all rows. Returns the errors of rows. Raises like `decode`."""
        step, errors = self._c, {}
        self.batch.nTokens = self.n
        step.n = n = len(self.rows)
        error = self._context._run_step(self.batch, step, self._vocab)
        while True:
            if error is not None:
                errors[step.done - 1] = error
            if step.done >= n:
                return errors
            error = self._context._finish_step(step, self._vocab)

    def results(self) -> Iterator[tuple[Job, int, Token, bool, int]]:
        """Each row: the job, the index of its output, its token (negative: why there is none), whether the token ends
        the text, and the size of its text, for `text`.
        """
        n = len(self.rows)
        ends = map(bool, self._ends[:n])
        columns = (self._index[:n].tolist(), self._tokens[:n].tolist(), ends, self._size[:n].tolist())
        return zip(self.rows, *columns, strict=True)

    def text(self, row: int, size: int) -> bytes | None:
        """The text of a row's token. None if there was no space for it."""
        return self._text[_PIECE_BYTES * row : _PIECE_BYTES * row + size] if size >= 0 else None
