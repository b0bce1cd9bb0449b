"""Searches streamed text for several strings at once (Aho-Corasick), processing each character once."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cffi._core.checks import expected


class StopStrings:
    """An Aho-Corasick automaton. Each state is a prefix of a string; state 0 is the empty one.

    `state` is the longest prefix that the text so far ends with. The string that is complete first is found, and the
    longest if several end at the same character; how the text is cut into pieces makes no difference.
    """

    __slots__ = ("_depths", "_edges", "_fails", "_firsts", "_found", "state")

    def __init__(self, strings: Iterable[str]) -> None:
        if isinstance(strings, (str, bytes)):
            raise expected("a list of strings", strings, f"write stop=[{strings!r}]", "stop")
        if not isinstance(strings, Iterable):
            raise expected("a list of strings", strings, name="stop")
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
            raise expected("a str", string, "tokens go to stopTokens", "a stop string")
        if not string:
            raise ValueError("a stop string is empty, which would end every text at once: leave it out")
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
        """Set the failure link of every state: its longest proper suffix that is a prefix of a string.

        Goes level by level, because links lead to shorter prefixes.
        """
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
        """True if there are any strings."""
        return len(self._edges) > 1

    @property
    def partial(self) -> int:
        """The number of characters at the end of the text that may be the start of a string."""
        return self._depths[self.state]

    def search(self, text: str) -> tuple[str, int] | None:
        """Search the next piece of text. Returns the string found and the index in the piece where it ends, or None."""
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
