"""Chooses by measurement how to decode a few sequences: in one batch, or one after another."""

from __future__ import annotations

_FEW = 8  # more sequences are always decoded together
_RETRY_STEPS = 256  # after that many steps the other way is measured again
_GAIN = 0.9  # decoding separately must take less than this share of the time


class BatchPolicy:
    """Measures both ways and picks the faster one.

    One batch should be faster, because the weights are read once for all. But for some formats the kernels for several
    tokens are so much slower than those for one that two or three tokens are faster alone. (Q8_0 and Q5_0 on x86 CPUs:
    one token took 12 ms, two together 44 ms.)
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # of a decode, by its number of sequences
        self._step = 0

    def decode_separately(self, width: int) -> bool:
        """True if the next token of `width` sequences should be decoded one sequence at a time."""
        if not 2 <= width <= _FEW:
            return False
        together, alone = self._seconds.get(width), self._seconds.get(1)
        if together is None or alone is None:
            return together is not None
        self._step += 1
        return (width * alone < _GAIN * together) != (self._step % _RETRY_STEPS == 0)

    def note(self, width: int, seconds: float) -> None:
        """Record the time of a decode. A faster time counts at once, slower ones gradually."""
        if width <= _FEW:
            known = self._seconds.get(width)
            self._seconds[width] = seconds if known is None else min(seconds, 1.05 * known)
