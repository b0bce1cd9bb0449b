"""How many tokens to guess: what a guess costs here, and how often guesses of this kind were right."""

from __future__ import annotations

_FADE = 0.96  # of what was seen of a kind, with each further guess of it
_FORGET = 0.985  # of what was seen of a kind, each time that it is not tried: it is tried again some day
_AGE = 0.97  # of the durations that were seen, with each further one
_SMOOTHING = 0.25  # weight of a new duration of guessing
_GAIN = 1.04  # times as fast as without guesses, at least: durations are noisy
_HOPE = 0.1  # what one more token of a batch costs until it is known, as a part of the first
_WEIGHT = 2.0  # of that assumption, as a sum of squares of batch sizes


class Pace:
    """Chooses how many tokens to guess, so that a second of computing writes the most tokens.

    The seconds of a decode are taken as a part for the batch and a part for each token: a straight line through the
    durations that were seen, of which the last 30 or so count.
    """

    __slots__ = ("_adapts", "_durations", "_guess_seconds", "_rates")

    def __init__(self, kinds: tuple[float, ...], adapts: bool = True) -> None:
        """`kinds` are the rates of right guesses that are assumed for each kind before any is seen.

        `adapts` False always chooses the most.
        """
        self._adapts = adapts
        self._rates = [[rate * 2, 2.0, rate] for rate in kinds]  # right guesses, all guesses, what was assumed
        self._durations = [0.0] * 5  # sums: of weights, tokens, seconds, squares of tokens, tokens times seconds
        self._guess_seconds = 0.0  # of making one guess

    def choose(self, most: int, kind: int) -> int:
        """Return how many tokens to guess, at most `most`."""
        if not self._adapts or most < 1:
            return max(most, 0)
        one, slope = self.cost()
        if not one:  # nothing to compare with yet
            return 0
        right, tried, _ = self._rates[kind]
        rate = right / tried
        slope += self._guess_seconds
        best, chosen, gain, chance = _GAIN / one, 0, 1.0, 1.0
        for count in range(1, most + 1):
            chance *= rate
            gain += chance
            speed = gain / (one + count * slope)
            if speed > best:
                best, chosen = speed, count
        return chosen

    def cost(self) -> tuple[float, float]:
        """Return the seconds of a decode of one token, and of each further token in its batch; 0 before any is seen."""
        weight, tokens, seconds, squares, products = self._durations
        if not weight:
            return 0.0, 0.0
        size, duration = tokens / weight, seconds / weight
        spread = squares - size * tokens
        together = products - size * seconds
        assumed = _HOPE * duration / (1 + _HOPE * (size - 1))
        slope = max((together + _WEIGHT * assumed) / (spread + _WEIGHT), 0.0)
        return max(duration - slope * (size - 1), duration / size), slope

    def took(self, tokens: int, seconds: float) -> None:
        """Note the seconds of a decode of this many tokens, with the sampling after it."""
        one, slope = self.cost()
        if one:
            seconds = min(seconds, 3 * (one + slope * (tokens - 1)))  # another program was in the way
        sums = self._durations
        for i, value in enumerate((1.0, tokens, seconds, tokens * tokens, tokens * seconds)):
            sums[i] = sums[i] * _AGE + value

    def guessing_took(self, tokens: int, seconds: float) -> None:
        """Note the seconds that it took to guess this many tokens."""
        if tokens:
            self._guess_seconds += _SMOOTHING * (seconds / tokens - self._guess_seconds)

    def judged(self, kind: int, right: int, wrong: int) -> None:
        """Note how many guesses were right before the first wrong one, and whether there was one (1 or 0)."""
        rate, fade = self._rates[kind], _FADE ** (right + wrong)
        rate[0] = rate[0] * fade + right
        rate[1] = rate[1] * fade + right + wrong
        self._fill(rate)

    def skipped(self, kind: int) -> None:
        """Note that a kind was not tried, because it does not pay: what is known of it becomes less certain."""
        rate = self._rates[kind]
        rate[0] *= _FORGET
        rate[1] *= _FORGET
        self._fill(rate)

    @staticmethod
    def _fill(rate: list[float]) -> None:
        """Replace what was forgotten by what was assumed at the start."""
        missing = 1.0 - rate[1]
        if missing > 0:
            rate[0] += missing * rate[2]
            rate[1] += missing
