"""Which tokens a sequence of a context holds: what `TokenCache` knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi._core.base_types import Pos, Token
from llama_cffi._core.ownership import atomic
from llama_cffi.generation.prefix import PlacedMedium, last_position, media_within, position_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.generation.checkpoints import Checkpoints

ALL = 1 << 31


class SequenceContents:
    """The tokens of one sequence. The context keeps one object for each sequence, shared by everyone who uses it."""

    __slots__ = ("changes", "checkpoints", "exact_prefix", "mark", "media", "owner", "skipped", "tokens")

    def __init__(self) -> None:
        self.tokens: list[Token] = []  # by cell, from position 0 on; of images and sounds, see mtmd/media_tokens.py
        self.media: list[PlacedMedium] = []  # the images and sounds among them
        self.skipped = 0  # tokens without a position: with M-RoPE, images have fewer positions than tokens
        self.changes = 0  # the memory's change count for which this is true
        self.exact_prefix = ALL  # this many tokens were decoded at the position where they are now
        self.owner: object = None  # who uses the sequence
        self.checkpoints: Checkpoints | None = None  # of models that need them
        self.mark: tuple[int, bytes] | None = None  # one more, before guesses

    def position(self, index: int) -> Pos:
        """Return the position of a token, or the one after the last, outside of images and sounds."""
        return position_of(self.media, index) if self.media else index

    @property
    def last_position(self) -> Pos:
        """The highest position that the memory should have; -1 if it should be empty."""
        return last_position(self.media, len(self.tokens))

    def cut(self, keep: int) -> None:
        """Forget the tokens after the first `keep`."""
        self._change((self.tokens.__delitem__, slice(keep, None)), media_within(self.media, keep))

    def add(self, tokens: Sequence[Token], placed: PlacedMedium) -> None:
        """Append an image or a sound."""
        self._change((self.tokens.extend, tokens), [*self.media, placed])

    def set(self, tokens: Sequence[Token], media: list[PlacedMedium]) -> None:
        """Replace all tokens."""
        self._change((self.tokens.__setitem__, slice(None), tokens), media)

    def _change(self, change: tuple[Any, ...], media: list[PlacedMedium]) -> None:
        skipped = sum([placed.n_tokens - placed.n_pos for placed in media])
        atomic((change, (setattr, self, "media", media), (setattr, self, "skipped", skipped)))

    def keep_checkpoints(self, most: int) -> None:
        """Remove the checkpoints with more than `most` tokens before them."""
        if self.mark is not None and self.mark[0] > most:
            self.mark = None
        if self.checkpoints is not None:
            self.checkpoints.keep(most)
