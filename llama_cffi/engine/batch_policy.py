"""Whether a few sequences are decoded faster together or one by one."""

from __future__ import annotations

_FEW = 8  # more than that are always decoded together
_AGAIN = 256  # steps after which the other way is tried anew
_GAIN = 0.9  # what one by one must save


class Pace:
    """Measures both ways, and takes the faster one.

    Together should be faster, for the weights are read once for all. But the kernels of some formats that take several
    tokens are so much slower than those for one that two or three tokens cost less alone. (Q8_0 and Q5_0 on CPUs of the
    x86 family: a token took 12 ms, two of them 44 ms together.)
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # of a decode, by how many sequences get a token
        self._step = 0

    def isApart(self, width: int) -> bool:
        """Whether so many sequences should now be decoded one by one."""
        if not 2 <= width <= _FEW:
            return False
        together, alone = self._seconds.get(width), self._seconds.get(1)
        if together is None or alone is None:
            return together is not None
        self._step += 1
        return (width * alone < _GAIN * together) != (self._step % _AGAIN == 0)

    def note(self, width: int, seconds: float) -> None:
        """A decode took so long. What was faster than before counts at once, what was slower little by little."""
        if width <= _FEW:
            known = self._seconds.get(width)
            self._seconds[width] = seconds if known is None else min(seconds, 1.05 * known)
