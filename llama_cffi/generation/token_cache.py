"""Prefix reuse in the KV cache: which tokens a sequence holds, so that a common prefix is decoded only once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from llama_cffi._core.base_types import Pos, SeqId, Token
from llama_cffi._core.compat import has
from llama_cffi.context.batch import Batch
from llama_cffi.context.context import Context
from llama_cffi.errors import BusyError, DecodeError, LlamaError, StateError
from llama_cffi.generation.prefix import (
    ALL,
    Medium,
    PlacedMedium,
    SequenceContents,
    common_length,
    pieces,
    whole_media,
)

ABORTED = 2  # what llama_decode returns when it was stopped


class TokenCache:
    """The tokens of one sequence from position 0 on. A later prompt with the same prefix decodes only the rest.

    Changes that others make to the memory (a decode by hand, `clear`, `seqRemove`, a loaded state, another adapter) are
    noticed by the next `adapt_to`, which then starts from an empty sequence.
    """

    __slots__ = (
        *("_context", "_memory", "_nBatch", "_one", "_pos", "_seqId", "_token"),
        *("contents", "decode_lock", "media", "parting", "restored"),
    )

    def __init__(self, ctx: Context, seqId: SeqId = 0) -> None:
        """Raises ValueError for a sequence that the context does not have, and for a model without a memory."""
        ctx._check_seq(seqId)
        self._context, self._seqId = ctx, seqId
        self._memory = ctx.getMemory()
        self._nBatch = ctx.nBatch
        self.contents: SequenceContents = self._memory._contents.setdefault(seqId, SequenceContents())
        self.decode_lock = self._memory._decode_lock  # held from a decode until its outputs are read
        self.restored = 0  # tokens that `adapt_to` kept thanks to a checkpoint
        self.media: dict[Token, Medium] | None = None  # images and sounds of the prompt, by their marks
        self.parting = 0  # where the tokens of `adapt_to` parted from those before; 0: nowhere
        self._one = self._batch([0], 0)
        token, pos = self._one.token, self._one.pos
        assert token is not None and pos is not None
        self._token, self._pos = token, pos

    def __len__(self) -> int:
        return len(self.contents.tokens)

    @property
    def tokens(self) -> list[Token]:
        """A copy of the tokens in the sequence."""
        return list(self.contents.tokens)

    # Saving

    def saveable(self) -> tuple[list[Token], int]:
        """Return the tokens that the memory holds now, and how many were computed where they are; [] if unknown."""
        if not self._matches_memory():
            return [], 0
        return self.tokens, min(self.contents.exact_prefix, len(self))

    def adopt(
        self,
        tokens: Sequence[Token],
        exact_prefix: int,
        checkpoints: Iterable[tuple[int, bytes]] = (),
        media: Iterable[PlacedMedium] = (),
    ) -> bool:
        """Take over tokens whose state has been restored. False if the memory has other positions than they."""
        from llama_cffi.generation.checkpoints import Checkpoints

        contents = self.contents
        contents.set(tokens, list(media))
        contents.owner = contents.mark = None
        contents.exact_prefix = ALL if exact_prefix >= len(tokens) else exact_prefix
        contents.checkpoints = Checkpoints(checkpoints)
        self._mark_current()
        return self._matches_memory()

    # Ownership

    def claim(self, owner: object) -> None:
        """Make `owner` the one who uses the sequence from now on."""
        self.contents.owner = owner

    def is_owned_by(self, owner: object) -> bool:
        """True if `owner` claimed the sequence last, and nobody changed the memory since."""
        contents = self.contents
        return contents.owner is owner and contents.changes == self._memory._changes[self._seqId]

    def require_owner(self, owner: object) -> None:
        """Raise BusyError unless `owner` owns the sequence."""
        if not self.is_owned_by(owner):
            raise BusyError(
                "another generation has begun in this sequence of the context, or its memory was changed: finish one "
                "before the next begins, or give each its own seqId (Context.Params.nSeqMax)"
            )

    # Going back

    def adapt_to(self, tokens: list[Token]) -> int:
        """Keep the prefix that the sequence shares with these tokens and remove the rest. Returns its length.

        At least the last token is left to be decoded, because its outputs are needed. If the memory cannot remove a
        part (recurrent models; a sliding window that has moved on), it goes back to the last checkpoint, or everything
        is removed. Tokens that were shifted are not reused: they were computed with other tokens before them.
        """
        contents, self.restored, self.parting = self.contents, 0, 0
        if not self._matches_memory():
            self.clear()
        keep = min(common_length(contents.tokens, tokens), len(tokens) - 1, contents.exact_prefix)
        keep = whole_media(contents.tokens, keep)
        if keep < len(contents.tokens):
            self.parting = keep if keep < len(tokens) - 1 else 0
            self._go_back(keep)
        return len(contents.tokens)

    def clear(self) -> None:
        """Remove the whole sequence."""
        self._memory.seqRemove(self._seqId)
        self.contents.cut(0)
        self.contents.exact_prefix = ALL
        self.contents.keep_checkpoints(0)
        self._mark_current()

    def _matches_memory(self) -> bool:
        contents, memory = self.contents, self._memory
        if contents.changes != memory._changes[self._seqId]:
            return False
        return memory.seqPosMax(self._seqId) == contents.last_position

    def _go_back(self, keep: int) -> None:
        position = self.contents.position(keep)
        if keep and self._can_attend_from(position) and self._memory.seqRemove(self._seqId, position):
            self._forget_after(keep)
        elif not self._restore_checkpoint(keep):
            self.clear()

    def _forget_after(self, keep: int) -> None:
        contents = self.contents
        contents.cut(keep)
        contents.keep_checkpoints(keep)
        if keep <= contents.exact_prefix:
            contents.exact_prefix = ALL
        self._mark_current()

    def _restore_checkpoint(self, most: int) -> bool:
        """Go back to the last checkpoint with at most `most` tokens before it. False if there is none."""
        checkpoints, mark = self.contents.checkpoints, self.contents.mark
        found = None if checkpoints is None else checkpoints.best(most)
        if mark is not None and mark[0] <= most and (found is None or found[0] < mark[0]):
            found = mark
        if found is None:
            return False
        from llama_cffi.generation.checkpoints import PARTIAL_ONLY

        count, state = found
        try:
            self._context.stateSeqSetData(state, None, self._seqId, PARTIAL_ONLY)
        except StateError:  # other sequences use the cells
            return False
        position = self.contents.position(count)
        if not self._memory.seqRemove(self._seqId, position):  # of the part that no checkpoint contains
            return False
        self._forget_after(count)
        self.restored = count
        return self._matches_memory()

    def _can_attend_from(self, position: int) -> bool:
        """True if the memory still has all tokens that one at this position attends to. A sliding window drops some."""
        window = self._context.getModel().nSwa
        return not window or self._memory.seqPosMin(self._seqId) <= max(0, position - window)

    def _is_recurrent(self) -> bool:
        """True if the memory has a recurrent state, which cannot be shifted or undone. Older headers do not say."""
        model = self._context.getModel()
        return model.isRecurrent or not has("llama_model_is_hybrid") or model.isHybrid

    def _mark_current(self) -> None:
        self.contents.changes = self._memory._changes[self._seqId]

    # Decoding

    def push(self, token: Token, owner: object = None) -> None:
        """Decode one token at the end of the sequence. Raises BusyError if `owner` does not own it any more."""
        contents = self.contents
        # `is_owned_by`, written out: this runs for every token.
        if contents.owner is not owner or contents.changes != self._memory._changes[self._seqId]:
            self.require_owner(owner)
        tokens = contents.tokens
        self._token[0] = token
        self._pos[0] = len(tokens) - contents.skipped
        try:
            self._context._compute(self._one, False)
        except BaseException:
            self._recover()
            raise
        tokens.append(token)

    def decode_prompt(
        self, tokens: Sequence[Token], chat: bool = False, place: int = -1, reached: Callable[[], None] | None = None
    ) -> None:
        """Decode what the sequence lacks of a prompt, with checkpoints in it if the memory cannot go back.

        The prompts of a chat have one near their end, however short they are. `reached` is called after `place` tokens.
        """
        ctx = self._context
        ends: set[int] = set()
        if ctx.getModel().nSwa or self._is_recurrent():
            from llama_cffi.generation.checkpoints import are_useful, places

            if are_useful(ctx):
                found = places(len(self), self.parting, len(tokens), ctx._limits.n_ubatch, chat)
                ends = {whole_media(tokens, count) for count in found}
        for count in sorted({*ends, place}):
            if not len(self) < count < len(tokens):
                continue
            self.decode(tokens[len(self) : count], output=False)
            if count in ends:
                self._add_checkpoint(count)
            if count == place and reached is not None:
                reached()
        self.decode(tokens[len(self) :])

    def _add_checkpoint(self, count: int) -> None:
        from llama_cffi.generation.checkpoints import Checkpoints

        kept = self.contents.checkpoints or Checkpoints()
        self.contents.checkpoints = kept
        kept.add(self._context, self._seqId, count, self.parting == count)

    def decode(self, tokens: Sequence[Token], output: bool = True) -> None:
        """Decode tokens at the end of the sequence, in batches that the context takes. The last one has outputs.

        Images and sounds among them are encoded. If a batch fails, the tokens of the batches before it stay.
        """
        if self.media is None:
            self._decode_text(tokens, output)
            return
        for start, end in pieces(tokens):
            medium = self.media.get(tokens[start])
            if medium is None:
                self._decode_text(tokens[start:end], output and end == len(tokens))
            else:
                self._decode_medium(medium)

    def _decode_text(self, tokens: Sequence[Token], output: bool) -> None:
        known = self.contents.tokens
        for start in range(0, len(tokens), self._nBatch):
            piece = tokens[start : start + self._nBatch]
            try:
                batch = self._batch(piece, self._end, output and start + len(piece) == len(tokens))
                self._context._compute(batch, False)
            except BaseException:
                self._recover()
                raise
            known += piece

    def _decode_medium(self, medium: Medium) -> None:
        contents = self.contents
        start = len(contents.tokens)
        try:
            if self._context._stop[0]:  # encoding cannot be stopped, so it does not begin
                raise DecodeError("the computation was stopped", operation="mtmd_encode_chunk", code=ABORTED)
            medium.decode(self._context, self._end, self._seqId)
            last = self._memory.seqPosMax(self._seqId)
        except BaseException:
            self._recover()
            raise
        contents.add(medium.cells, PlacedMedium(start, medium.n_tokens, medium.n_pos, last, medium.key))

    @property
    def _end(self) -> Pos:
        """The position after the last token."""
        return len(self.contents.tokens) - self.contents.skipped

    def decode_scored(self, tokens: Sequence[Token], most: int, read: Callable[[int, int], bool]) -> None:
        """Decode tokens with an output for each, in batches of at most `most`.

        Calls `read(start, end)` after each batch, for the range of tokens in it; stops if that returns False.
        """
        most = min(most, self._nBatch, self._context._limits.n_outputs)
        for start in range(0, len(tokens), most):
            piece = tokens[start : start + most]
            self._decode_all(piece)
            if not read(start, start + len(piece)):
                return

    def push_all(self, tokens: Sequence[Token], owner: object) -> None:
        """Decode tokens at the end of the sequence in one batch, with an output for each, like `push`."""
        self.require_owner(owner)
        self._decode_all(tokens)

    def set_mark(self, seen: bool = True) -> None:
        """Make `take_back` able to go back to here, if the memory cannot by itself; or forget where it could."""
        from llama_cffi.generation.checkpoints import PARTIAL_ONLY

        contents, contents.mark = self.contents, None
        if seen and contents.tokens and self._is_recurrent():
            contents.mark = len(contents.tokens), self._context.stateSeqGetData(None, None, self._seqId, PARTIAL_ONLY)

    def take_back(self, keep: int, owner: object) -> list[Token]:
        """Remove the tokens after the first `keep`. Returns those of the first that the memory lost with them."""
        self.require_owner(owner)
        kept = self.contents.tokens[:keep]
        if keep < len(self.contents.tokens):
            self._go_back(keep)
        return kept[len(self.contents.tokens) :]

    def discard(self, start: int, count: int) -> None:
        """Remove `count` tokens from a position on and close the gap.

        Shifts the positions of the tokens behind it if the memory can, and leaves no output then; else decodes them
        again.
        """
        contents, memory = self.contents, self._memory
        rest = contents.tokens[start + count :]
        if memory.canShift() and not self._is_recurrent() and memory.seqRemove(self._seqId, start, start + count):
            memory.seqAdd(self._seqId, start + count, -1, -count)
            contents.tokens[start:] = rest
            contents.exact_prefix = min(contents.exact_prefix, start)
            contents.keep_checkpoints(start)
            self._mark_current()
            return
        whole = contents.tokens[:start] + rest
        self._go_back(start)
        self.decode(whole[len(contents.tokens) :])

    def _decode_all(self, tokens: Sequence[Token]) -> None:
        known = self.contents.tokens
        batch = Batch.init(len(tokens))
        batch.extend(tokens, self._end, (self._seqId,), "all")
        try:
            self._context._compute(batch, False)
        except BaseException:
            self._recover()
            raise
        known += tokens

    def _batch(self, tokens: Sequence[Token], pos: int, output: bool = True) -> Batch:
        batch = Batch.init(len(tokens))
        batch.extend(tokens, pos, (self._seqId,), "last" if output else "none")
        return batch

    def _recover(self) -> None:
        """After a decode that failed halfway: bring the memory back to the known tokens, or clear both."""
        try:
            if self._is_recurrent():  # the state may have been updated in part
                if not self._restore_checkpoint(len(self.contents.tokens)):
                    self.clear()
            else:
                self._go_back(len(self.contents.tokens))
        except LlamaError:  # the context is busy or closed
            self.contents.changes = -1


def context_capacity(ctx: Context) -> int | None:
    """The most tokens that one sequence of a context holds; None if there is no limit, as for recurrent models."""
    if ctx.getModel().isRecurrent:
        return None
    if has("llama_n_ctx_seq"):
        size = ctx.nCtxSeq
    else:
        size = ctx.nCtx if ctx.getMemory()._unified else ctx.nCtx // ctx.nSeqMax
    positions: int = ctx._limits.n_pos
    return min(size, positions) if positions else size
