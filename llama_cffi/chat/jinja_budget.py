"""What the rendering of a chat template may use: steps, CPU time, and the size of texts and lists."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from jinja2.utils import Namespace

MAX_STEPS = 2_000_000
MAX_SECONDS = 10  # of CPU time
MAX_TEXT = 1 << 25  # characters of one text
MAX_ITEMS = 1 << 20  # items of one list, those in inner lists included
MAX_MADE = 1 << 28  # characters of all texts that a rendering makes,
PER_INPUT = 256  # and as many more for each character of the messages
MAX_WIDTH = 10_000  # columns to pad or indent to, and digits
MAX_BITS = 1 << 14  # of a whole number

_local = threading.local()


class LimitError(ValueError):
    """A template does more than it may."""


class Budget:
    """What a rendering has used."""

    def __init__(self, given: int) -> None:
        self.steps = 0
        self.made = 0
        self.most = MAX_MADE + PER_INPUT * given
        self.end = time.thread_time() + MAX_SECONDS

    def step(self) -> None:
        """Count a step."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise LimitError(f"it takes more than {MAX_STEPS:,} steps")
        if self.steps % 64 == 0:
            self.check_time()

    def check_time(self) -> None:
        """Raise LimitError after the time limit."""
        if time.thread_time() > self.end:
            raise LimitError(f"it takes more than {MAX_SECONDS} s")

    def make(self, size: int) -> None:
        """Count a text of `size` characters."""
        if size > MAX_TEXT:
            raise LimitError(f"it makes a text of {size:,} characters, and the limit is {MAX_TEXT:,}")
        self.made += size
        if self.made > self.most:
            raise LimitError(f"it makes texts of more than {self.most:,} characters")


class Rendering:
    """Context manager: the budget of a rendering on this thread. `given` are the characters of the messages."""

    def __init__(self, given: int) -> None:
        self._new = Budget(given)

    def __enter__(self) -> None:
        self._before = getattr(_local, "budget", None)
        _local.budget = self._new

    def __exit__(self, *exception: object) -> None:
        _local.budget = self._before


def budget() -> Budget:
    """The budget of the rendering on this thread."""
    found: Budget = _local.budget
    return found


# Sizes


def _parts(value: Any) -> Iterable[Any] | None:
    """What a value contains that its text spells out; None for a value without parts."""
    if isinstance(value, Mapping):
        return (part for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, (type({}.values()), type({}.items()))):
        return value
    if isinstance(value, Namespace):
        return _parts(value._Namespace__attrs)
    return None


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """A value and all its parts, each with its depth."""
    todo = [iter((value,))]
    while todo:
        for part in todo[-1]:
            yield part, len(todo)
            inner = _parts(part)
            if inner is not None:
                todo.append(iter(inner))
                break
        else:
            todo.pop()


def characters(value: Any) -> int:
    """About how many characters a value has; of a very large one, the first."""
    return sum(len(part) for part, _ in islice(_walk(value), MAX_ITEMS) if isinstance(part, str))


def measure(*values: Any, indent: int = 0) -> int:
    """Return how many characters values have as text. Raises LimitError if they are too large or contain themselves."""
    items = size = 0
    for part, depth in _walk(values):
        items += 1
        size += 4 + indent * depth
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, int) and part.bit_length() > MAX_BITS:
            raise LimitError(f"it makes a number of {part.bit_length():,} bits, and the limit is {MAX_BITS:,}")
        if items > MAX_ITEMS:
            raise LimitError(f"it makes a list of more than {MAX_ITEMS:,} items")
        if size > MAX_TEXT:
            raise LimitError(f"it makes a text of more than {MAX_TEXT:,} characters")
    if items > 1000:
        budget().check_time()
    return size


def is_simple(value: Any) -> bool:
    return value is None or isinstance(value, (bool, float, str)) or (isinstance(value, int) and abs(value) < 1 << 64)


def made(value: Any) -> Any:
    """Count a value that a template has made: a list or a text."""
    if isinstance(value, str):
        budget().make(len(value))
    elif not is_simple(value):
        budget().make(measure(value))
    return value


def join(parts: Iterable[str]) -> str:
    """Join texts, as the output of a template or of a block in it."""
    texts, size, used = [], 0, budget()
    for text in parts:
        used.step()
        size += len(text)
        if size > MAX_TEXT:
            used.make(size)
        texts.append(text)
    used.make(size)
    return "".join(texts)


def text_of(value: Any) -> Any:
    """Check a value that is about to become text."""
    if not is_simple(value):
        measure(value)
    return value


# What code of templates is changed to


def concat(*parts: Any) -> str:
    """The operator ~."""
    return join([part if isinstance(part, str) else str(text_of(part)) for part in parts])


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, whole: item in whole,
    "notin": lambda item, whole: item not in whole,
}


def comparable(left: Any, right: Any) -> None:
    """Check two values that are about to be compared."""
    if not (is_simple(left) or is_simple(right)):
        measure(left, right)


def compared(left: Any, *pairs: Any) -> Any:
    """A comparison, such as `a < b < c`: `pairs` are operators and operands."""
    result: Any = True
    for name, right in zip(pairs[::2], pairs[1::2], strict=True):
        comparable(left, right)
        result = _COMPARE[name](left, right)
        if not result:
            break
        left = right
    return result


def step() -> None:
    """A turn of a loop or the beginning of a macro: the call of this function is the step."""
