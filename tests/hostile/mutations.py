"""Hostile files from good ones, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.hostile import media
from tests.hostile.document import Document, parse
from tests.hostile.metadata import metadata
from tests.hostile.state_bytes import states as falsified_states
from tests.hostile.tensors import adapters, splits, tensors


@dataclass(frozen=True)
class Case:
    """A hostile file, or the files of a split model, the first one first."""

    name: str
    kind: str
    base: str
    files: tuple[bytes, ...]


def cases(
    models: dict[str, bytes],
    adapter: bytes,
    states: dict[tuple[str, str], bytes],
    seed: int,
    projectors: dict[str, bytes] | None = None,
) -> Iterator[Case]:
    """Every case, in a fixed order."""
    for base, data in models.items():
        rng, good = random.Random(f"{seed}/{base}"), parse(data)
        for what, mutated in _gguf(rng, good):
            yield Case(f"{base}/{what}", "model", base, (mutated,))
    for what, files in splits(parse(models["llama"])):
        yield Case(f"split/{what}", "model", "llama", files)
    rng, good = random.Random(f"{seed}/adapter"), parse(adapter)
    for what, mutated in _gguf(rng, good):
        yield Case(f"adapter/{what}", "adapter", "llama", (mutated,))
    for what, document in adapters(rng, good):
        yield Case(f"adapter/{what}", "adapter", "llama", (document.encoded(),))
    for (base, kind), data in states.items():
        rng = random.Random(f"{seed}/{base}/{kind}")
        for what, mutated in falsified_states(rng, data):
            yield Case(f"{base}/{kind}/{what}", kind, base, (mutated,))
        stranger = "mamba" if base == "llama" else "llama"
        yield Case(f"{base}/{kind}/given to {stranger}", kind, stranger, (data,))
    for base, data in {**models, "adapter": adapter}.items():
        rng, good = random.Random(f"{seed}/gguf/{base}"), parse(data)
        for what, mutated in _gguf(rng, good):
            yield Case(f"gguf/{base}/{what}", "gguf", base, (mutated,))
    for what, files in splits(parse(models["llama"])):
        yield Case(f"gguf/split/{what}", "gguf", "llama", files)
    if projectors is not None:
        yield from media_cases(seed, projectors)


def media_cases(seed: int, projectors: dict[str, bytes]) -> Iterator[Case]:
    """The cases of projectors, images and sounds."""
    for name, base, mutated in media.projectors(projectors, seed, _gguf):
        yield Case(f"projector/{name}", "projector", base, (mutated,))
    for name, base, mutated in media.files(seed):
        yield Case(f"media/{name}", "media", base, (mutated,))


def _gguf(rng: random.Random, good: Document) -> Iterator[tuple[str, bytes]]:
    """Mutations that any GGUF file may have."""
    data = good.encoded()
    yield "good", data
    yield from _cut(data, [*good.marks, *(rng.choice(good.marks) + rng.choice((-1, 1, 9)) for _ in range(10))])
    yield from _flipped(rng, data, good.marks)
    for what, document in (*metadata(rng, good), *tensors(rng, good)):
        yield what, document.encoded()


def _cut(data: bytes, places: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    for place in sorted({place for place in places if 0 <= place < len(data)} | {len(data) - 1}):
        yield f"cut at {place}", data[:place]


def _flipped(rng: random.Random, data: bytes, marks: list[int], n: int = 16) -> Iterator[tuple[str, bytes]]:
    """Bits and bytes: in the header, beside every mark, and anywhere."""
    places = [*range(0, 24), *(mark + rng.randrange(24) for mark in rng.sample(marks, min(n, len(marks))))]
    places += [rng.randrange(len(data)) for _ in range(n)]
    for place in places:
        if place < len(data):
            bit = rng.randrange(8)
            yield f"bit {bit} of {place}", _with(data, place, bytes([data[place] ^ 1 << bit]))
    for _ in range(n):
        place, value = rng.randrange(len(data) - 8), rng.choice((b"\0", b"\xff", b"\x80", b"\x7f"))
        width = rng.choice((1, 4, 8))
        yield f"{width} bytes {value.hex()} at {place}", _with(data, place, value * width)
    for a, b in ((0.1, 0.3), (0.3, 0.5), (0.5, 1.0)):
        at, end = int(len(data) * a), int(len(data) * b)
        yield f"noise from {at}", data[:at] + rng.randbytes(end - at) + data[end:]


def _with(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]
