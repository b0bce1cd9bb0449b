"""Hostile projector files (mmproj), images and sounds, and what is done with them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llama_cffi import Context, Model, Mtmd
from tests import tiny_projectors
from tests.hostile import bases
from tests.hostile.document import parse
from tests.mtmd import samples

# Projector -> the model that it is for.
PROJECTORS = {"llava": "llama", "gemma3": "llama", "ultravox": "llama", "merger": "qwen2vl"}
_WRITERS = {"llava": "llava", "gemma3": "gemma3", "ultravox": "ultravox", "merger": "qwen2vl"}
_SIZES = [(1, 1), (1, 300), (300, 1), (2, 3), (28, 28), (97, 53), (640, 20)]  # height, width
_WORDS = (0, 1, 2, 3, 7, 13, 255, 1 << 10, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def write_projectors(folder: Path) -> dict[str, bytes]:
    """Write a small projector of each kind; return the bytes of each, by name."""
    found = {}
    for name, writer in _WRITERS.items():
        path = folder / f"{name}.mmproj"
        getattr(tiny_projectors, f"write_{writer}")(path, bases.SMALL["n_embd"], n_embd=16, n_ff=16)
        found[name] = path.read_bytes()
    return found


def projectors(
    good: dict[str, bytes], seed: int, mutate: Callable[..., Iterator[tuple[str, bytes]]]
) -> Iterator[tuple[str, str, bytes]]:
    """Mutations of projector files: name, base, bytes. `mutate` makes those that any GGUF file may have."""
    for base, data in good.items():
        rng, document = random.Random(f"{seed}/projector/{base}"), parse(data)
        for what, mutated in mutate(rng, document):
            # Each takes a child process; and llama.cpp looks at neither architecture nor tokenizer.
            if rng.random() < (0.02 if what.startswith("architecture ") else 0.3) or what == "good":
                yield f"{base}/{what}", base, mutated
        numbers = [entry for entry in document.entries if entry.type in (4, 5, 6)]
        for i in range(300):
            changed = document.copy()
            for entry in rng.sample(numbers, rng.choice((1, 2, 2, 3))):
                value = rng.choice(_WORDS) if entry.type != 6 else rng.choice((0.0, -1.0, 1e30, float("nan")))
                changed.put(entry.key.decode(), entry.type, value)
            yield f"{base}/numbers {i}", base, changed.encoded()


def files(seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Damaged images and sounds: name, base (the projector that takes it), bytes."""
    for name, data in samples.files().items():
        base = "ultravox" if name.startswith("sound") else "llava"
        rng = random.Random(f"{seed}/media/{name}")
        yield f"{name}/good", base, data
        for place in sorted({rng.randrange(len(data)) for _ in range(12)}):
            yield f"{name}/cut at {place}", base, data[:place]
        for i in range(60):
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 8, 40))):
                place = rng.randrange(min(len(data), rng.choice((32, 64, 256, 1 << 20))))
                changed[place] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
            yield f"{name}/bytes {i}", base, _repaired(bytes(changed))
        for i in range(20):
            changed = bytearray(data)
            at = rng.randrange(min(len(data) - 4, 64))
            form = rng.choice(("<I", ">I", "<H", ">H"))
            struct.pack_into(form, changed, at, rng.choice(_WORDS) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
            yield f"{name}/word {i}", base, _repaired(bytes(changed))


def _repaired(data: bytes) -> bytes:
    """A PNG file with right checksums, which other decoders than stb_image compare."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + data[at:]


# What is done with them


def use_projector(
    step: Callable[[str], object], model: Model, file: Path, warmup: bool, untrusted: bool = True
) -> None:
    """Load a projector, encode images and sounds, and decode what comes of it."""
    with step("capabilities"):  # type: ignore[attr-defined]
        Mtmd.capabilities(file)
    given = params(warmup)
    with step("load"), Mtmd.Context.initFromFile(file, model, given, untrusted=untrusted) as made:  # type: ignore[attr-defined]
        repr(made)
        rng = np.random.default_rng(1)
        if made.supportVision():
            for height, width in _SIZES:
                with step(f"image of {height} x {width}"):  # type: ignore[attr-defined]
                    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                    _evaluate(made, model, Mtmd.Bitmap.fromImage(pixels))
        if made.supportAudio():
            for seconds in (0.01, 0.5, 31.0):
                with step(f"sound of {seconds} s"):  # type: ignore[attr-defined]
                    _evaluate(made, model, Mtmd.Bitmap.fromAudio(samples.tone(seconds)))


def use_file(step: Callable[[str], object], made: Mtmd.Context, file: Path) -> None:
    """Decode an image or a sound, and evaluate it."""
    with step("decode"):  # type: ignore[attr-defined]
        with Mtmd.Bitmap.fromFile(made, file) as bitmap:
            bitmap.data.nbytes  # noqa: B018
            if bitmap.width * bitmap.height < 1 << 20:
                _evaluate(made, made.getModel(), bitmap)


def params(warmup: bool = False) -> Mtmd.Context.Params:
    return Mtmd.Context.Params(nThreads=2, useGpu=False, warmup=warmup)


def _evaluate(made: Mtmd.Context, model: Model, bitmap: Mtmd.Bitmap) -> None:
    with (
        bitmap,
        made.tokenize("a <__media__> b", [bitmap]) as chunks,
        Context.initFromModel(model, Context.Params(nCtx=512, nThreads=2, nThreadsBatch=2)) as ctx,
    ):
        made.evalChunks(ctx, chunks)
        bytes(ctx.getLogitsIth(-1))
