"""Falsified states: cells, positions, lengths, and flips everywhere."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

WORDS = (0, 1, 2, 19, 21, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF)


def states(rng: random.Random, good: bytes, n_words: int = 90) -> Iterator[tuple[str, bytes]]:
    """Mutations of a state. What says how the rest is read stands at its beginning: there, every word is falsified."""
    yield "good", good
    head = min(len(good) - 4, 4 * n_words)
    for place in range(0, head, 4):
        (word,) = struct.unpack_from("<I", good, place)
        values = {*rng.sample(WORDS, 2), (word + 1) & 0xFFFFFFFF, (word - 1) & 0xFFFFFFFF} - {word}
        for value in sorted(values):
            yield f"word {value:#x} at {place}", good[:place] + struct.pack("<I", value) + good[place + 4 :]
    for _ in range(20):
        place = rng.randrange(len(good))
        bit = rng.randrange(8)
        yield f"bit {bit} of {place}", good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
    for place in sorted({*rng.sample(range(head), 20), *rng.sample(range(len(good)), 10), len(good) - 1}):
        yield f"cut at {place}", good[:place]
    for size in (1, 4, 100, 1 << 20):
        yield f"{size} bytes more", good + bytes(size)
    yield "twice", good * 2
    yield "noise", rng.randbytes(len(good))
    for place in (12, 24, 40, 100):
        yield f"noise from {place}", good[:place] + rng.randbytes(len(good) - place)
    yield "zeros", bytes(len(good))
    yield "ones", b"\xff" * len(good)
    yield from _positions(good)


def _positions(good: bytes) -> Iterator[tuple[str, bytes]]:
    """All positions of the cells at once: they stand at regular distances, each one more than the one before."""
    for stride in (8, 12, 20, 24):
        found = _run(good, stride)
        if found is None:
            continue
        start, n = found
        for what, position in POSITIONS.items():
            data = bytearray(good)
            for i in range(n):
                struct.pack_into("<i", data, start + i * stride, position(i))
            yield f"positions {what}", bytes(data)
        return


POSITIONS = {
    "-1": lambda i: -1,
    "all 0": lambda i: 0,
    "all the same": lambda i: 5,
    "negative": lambda i: -100 + i,
    "the lowest": lambda i: -(1 << 31) + i,
    "the highest": lambda i: (1 << 31) - 1 - i,
    "from lowest to highest": lambda i: (1 << 31) - 1 if i % 2 else -(1 << 31),
    "far apart": lambda i: i * 100_000_000,
    "beyond the trained": lambda i: 1000 + i,
    "reversed": lambda i: 19 - i,
}


def _run(data: bytes, stride: int, n: int = 20) -> tuple[int, int] | None:
    for start in range(0, min(400, len(data) - n * stride), 4):
        if all(struct.unpack_from("<i", data, start + i * stride)[0] == i for i in range(n)):
            return start, n
    return None
