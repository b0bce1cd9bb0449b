"""How many tokens to guess: what a guess costs here, and how often guesses of this kind were right."""

from __future__ import annotations

_FADE = 0.96  # of what was seen of a kind, with each further guess of it
_FORGET = 0.985  # of what was seen of a kind, each time that it is not tried: it is tried again some day
_AGE = 0.97  # of the durations that were seen, with each further one
_SMOOTHING = 0.25  # weight of a new duration of guessing
_GAIN = 1.04  # times as fast as without guesses, at least: durations are noisy
_HOPE = 0.1  # what one more token of a batch costs until it is known, as a part of the first
_WEIGHT = 2.0  # of that assumption, as a sum of squares of batch sizes
_BURDEN = 1.05  # times as long as without guesses, at most: decodes that are shared with other texts


class Cost:
    """How long decodes of each size take: a part for the batch and a part for each token.

    It is a straight line through the durations that were seen, of which the last 30 or so count.
    """

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums = [0.0] * 5  # of weights, tokens, seconds, squares of tokens, tokens times seconds

    def line(self) -> tuple[float, float]:
        """Return the seconds of a decode of one token, and of each further token in its batch; 0 before any is seen."""
        weight, tokens, seconds, squares, products = self._sums
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
        one, slope = self.line()
        if one:
            seconds = min(seconds, 3 * (one + slope * (tokens - 1)))  # another program was in the way
        sums = self._sums
        for i, value in enumerate((1.0, tokens, seconds, tokens * tokens, tokens * seconds)):
            sums[i] = sums[i] * _AGE + value


class Pace:
    """Chooses how many tokens to guess, so that a second of computing writes the most tokens."""

    __slots__ = ("_adapts", "_cost", "_guess_seconds", "_rates")

    def __init__(self, kinds: tuple[float, ...], adapts: bool = True, cost: Cost | None = None) -> None:
        """`kinds` are the rates of right guesses that are assumed for each kind before any is seen.

        `adapts` False always chooses the most. `cost` is what is known of decodes of the same context.
        """
        self._adapts, self._cost = adapts, cost or Cost()
        self._rates = [[rate * 2, 2.0, rate] for rate in kinds]  # right guesses, all guesses, what was assumed
        self._guess_seconds = 0.0  # of making one guess

    def choose(self, most: int, kind: int, others: int = 0, guesses: int = 0) -> int:
        """Return how many tokens to guess, at most `most`.

        `others` is the number of other texts that wait for the decode, `guesses` how many tokens they guess in it.
        The decode may take at most 5 % longer than without any guesses then.
        """
        if not self._adapts or most < 1:
            return max(most, 0)
        one, slope = self._cost.line()
        if not one:  # nothing to compare with yet
            return 0
        right, tried, _ = self._rates[kind]
        rate = right / tried
        plain = one + others * slope
        start = plain + guesses * slope
        slope += self._guess_seconds
        best, chosen, gain, chance = _GAIN / start, 0, 1.0, 1.0
        for count in range(1, most + 1):
            chance *= rate
            gain += chance
            seconds = start + count * slope
            if others and seconds > _BURDEN * plain:
                break
            if gain / seconds > best:
                best, chosen = gain / seconds, count
        return chosen

    def took(self, tokens: int, seconds: float) -> None:
        """Note the seconds of a decode of this many tokens, with the sampling after it."""
        self._cost.took(tokens, seconds)

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
