"""How many tokens to guess: what a guess costs here, and how often guesses of this kind were right."""

from __future__ import annotations

_FADE = 0.96  # of what was seen, with each further guess of the same kind
_FORGET = 0.985  # of what was seen, each time that a kind is not tried: it is tried again some day
_DOUBT = 0.997  # of what larger batches cost, each time that none is tried
_SMOOTHING = 0.25  # weight of a new duration
_GAIN = 1.03  # guessing must pay by so much: durations are noisy
_HOPE = 0.1  # what one more token of a batch costs until it is known, as a part of the first


class Pace:
    """Chooses how many tokens to guess, so that a second of computing writes the most tokens.

    `kinds` are the rates of right guesses that are assumed for each kind before any is seen. `adapts` False always
    chooses the most.
    """

    __slots__ = ("_adapts", "_guess_seconds", "_rates", "_seconds")

    def __init__(self, kinds: tuple[float, ...], adapts: bool = True) -> None:
        self._adapts = adapts
        self._rates = [[rate * 2, 2.0, rate] for rate in kinds]  # right guesses, all guesses, what was assumed
        self._seconds: dict[int, float] = {}  # of a decode of so many tokens
        self._guess_seconds = 0.0  # of making one guess

    def choose(self, most: int, kind: int) -> int:
        """Return how many tokens to guess, at most `most`."""
        if not self._adapts or most < 1:
            return max(most, 0)
        if 1 not in self._seconds:  # nothing to compare with yet
            return 0
        right, tried, _ = self._rates[kind]
        rate = right / tried
        alone = best = 1 / self.cost(1)
        chosen, gain, chance = 0, 1.0, 1.0
        for count in range(1, most + 1):
            chance *= rate
            gain += chance
            speed = gain / (self.cost(1 + count) + count * self._guess_seconds)
            if speed > best:
                best, chosen = speed, count
        return chosen if best > alone * _GAIN else 0

    def cost(self, tokens: int) -> float:
        """Return the seconds that a decode of so many tokens takes, estimated from the sizes that were seen."""
        seconds = self._seconds
        known = seconds.get(tokens)
        if known is not None:
            return known
        below = max([size for size in seconds if size < tokens])  # 1 is always there
        above = min([size for size in seconds if size > tokens], default=0)
        if above:
            part = (tokens - below) / (above - below)
            return seconds[below] + part * (seconds[above] - seconds[below])
        slope = (seconds[below] - seconds[1]) / (below - 1) if below > 1 else _HOPE * seconds[1]
        return seconds[below] + max(slope, 0.0) * (tokens - below)

    def took(self, tokens: int, seconds: float) -> None:
        """Note how long a decode of so many tokens took, and the sampling after it."""
        known = self._seconds.get(tokens)
        if known is None:
            self._seconds[tokens] = seconds
            return
        new = known + _SMOOTHING * (min(seconds, 3 * known) - known)
        shared = (new / known) ** 0.5  # the machine became slower or faster, the text longer: for all sizes alike
        self._scale(shared)
        self._seconds[tokens] = new

    def guessing_took(self, tokens: int, seconds: float) -> None:
        """Note how long it took to guess so many tokens."""
        if tokens:
            self._guess_seconds += _SMOOTHING * (seconds / tokens - self._guess_seconds)

    def judged(self, kind: int, right: int, wrong: int) -> None:
        """Note how many guesses were right before the first wrong one, and whether there was one."""
        rate = self._rates[kind]
        for _ in range(right + wrong):
            rate[0] *= _FADE
            rate[1] *= _FADE
        rate[0] += right
        rate[1] += right + wrong
        self._floor(rate)

    def skipped(self, kind: int) -> None:
        """Note that a kind was not tried, because it does not pay: what is known of it becomes less certain."""
        rate = self._rates[kind]
        rate[0] *= _FORGET
        rate[1] *= _FORGET
        self._floor(rate)
        self._scale(_DOUBT, first=2)

    def _scale(self, factor: float, first: int = 1) -> None:
        """Change the estimates of all sizes from `first` on; a larger batch never takes less than a single token."""
        least = self._seconds.get(1, 0.0) if first > 1 else 0.0
        for size in self._seconds:
            if size >= first:
                self._seconds[size] = max(self._seconds[size] * factor, least)

    @staticmethod
    def _floor(rate: list[float]) -> None:
        """Fill what was forgotten with what was assumed at the start."""
        missing = 1.0 - rate[1]
        if missing > 0:
            rate[0] += missing * rate[2]
            rate[1] += missing
