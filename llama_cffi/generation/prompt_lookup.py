"""Speculation without a second model: a text often repeats what stands in its prompt, so guess that it does."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi._core.base_types import Token
from llama_cffi._core.checks import boolean, expected, integer, no_such_token
from llama_cffi.generation.request_options import INT32_MAX
from llama_cffi.generation.speculation import Guesser, Speculation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llama_cffi.context.context import Context
    from llama_cffi.vocab.vocab import Vocab

_LONGEST = 32  # tokens before a place that are compared
_PLACES = 16  # places that are compared, the last ones
_KINDS = (1, 2, 3, 4, 6, 9, 16, _LONGEST)  # the least length of a match of each kind
_RATES = (0.2, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.9)  # guesses that are right after them, before any is seen


class PromptLookup(Speculation):
    """Guesses that the text goes on as it did before, where the same tokens stood in the prompt or in the text.

    It pays where the answer repeats much of the prompt: edits of code, summaries with quotes, JSON from a document.
    """

    __slots__ = ("_adapts", "_most", "_n", "_text")

    def __init__(self, n: int = 2, most: int = 16, text: str | Sequence[Token] = (), *, adapt: bool = True) -> None:
        """`n` tokens must be the same as before; at most `most` are guessed at a time.

        `text` is searched as well: a text, or its tokens, that the answer is expected to repeat and that is not in the
        prompt. `adapt` False always guesses `most` tokens; otherwise their number follows what guesses cost and how
        often they are right, down to none.
        """
        self._n = integer(n, 1, 16, "n")
        self._most = integer(most, 1, 128, "most")
        if isinstance(text, (bytes, bytearray)) or not isinstance(text, Sequence):
            raise expected("a str or a list of tokens", text, name="text")
        self._text = (
            text if isinstance(text, str) else [integer(token, 0, INT32_MAX, "a token of text") for token in text]
        )
        self._adapts = boolean(adapt, "adapt")

    def __repr__(self) -> str:
        return f"PromptLookup(n={self._n}, most={self._most})"

    def _start(self, ctx: Context) -> Guesser:
        return self._start_in_engine(ctx.getModel().vocab)

    def _start_in_engine(self, vocab: Vocab) -> Guesser:
        from llama_cffi.vocab.tokenize import tokenize

        text = self._text
        tokens = tokenize(vocab, text, addSpecial=False) if isinstance(text, str) else text
        if tokens and max(tokens) >= vocab.nTokens:
            raise no_such_token(max(tokens), vocab.nTokens)
        return LookupGuesser(self._n, tokens)


class LookupGuesser(Guesser):
    """Finds the places of one text where its last tokens stood before."""

    kinds = _RATES

    __slots__ = ("_n", "_place", "_places", "_text")

    def __init__(self, n: int, text: Sequence[Token]) -> None:
        self._n = n
        self._place = -1  # where the text probably goes on
        self._places: dict[tuple[Token, ...], list[int]] = {}  # n tokens -> the indexes of what followed them
        self._text: list[Token] = []
        self.add(text)

    def add(self, tokens: Sequence[Token]) -> None:
        text, n, places = self._text, self._n, self._places
        for token in tokens:
            if len(text) >= n:
                places.setdefault(tuple(text[-n:]), []).append(len(text))
            text.append(token)

    def find(self) -> int:
        """Look for the place with the longest match. Returns the kind of guess that it makes, -1 if there is none."""
        text, n = self._text, self._n
        self._place, longest = -1, 0
        for place in reversed(self._places.get(tuple(text[-n:]), ())[-_PLACES:]):
            length = self._matched(place)
            if length > longest:
                self._place, longest = place, length
                if length >= _LONGEST:
                    break
        return max([kind for kind, least in enumerate(_KINDS) if least <= longest], default=-1)

    def guess(self, count: int) -> list[Token]:
        """Return what stands at the place; from the end of the text on, what was guessed already."""
        text, place = self._text, self._place
        period = len(text) - place
        return [text[place + i % period] for i in range(count)]

    def _matched(self, place: int) -> int:
        """Return how many tokens before a place are the last ones of the text, at most 32."""
        text, end, length = self._text, len(self._text), self._n
        most = min(_LONGEST, place)
        while length < most and text[place - length - 1] == text[end - length - 1]:
            length += 1
        return length
