"""Which tokens stand in a sequence of a context's memory, so that what two texts share is computed once."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi._core.base_types import SeqId, Token
from llama_cffi._core.compat import has
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.errors import LlamaError

_ALL = 1 << 31


class Known:
    """What is known of a sequence. The context keeps one for each, for all who use the sequence after one another."""

    __slots__ = ("changes", "exact", "tokens", "user")

    def __init__(self) -> None:
        self.tokens: list[Token] = []  # by position, from 0 on
        self.changes = 0  # the memory's count when this was true
        self.exact = _ALL  # so many of them were computed where they stand
        self.user: object = None  # who works with it


class TokenCache:
    """The tokens at the positions from 0 on of one sequence. Whoever decodes through it may come back to them.

    What others did to the memory meanwhile (a decode by hand, `clear`, `seqRemove`, a state that was loaded, another
    adapter) is noticed by the next `adaptTo`, which then begins anew.
    """

    __slots__ = ("_context", "_known", "_memory", "_nBatch", "_one", "_pos", "_seqId", "_token", "decode_lock")

    def __init__(self, ctx: Context, seqId: SeqId = 0) -> None:
        """Raises ValueError for a sequence that the context does not have, and for a model without a memory."""
        ctx._check_seq(seqId)
        self._context, self._seqId = ctx, seqId
        self._memory = ctx.getMemory()
        self._nBatch = ctx.nBatch
        self._known: Known = self._memory._known.setdefault(seqId, Known())
        self.decode_lock = self._memory._decode_lock  # held while something is decoded and its outputs are read
        self._one = self._batch([0], 0)
        token, pos = self._one.token, self._one.pos
        assert token is not None and pos is not None
        self._token, self._pos = token, pos

    def __len__(self) -> int:
        return len(self._known.tokens)

    @property
    def tokens(self) -> list[Token]:
        """A copy of what is known to be there."""
        return list(self._known.tokens)

    # Whose it is

    def take(self, user: object) -> None:
        """From now on this user works with the sequence."""
        self._known.user = user

    def belongs(self, user: object) -> bool:
        """Whether this user took it last, and nobody changed the memory since."""
        known = self._known
        return known.user is user and known.changes == self._memory._changes[self._seqId]

    # Going back

    def adaptTo(self, tokens: Sequence[Token]) -> int:
        """Keep what the sequence and these tokens begin with together, and forget the rest. Returns how many stay.

        At least the last token is left to be decoded, because its outputs are wanted. A memory that cannot forget a
        part (a recurrent model's, or one with a window that has moved on) forgets everything. So does what was moved.
        """
        known = self._known
        if not self._matches_memory():
            self.clear()
        keep = min(common_length(known.tokens, tokens), len(tokens) - 1, known.exact)
        if keep < len(known.tokens):
            self._go_back(keep)
        return len(known.tokens)

    def clear(self) -> None:
        """Forget the whole sequence."""
        self._memory.seqRemove(self._seqId)
        self._known.tokens.clear()
        self._known.exact = _ALL
        self._mark_current()

    def _matches_memory(self) -> bool:
        known, memory = self._known, self._memory
        if known.changes != memory._changes[self._seqId]:
            return False
        return memory.seqPosMax(self._seqId) == len(known.tokens) - 1

    def _go_back(self, keep: int) -> None:
        if keep and self._sees_back_from(keep) and self._memory.seqRemove(self._seqId, keep):
            del self._known.tokens[keep:]
            if keep <= self._known.exact:
                self._known.exact = _ALL
            self._mark_current()
        else:
            self.clear()

    def _sees_back_from(self, position: int) -> bool:
        """Whether the memory still holds what a token at this position is to see: a sliding window forgets."""
        window = self._context.getModel().nSwa
        return not window or self._memory.seqPosMin(self._seqId) <= max(0, position - window)

    def _has_state(self) -> bool:
        """Whether a state is part of the memory, which is neither moved nor taken back. Older headers do not say."""
        model = self._context.getModel()
        return model.isRecurrent or not has("llama_model_is_hybrid") or model.isHybrid

    def _mark_current(self) -> None:
        self._known.changes = self._memory._changes[self._seqId]

    # Going on

    def push(self, token: Token) -> None:
        """Decode one token after those that are there."""
        tokens = self._known.tokens
        self._token[0] = token
        self._pos[0] = len(tokens)
        try:
            self._context.decode(self._one)
        except BaseException:
            self._recover()
            raise
        tokens.append(token)

    def decode(self, tokens: Sequence[Token]) -> None:
        """Decode tokens after those that are there, in pieces that the context takes. The last one gives output.

        After an error, what was decoded in whole pieces is still known.
        """
        known = self._known.tokens
        for start in range(0, len(tokens), self._nBatch):
            piece = tokens[start : start + self._nBatch]
            try:
                self._context.decode(self._batch(piece, len(known), start + len(piece) == len(tokens)))
            except BaseException:
                self._recover()
                raise
            known += piece

    def discard(self, start: int, count: int) -> None:
        """Forget so many tokens from a position on, and move up what follows: by a shift where the memory can, which
        leaves no output; else by decoding it again.
        """
        known, memory = self._known, self._memory
        rest = known.tokens[start + count :]
        if memory.canShift() and not self._has_state() and memory.seqRemove(self._seqId, start, start + count):
            memory.seqAdd(self._seqId, start + count, -1, -count)
            known.tokens[start:] = rest
            known.exact = min(known.exact, start)
            self._mark_current()
            return
        whole = known.tokens[:start] + rest
        self._go_back(start)
        self.decode(whole[len(known.tokens) :])

    def _batch(self, tokens: Sequence[Token], pos: int, output: bool = True) -> Batch:
        batch = Batch.init(len(tokens))
        batch.extend(tokens, pos, (self._seqId,), "last" if output else "none")
        return batch

    def _recover(self) -> None:
        """After a decode that failed halfway: bring the memory back to what is known, or forget both."""
        try:
            if self._has_state():  # which may have been written to in part
                self.clear()
            else:
                self._go_back(len(self._known.tokens))
        except LlamaError:  # the context cannot be used just now, or no more
            self._known.changes = -1


def room_of(ctx: Context) -> int | None:
    """How many tokens fit one sequence of a context; None for any number, which a recurrent state takes."""
    if ctx.getModel().isRecurrent:
        return None
    if has("llama_n_ctx_seq"):
        size = ctx.nCtxSeq
    else:
        size = ctx.nCtx if ctx.getMemory()._unified else ctx.nCtx // ctx.nSeqMax
    positions: int = ctx._limits.n_pos
    return min(size, positions) if positions else size


def common_length(a: Sequence[Token], b: Sequence[Token]) -> int:
    """How many tokens two lists begin with together."""
    least = min(len(a), len(b))
    if a[:least] == b[:least]:
        return least
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
