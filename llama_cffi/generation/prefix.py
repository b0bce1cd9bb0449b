"""Prompts and sequences as lists of tokens: what two have in common, and how images and sounds stand in them.

An image or a sound takes as many entries as it takes cells of the KV cache: negative numbers, an even one for the first
cell and the odd one below it for the others. The number stands for the content, so equal lists have equal contents.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from llama_cffi._core.base_types import TOKEN_NULL, Pos, SeqId, Token
from llama_cffi._core.ownership import atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from typing import Any, TypeVar

    from llama_cffi.context.context import Context
    from llama_cffi.generation.checkpoints import Checkpoints

    _Tokens = TypeVar("_Tokens", list[int], "array[int]")

MediumKey = tuple[str, str, int, int, int]
"""What tells contents apart: the projector, the id of the bitmap, which part of it, its tokens, its positions."""

ALL = 1 << 31
"""More tokens than a sequence can have."""

_MOST_KEYS = 1 << 16
_numbers: dict[MediumKey, Token] = {}
_next = itertools.count(2, 2)


def mark_of(key: MediumKey | None) -> Token:
    """Return the number for the first cell of a content: the same for equal keys, a new one for None."""
    if key is None:
        return -next(_next)
    if len(_numbers) >= _MOST_KEYS:
        _numbers.clear()  # contents of before get other numbers, and so are computed again
    return _numbers.setdefault(key, -next(_next))


class Medium:
    """An image or a sound of a prompt, ready to be computed: a chunk of mtmd."""

    __slots__ = ("key", "mark", "n_pos", "n_tokens")

    def __init__(self, key: MediumKey | None, n_tokens: int, n_pos: Pos) -> None:
        self.key = key
        self.mark = mark_of(key)  # of its first cell
        self.n_tokens = n_tokens
        self.n_pos = n_pos

    @property
    def cells(self) -> list[Token]:
        """What stands for it in a list of tokens."""
        return [self.mark] + [self.mark - 1] * (self.n_tokens - 1)

    def decode(self, ctx: Context, pos: Pos, seq: SeqId, most: int | None = None) -> None:
        """Encode it, unless that was done before, and decode the result at a position of a sequence.

        `most` is the largest number of tokens in a batch.
        """
        raise NotImplementedError


class MediaTokens(list[Token]):
    """The tokens of a prompt with images and sounds."""

    __slots__ = ("media",)

    def __init__(self) -> None:
        super().__init__()
        self.media: dict[Token, Medium] = {}  # by their marks

    def add(self, medium: Medium) -> None:
        """Append an image or a sound."""
        self.media[medium.mark] = medium
        self += medium.cells


class PlacedMedium:
    """An image or a sound in a sequence of the KV cache. It does not change."""

    __slots__ = ("end", "key", "last", "n_pos", "n_tokens", "start")

    def __init__(self, start: int, n_tokens: int, n_pos: Pos, last: Pos, key: MediumKey | None) -> None:
        self.start, self.end, self.n_tokens, self.n_pos = start, start + n_tokens, n_tokens, n_pos
        self.last = last  # the highest position in the sequence after it; with M-RoPE, it may be its first one
        self.key = key


def position_of(media: Sequence[PlacedMedium], index: int) -> Pos:
    """Return the position of a token of a sequence, or the one after the last, outside of images and sounds."""
    return index - sum([placed.n_tokens - placed.n_pos for placed in media if placed.end <= index])


def last_position(media: Sequence[PlacedMedium], length: int) -> Pos:
    """Return the highest position of a sequence with `length` tokens; -1 if it is empty."""
    for placed in media:
        if placed.end == length:
            return placed.last
    return position_of(media, length) - 1


def media_within(media: Sequence[PlacedMedium], length: int) -> list[PlacedMedium]:
    """Return the images and sounds among the first tokens of a sequence."""
    return [placed for placed in media if placed.end <= length]


def media_of(tokens: Sequence[Token]) -> dict[Token, Medium] | None:
    """Return the images and sounds of a prompt by their marks; None if it is text alone."""
    return tokens.media if isinstance(tokens, MediaTokens) else None


def texts_only(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens of a prompt without the cells of images and sounds."""
    return [token for token in tokens if token >= 0]


def shown(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens of a prompt for users: the cells of images and sounds are TOKEN_NULL."""
    return [max(token, TOKEN_NULL) for token in tokens] if media_of(tokens) is not None else list(tokens)


def whole_media(tokens: Sequence[Token] | array[int], length: int) -> int:
    """Return the longest prefix of at most `length` tokens that does not end inside an image or a sound."""
    while 0 < length < len(tokens) and tokens[length] < TOKEN_NULL and tokens[length] % 2:
        length -= 1
    return length


def text_length(tokens: Sequence[Token] | array[int], start: int) -> int:
    """Return how many tokens of text follow from here on; 0 before an image or a sound."""
    end, size = start, len(tokens)
    while end < size and tokens[end] >= 0:
        end += 1
    return end - start


def pieces(tokens: Sequence[Token]) -> Iterator[tuple[int, int]]:
    """Yield where each text, and each image or sound, begins and ends."""
    start, size = 0, len(tokens)
    while start < size:
        end = start + 1
        if tokens[start] < TOKEN_NULL:
            while end < size and tokens[end] == tokens[start] - 1:
                end += 1
        else:
            while end < size and tokens[end] >= 0:
                end += 1
        yield start, end
        start = end


def common_length(a: _Tokens, b: _Tokens) -> int:
    """Return the length of the longest common prefix of two lists, or of two arrays.

    Bisects with comparisons of slices, which run in C: long prompts are compared at the speed of memory.
    """
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


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
