"""Finds the first of several strings in a text that comes in pieces, looking at each character once."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """The automaton of Aho and Corasick: a state for every beginning of a string, 0 for none.

    `state` is the longest beginning that the text so far ends with. Of all strings the one is found that is complete
    first, and of those the longest, however the text is cut into pieces.
    """

    __slots__ = ("_depths", "_edges", "_fails", "_firsts", "_found", "state")

    def __init__(self, strings: Iterable[str]) -> None:
        if isinstance(strings, (str, bytes)):
            raise TypeError(f"stop is a list of strings: write stop=[{strings!r}]")
        if not isinstance(strings, Iterable):
            raise TypeError(f"stop is a list of strings, not {type(strings).__name__}")
        self._edges: list[dict[str, int]] = [{}]
        self._depths = [0]
        self._found: list[str | None] = [None]
        for string in strings:
            self._add(string)
        self._fails = [0] * len(self._edges)
        self._link()
        self._firsts = frozenset(self._edges[0])
        self.state = 0

    def _add(self, string: str) -> None:
        if not isinstance(string, str):
            raise TypeError(f"a stop string is a str, not {type(string).__name__}; tokens go to stopTokens")
        if not string:
            raise ValueError("a stop string is empty, and would end every text at once: leave it out")
        state = 0
        for char in string:
            after = self._edges[state].get(char)
            if after is None:
                after = self._edges[state][char] = len(self._edges)
                self._edges.append({})
                self._depths.append(self._depths[state] + 1)
                self._found.append(None)
            state = after
        self._found[state] = string

    def _link(self) -> None:
        """For every state, where to go on when no edge fits: the longest beginning that ends it; the shortest first."""
        level = list(self._edges[0].values())
        while level:
            following = []
            for state in level:
                for char, after in self._edges[state].items():
                    fail = self._after(self._fails[state], char)
                    self._fails[after] = fail
                    if self._found[after] is None:
                        self._found[after] = self._found[fail]
                    following.append(after)
            level = following

    def _after(self, state: int, char: str) -> int:
        while True:
            after = self._edges[state].get(char)
            if after is not None:
                return after
            if not state:
                return 0
            state = self._fails[state]

    def __bool__(self) -> bool:
        """Whether there is a string at all."""
        return len(self._edges) > 1

    @property
    def partial(self) -> int:
        """How many characters at the end of the text may be the beginning of a string."""
        return self._depths[self.state]

    def search(self, text: str) -> tuple[str, int] | None:
        """Go on with a piece of text. Returns the string that became complete in it, and where it ends; or None."""
        state = self.state
        if not state and self._firsts.isdisjoint(text):
            return None
        for end, char in enumerate(text, 1):
            state = self._after(state, char)
            found = self._found[state]
            if found is not None:
                self.state = 0
                return found, end
        self.state = state
        return None
