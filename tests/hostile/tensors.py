"""Falsified tensors, of models and adapters, and falsified splits."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import gguf

from tests.hostile.document import ARRAY, BOOL, FLOAT32, STRING, UINT32, UINT64, Document, Tensor, size_of

UINT16, INT32 = 2, 5
TYPES = (0, 1, 2, 4, 8, 10, 15, 16, 24, 26, 27, 28, 30, 34, 39, 41, 99, -1)
DIMS = (0, 1, 3, 31, 64, 1 << 20, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
SHIFTS = (1, -1, 32, -32, 1 << 20, 1 << 40, 1 << 63)
PATTERNS = {"zeros": b"\0\0\0\0", "ones": b"\xff\xff\xff\xff", "NaN": struct.pack("<f", float("nan"))}
PATTERNS |= {"infinity": struct.pack("<f", float("inf")), "large": struct.pack("<f", 3e38), "half": b"\0\x7c\0\xfc"}

Change = tuple[str, Callable[[Tensor], None]]


def tensors(rng: random.Random, good: Document) -> Iterator[tuple[str, Document]]:
    """Every tensor with other names, dimensions, types, offsets and numbers."""
    for i, tensor in enumerate(good.tensors):
        for what, change in _changes(rng, tensor):
            document = good.copy()
            change(document.tensors[i])
            yield f"{tensor.name.decode()} {what}", document
        document = good.copy()
        del document.tensors[i]
        yield f"{tensor.name.decode()} missing", document
        document = good.copy()
        document.tensors[i] = document.tensors[i - 1]
        yield f"{tensor.name.decode()} replaced by the one before", document
    document = good.copy()
    document.tensors.reverse()
    yield "tensors in another order", document
    for dims in ([4], [], [1, 1, 1, 1], [0]):
        document = good.copy()
        document.tensors.append(Tensor(b"surplus", dims, 0, bytes(size_of(dims, 0))))
        yield f"a tensor of {dims} too many", document


def _changes(rng: random.Random, tensor: Tensor) -> Iterator[Change]:
    def dims(new: list[int], fill: bool) -> Callable[[Tensor], None]:
        def change(t: Tensor) -> None:
            t.dims = new
            if fill and t.type >= 0 and all(0 <= n <= 1 << 20 for n in new):
                t.data = _repeated(t.data, size_of(new, t.type))

        return change

    def kind(new: int, fill: bool) -> Callable[[Tensor], None]:
        def change(t: Tensor) -> None:
            t.type = new
            if fill:
                t.data = _repeated(t.data, size_of(t.dims, new))

        return change

    place = rng.randrange(len(tensor.dims))
    for n in rng.sample(DIMS, 5):
        yield f"dimension {place} = {n}", dims([*tensor.dims[:place], n, *tensor.dims[place + 1 :]], False)
    others = ([*tensor.dims, 1, 1], [*tensor.dims, 2], tensor.dims[::-1], [2 * n for n in tensor.dims], [32], [])
    for new in others:
        if new != tensor.dims:
            yield f"dimensions {new}", dims(list(new), True)
    yield "five dimensions", dims([*tensor.dims, 1, 1, 1, 1][:5], False)
    for type in rng.sample(TYPES, 5):
        yield f"said to be of type {type}", kind(type, False)
        block = gguf.GGML_QUANT_SIZES.get(type, (0, 0))[0]  # type: ignore[call-overload]
        if block and tensor.dims[0] % block == 0:
            yield f"of type {type}", kind(type, True)
    for shift in rng.sample(SHIFTS, 3):
        yield f"shifted by {shift}", lambda t, shift=shift: setattr(t, "shift", shift)  # type: ignore[misc]
    for name in (b"", b"x" * 63, b"x" * 64, b"\xff", b"output.weight", tensor.name + b"x"):
        yield f"called {name[:20]!r}", lambda t, name=name: setattr(t, "name", name)  # type: ignore[misc]
    for what, pattern in PATTERNS.items():
        data = _repeated(pattern, len(tensor.data))
        yield f"full of {what}", lambda t, data=data: setattr(t, "data", data)  # type: ignore[misc]
    noise = rng.randbytes(len(tensor.data))
    yield "full of noise", lambda t: setattr(t, "data", noise)
    yield "half as long", lambda t: setattr(t, "data", t.data[: len(t.data) // 2])


def _repeated(data: bytes, size: int) -> bytes:
    return (data * (size // max(1, len(data)) + 1))[:size]


def adapters(rng: random.Random, good: Document) -> Iterator[tuple[str, Document]]:
    """What only adapters have: pairs of tensors, a rank, names of weights, tokens that invoke them."""
    rank = good.tensors[0].dims[1]
    for new_rank in (0, 1, 2 * rank):
        for i in range(0, 4, 2):
            document = good.copy()
            a, b = document.tensors[i], document.tensors[i + 1]
            a.dims, b.dims = [a.dims[0], new_rank], [new_rank, b.dims[1]]
            for t in (a, b):
                t.data = _repeated(t.data, size_of(t.dims, t.type))
            yield f"{a.name.decode()} of rank {new_rank}", document
    for depth in (2, 3):
        for which in ((0,), (1,), (0, 1)):
            document = good.copy()
            for i in which:
                t = document.tensors[i]
                t.dims, t.data = [*t.dims, depth], t.data * depth
            yield f"tensors {which} with {depth} layers", document
    for type in TYPES:
        block = gguf.GGML_QUANT_SIZES.get(type, (0, 0))[0]  # type: ignore[call-overload]
        if not block:
            continue
        for which in ((0,), (1,), (0, 1)):
            document = good.copy()
            for i in which:
                t = document.tensors[i]
                if t.dims[0] % block == 0:
                    t.type, t.data = type, _repeated(t.data, size_of(t.dims, type))
            yield f"tensors {which} of type {type}", document
    targets = (
        "token_embd output_norm output blk.0.attn_norm blk.0.ffn_norm blk.0.attn_output rope_freqs none blk.9.attn_q"
    )
    for target in targets.split():
        document = good.copy()
        for t, end in zip(document.tensors, (b"a", b"b"), strict=False):
            t.name = target.encode() + b".weight.lora_" + end
        yield f"tensors for {target}", document
        for n_in, n_out in ((32, 364), (364, 32), (32, 1), (1, 32), (32, 32)):
            document = document.copy()
            a, b = document.tensors[:2]
            a.dims, b.dims = [n_in, rank], [rank, n_out]
            for t in (a, b):
                t.data = _repeated(t.data, size_of(t.dims, 0))
            yield f"tensors of {n_in} and {n_out} for {target}", document
            a.dims, b.dims = [rank, n_in], [rank, n_out]
            yield f"tensors of {n_in} and {n_out} for {target}, the first one turned", document
    for name in (b".lora_a", b".lora_b", b"x.lora_a.lora_a", b"x_norm.weight", b"blk.0.attn_q.weight.lora_c"):
        document = good.copy()
        document.tensors[0].name = name
        yield f"a tensor called {name.decode()}", document
    for key, type, value in (
        ("adapter.lora.alpha", FLOAT32, float("nan")), ("adapter.lora.alpha", FLOAT32, 1e38),
        ("adapter.lora.alpha", UINT32, 8), ("adapter.lora.alpha", STRING, b"8"), ("adapter.type", STRING, b"cvec"),
        ("adapter.type", UINT32, 1), ("general.type", BOOL, True), ("general.architecture", UINT64, 7),
        ("general.architecture", STRING, b"gpt2"),
    ):  # fmt: skip
        yield f"{key} = {value!r}", good.copy().put(key, type, value)
    for tokens in ([], [0], [1 << 31], [(1 << 32) - 1] * 3, [7] * 100_000):
        document = good.copy().put("adapter.alora.invocation_tokens", ARRAY, tokens, UINT32)
        yield f"invoked by {len(tokens)} tokens {tokens[:1]}", document
    yield "invoked by texts", good.copy().put("adapter.alora.invocation_tokens", ARRAY, [b"x"], STRING)
    yield "invoked by a number", good.copy().put("adapter.alora.invocation_tokens", UINT32, 7)


def splits(good: Document) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """A model in two files, of which one lies about itself."""

    def two(first: tuple[int, object], second: tuple[int, object], count: int = 2, total: int = 0) -> tuple[bytes, ...]:
        parts = good.copy(), Document([], [])
        parts[1].tensors = parts[0].tensors[6:]
        del parts[0].tensors[6:]
        for part, number in zip(parts, (first, second), strict=True):
            part.put("split.count", UINT16, count).put("split.no", *number)
            part.put("split.tensors.count", INT32, len(good.tensors) + total)
        return tuple(part.encoded() for part in parts)

    first: tuple[int, object] = (UINT16, 0)
    yield "good", two(first, (UINT16, 1))
    for type, value in ((UINT16, 0), (UINT16, 2), (UINT16, 65_535), (UINT32, 1), (STRING, b"1"), (0, 1), (BOOL, True)):
        yield f"second says {value!r} in type {type}", two(first, (type, value))
        yield f"first says {value!r} in type {type}", two((type, value), (UINT16, 1))
    for count in (0, 1, 3, 65_535):
        yield f"{count} files", two(first, (UINT16, 1), count)
    for total in (-1, 1, -100):
        yield f"{total} tensors more", two(first, (UINT16, 1), total=total)
    good_first, good_second = two(first, (UINT16, 1))
    yield "no second", (good_first,)
    yield "the first twice", (good_first, good_first)
    yield "an empty second", (good_first, b"")
    for n in (20, 100, len(good_second) - 1):
        yield f"a second of {n} bytes", (good_first, good_second[:n])
